"""The page in a real browser: quiet, offline, sortable, linked, readable in both colour schemes."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from cad.reports import CellResult, Provenance, SourceCurve, write_report
from cad.schema import ReportConfig

Chromium = Any  # of this folder's conftest.py
PICTURES = Path(__file__).parents[3] / "build/screenshots"
MARKUP = '</style></script><img src=x onerror="window.stolen=1"><b onclick=y> \'"&amp; ${1} </td>'


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory, make_cell: Callable[..., CellResult], origin: Provenance,
    source: SourceCurve,
) -> Path:  # fmt: skip
    """A report with hostile names, a failed and a missing cell, and every kind of figure."""
    shape = (8, 2, 12)
    cells = [
        make_cell(0.7, kind="ad", window=80, shape=shape, label=MARKUP, arm=MARKUP),
        make_cell(0.9, depth=1, n_latent=4, shape=shape),
        make_cell(0.95, depth=3, n_latent=4, shape=shape),
        make_cell(0.8, depth=1, n_latent=16, shape=shape),
        make_cell(0.8, depth=3, n_latent=16, status=f"failed: {MARKUP}", returns=None),
        make_cell(0.8, depth=3, n_latent=16, seed=1, status="missing", returns=None, metrics=None),
    ]
    folder = tmp_path_factory.mktemp("report")
    settings = ReportConfig(title=f"Depth and latents {MARKUP}", question=MARKUP)
    return write_report("shown", settings, cells, source, origin, folder)


@pytest.fixture
def opened(browser: Chromium, page: Path) -> Iterator[Chromium]:
    browser.problems.clear()
    browser.open(page.as_uri())
    yield browser
    assert browser.problems == []


def column(browser: Chromium, number: int) -> list[str]:
    actual = browser.js(
        f"[...document.querySelectorAll('#results tbody tr')].map(row => row.cells[{number}].innerText)"
    )
    assert isinstance(actual, list)
    return actual


def test_names_are_text(opened: Chromium) -> None:
    assert opened.js("window.stolen") is None
    assert opened.js("document.querySelectorAll('img, b, [onclick], [onerror]').length") == 0
    assert MARKUP in opened.js("document.querySelector('h1').innerText")
    assert MARKUP in opened.js("document.querySelector('.notices').innerText")
    assert MARKUP in column(opened, 0)


def test_tables_sort_by_mouse_and_keyboard(opened: Chromium) -> None:
    before = column(opened, 4)
    assert len(before) == 5 and before != sorted(before)
    opened.click("#results th:nth-child(5) button")
    known = sorted((text for text in before if text != "-"), reverse=True)
    assert column(opened, 4) == [*known, "-"]  # unknown last, both ways
    assert opened.js("document.querySelector('#results th:nth-child(5)').ariaSort") == "descending"
    opened.js("document.querySelector('#results th:nth-child(5) button').focus()")
    opened.key("Enter")
    assert column(opened, 4) == [*known[::-1], "-"]
    assert opened.js("document.querySelector('#results th:nth-child(5)').ariaSort") == "ascending"
    opened.click("#results th:nth-child(1) button")  # text
    assert column(opened, 0)[0].startswith("CompressedAD, depth 3, 16")
    # the tab key goes from one heading to the next
    opened.key("Tab")
    assert opened.js("document.activeElement.closest('th').cellIndex") == 1


def test_anchors_arrive(opened: Chromium) -> None:
    anchors = opened.js("[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href'))")
    figures = opened.js("[...document.querySelectorAll('figure')].map(figure => '#' + figure.id)")
    assert len(figures) >= 6 and set(figures) < set(anchors)
    for anchor in anchors:
        opened.js(f"document.querySelector('a[href=\"{anchor}\"]').click()")
        assert opened.js("location.hash") == anchor
        place = f"document.getElementById('{anchor[1:]}').getBoundingClientRect().top"
        at_end = "innerHeight + scrollY >= document.documentElement.scrollHeight - 2"
        assert abs(opened.js(place)) < 5 or opened.js(at_end), anchor


def test_values_under_the_pointer_and_at_the_arrow_keys(opened: Chromium) -> None:
    plot = "#figure-learning .plot"
    said = f"document.querySelector('{plot} .value')"
    opened.js(f"document.querySelector('{plot}').focus()")
    assert opened.js(f"{said}.hidden")
    opened.key("ArrowRight")
    first = opened.js(f"{said}.innerText")
    assert re.search(r"episode in context: 1\nreturn / optimum: \d", first)
    opened.key("ArrowRight")
    assert "episode in context: 2\n" in opened.js(f"{said}.innerText")
    before = opened.js(f"{said}.innerText")
    opened.key("ArrowDown")  # the same episode of the next line
    after = opened.js(f"{said}.innerText")
    assert "episode in context: 2\n" in after and after != before
    assert opened.js(f"{said}.getAttribute('aria-live')") == "polite"
    opened.key("Escape")
    assert opened.js(f"{said}.hidden")
    # the pointer finds the very point that the keys told of
    opened.js(f"document.querySelector('{plot}').scrollIntoView({{ block: 'center', behavior: 'instant' }})")
    x, y, wanted = opened.js(
        f"""(() => {{ const plot = document.querySelector('{plot}'), svg = plot.querySelector('svg');
        const [px, py, , value] = JSON.parse(plot.dataset.points)[0].points[5];
        const at = new DOMPoint(px, py).matrixTransform(svg.getScreenCTM());
        return [at.x, at.y, value]; }})()"""
    )
    opened.mouse("mouseMoved", x, y)
    assert f"episode in context: 6\nreturn / optimum: {wanted}" in opened.js(f"{said}.innerText")
    inside = opened.js(
        f"""(() => {{ const ring = document.querySelector('{plot} .ring').getBoundingClientRect();
        return [ring.x + ring.width / 2, ring.y + ring.height / 2]; }})()"""
    )
    assert inside == pytest.approx([x, y], abs=1)
    opened.mouse("mouseMoved", 1, 1)
    assert opened.js(f"{said}.hidden")


def test_both_colour_schemes(browser: Chromium, page: Path, tmp_path: Path) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        browser.problems.clear()
        browser.open(page.as_uri(), scheme)
        picture = browser.picture()
        (tmp_path / f"{scheme}.png").write_bytes(picture)  # to be looked at
        pixels = matplotlib.image.imread(io.BytesIO(picture))
        assert pixels.shape[0] > 3000 and pixels.shape[1] == 1200
        brightness[scheme] = float(np.median(pixels[..., :3]))
        ratios = browser.js(CONTRASTS)
        assert min(ratios.values()) >= 4.5, (scheme, ratios)
        # nothing wider than the window: no page that scrolls sideways
        assert browser.js("document.documentElement.scrollWidth <= window.innerWidth")
        assert browser.problems == []
    assert brightness["light"] > 0.9 and brightness["dark"] < 0.2


@pytest.mark.parametrize(("size", "width"), [("phone", 390), ("laptop", 1280), ("paper", 718)])
def test_it_reads_at_three_sizes(browser: Chromium, page: Path, size: str, width: int) -> None:
    """Pictures for people, light and dark, stay in build/screenshots; here is what a program can see."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    shape = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.call("Emulation.setDeviceMetricsOverride", **shape)
    try:
        for scheme in ("light",) if size == "paper" else ("light", "dark"):
            browser.open(page.as_uri(), scheme)
            if size == "paper":
                browser.call("Emulation.setEmulatedMedia", media="print")
                browser.js("dispatchEvent(new Event('beforeprint'))")
                assert browser.js("document.querySelectorAll('details:not([open])').length") == 0
            (PICTURES / f"report-{size}-{scheme}.png").write_bytes(browser.picture())
            assert browser.js("document.documentElement.scrollWidth <= innerWidth")
            assert min(browser.js(TYPE_SIZES)) >= 9.5
            assert browser.js(BROKEN_WORDS) == []
            # What explains a table or a figure stays in view when that scrolls.
            explained = "[...document.querySelectorAll('.caption, figcaption')]"
            assert browser.js(f"{explained}.every(e => e.getBoundingClientRect().right <= innerWidth)")
            assert browser.js(f"{explained}.every(e => !e.closest('.scroll, .canvas'))")
            if size == "laptop":  # the main table is seen whole
                assert browser.js("(e => e.scrollWidth <= e.clientWidth)(document.querySelector('.scroll'))")
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
        browser.call("Emulation.clearDeviceMetricsOverride")


# Pixels of a figure's common type, 7.4 points in its own coordinates, by figure.
TYPE_SIZES = """[...document.querySelectorAll("figure svg")].map(svg =>
  7.4 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"""
# Words of tables' row headings that stand on more than one line; very long ones have to.
BROKEN_WORDS = """[...document.querySelectorAll("th[scope=row]")].flatMap(head => {
  const text = head.firstChild, range = document.createRange();
  return [...text.data.matchAll(/\\S{1,16}(?!\\S)/g)].filter(found => {
    if (found.index && /\\S/.test(text.data[found.index - 1])) return false;
    range.setStart(text, found.index);
    range.setEnd(text, found.index + found[0].length);
    return new Set([...range.getClientRects()].map(box => box.top)).size > 1;
  }).map(found => found[0]);
})"""
# WCAG contrast of text against what lies behind it, by kind of text.
CONTRASTS = """(() => {
  const light = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!colour.startsWith("rgba(0, 0, 0, 0")) return colour;
    }
  };
  const kinds = ["h1", ".question", ".headline", ".notices li", ".notices h2", "nav a", "figcaption",
    ".files a", "td", "thead button", "dt", "dd", "pre code", "summary", "footer"];
  return Object.fromEntries(kinds.map(kind => {
    const element = document.querySelector(kind);
    const pair = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    return [kind, (pair[0] + 0.05) / (pair[1] + 0.05)];
  }));
})()"""


def test_prints(opened: Chromium, tmp_path: Path) -> None:
    printed = opened.pdf()
    (tmp_path / "printed.pdf").write_bytes(printed)
    assert printed.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 15


def test_accessible_names(opened: Chromium) -> None:
    """Every figure, table and control says what it is."""
    tree = opened.call("Accessibility.getFullAXTree")["nodes"]
    shown = [node for node in tree if not node.get("ignored")]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", "").strip())
        for node in shown
        if node["role"]["value"] in ("image", "img", "button", "link", "table", "navigation", "group")
    ]
    roles = [role for role, _ in named]
    figures = opened.js("document.querySelectorAll('figure').length")
    assert roles.count("image") + roles.count("img") == figures
    assert roles.count("table") >= 3 and roles.count("button") > 10
    assert all(name for role, name in named if role != "group"), named
    assert opened.js("document.documentElement.lang") == "en"
    levels = opened.js("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
