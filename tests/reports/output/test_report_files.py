"""The files: complete, equal when written twice, self-contained, escaped."""

from __future__ import annotations

import csv
import hashlib
import html.parser
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from cad.errors import CadError
from cad.reports import CellResult, Provenance, SourceCurve, make_study, write_report
from cad.reports.data import fingerprint
from cad.reports.questions import data_tables
from cad.schema import Config, ReportConfig

Make = Callable[..., CellResult]
MARKUP = '<script>alert("x")</script>--> <img src=x onerror=y> $a_b$ | `c` & {{ 7 * 7 }}'


class Page(html.parser.HTMLParser):
    """Collects tags, ids, links and references of a page; complains of unclosed tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.links.append(value or "")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def csv_equals_json(folder: Path, written: dict[str, Any]) -> None:
    for name, table in written["tables"].items():
        with (folder / "csv" / f"{name}.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == table["columns"]
        assert len(rows) == len(table["rows"]) > 0
        for row, expected in zip(rows, table["rows"], strict=True):
            for text, value in zip(row, expected, strict=True):
                if isinstance(value, float):
                    assert float(text) == value
                else:
                    assert text == ("" if value is None else str(value))


def test_files_are_equal_when_written_twice(
    tmp_path: Path, cell: Make, source: SourceCurve, origin: Provenance
) -> None:
    """The second time among a user's settings of matplotlib, which are ignored."""
    theirs = {"font.size": 30, "svg.fonttype": "none", "axes.facecolor": "red"}
    cells = [cell(kind="ad", window=80, shape=(8, 2, 12), metrics=None)]
    for name, settings in (("a", {}), ("b", theirs)):
        with matplotlib.rc_context(settings):
            write_report("twice", ReportConfig(), cells, source, origin, tmp_path / name)
    first = digests(tmp_path / "a")
    assert {".html", ".md", ".json", ".csv", ".png", ".pdf"} == {Path(name).suffix for name in first}
    assert first == digests(tmp_path / "b")


def test_all_files_are_there(
    tmp_path: Path, quickstart: list[CellResult], source: SourceCurve, origin: Provenance
) -> None:
    path = write_report("quick", ReportConfig(), quickstart, source, origin, tmp_path / "a")
    assert path == tmp_path / "a" / "report.html"
    first = digests(tmp_path / "a")
    tables = ("cells", "per_task", "return_by_episode", "source", "depth_latents", "cost", "training",
              "models", "differences", "profile", "marginals", "pareto", "never_found", "found",
              "stages")  # fmt: skip
    figures = ("grid", "marginals", "learning", "profile", "differences", "cost", "goals", "maps", "found",
               "training", "training_by_depth")  # fmt: skip
    assert set(first) == {
        "report.html", "report.md", "report.json", *(f"csv/{name}.csv" for name in tables),
        *(f"figures/{name}.{ending}" for name in figures for ending in ("png", "pdf")),
    }  # fmt: skip
    text = (tmp_path / "a" / "report.html").read_text()
    page = Page(text)
    assert page.tags.count("svg") == len(figures)
    assert page.tags.count("script") == 1
    assert len(page.ids) == len(set(page.ids))
    # every link arrives, on the page (glyphs and clip paths included) or at a file of the report
    links = [link for link in page.links if not link.startswith("data:image/png;base64,")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(page.ids)
    beside = {link for link in links if not link.startswith("#")}
    assert beside <= set(first)
    assert {f"figures/{name}.pdf" for name in figures} <= beside
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert not re.search(r"(https?:|url\(|=\s*[\"'])//?\w|@import|https?:", text)
    assert text.count('role="img" aria-label="') == len(figures)
    study = make_study("quick", "", "", quickstart, source)
    written = json.loads((tmp_path / "a" / "report.json").read_text())
    assert [figure["name"] for figure in written["figures"]] == list(figures)
    assert {figure["anchor"] for figure in written["figures"]} <= set(page.ids)
    assert {table for figure in written["figures"] for table in figure["tables"]} <= set(tables)
    assert written["fingerprint"] == fingerprint(study, data_tables(study))
    csv_equals_json(tmp_path / "a", written)
    markdown = (tmp_path / "a" / "report.md").read_text()
    assert all(f"(figures/{name}.png)" in markdown for name in figures)


def test_markup_in_names_stays_text(
    tmp_path: Path, cell: Make, source: SourceCurve, origin: Provenance
) -> None:
    cells = [
        cell(label=MARKUP, arm=MARKUP),
        cell(label=MARKUP + "2", status=f"failed: {MARKUP}\nsecond line", returns=None, kind="ad", window=80),
    ]
    settings = ReportConfig(question=MARKUP)
    path = write_report(MARKUP, settings, cells, source, origin, tmp_path, figures=False)
    page = Page(path.read_text())
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "{{ 7 * 7 }}" in path.read_text()
    markdown = (tmp_path / "report.md").read_text()
    assert not re.search(r"(?<!\\)<(script|img)", markdown)
    assert json.loads((tmp_path / "report.json").read_text())["cells"][0]["label"] == MARKUP


def test_nothing_done_is_still_a_report(tmp_path: Path, cell: Make, origin: Provenance) -> None:
    cells = [
        cell(status="missing", returns=None, metrics=None),
        cell(seed=1, status="failed: out of memory", returns=None, metrics=None),
    ]
    path = write_report("early", ReportConfig(), cells, None, origin, tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["headline"] == "No result yet: of 2 cells, none is done, 1 failed."
    assert "out of memory" in path.read_text() and "out of memory" in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "figures").exists()
    path = write_report("empty", ReportConfig(), [], None, origin, tmp_path)
    assert "This experiment has no cells." in path.read_text()


def test_a_figure_that_is_no_longer_drawn_is_removed(tmp_path: Path, cell: Make, origin: Provenance) -> None:
    small = {"metrics": None, "shape": (2, 2, 12)}
    both = [cell(**small), cell(depth=1, **small)]
    write_report("x", ReportConfig(), both, None, origin, tmp_path)
    assert (tmp_path / "figures" / "grid.png").exists()
    (tmp_path / "figures" / "mine.png").write_text("somebody's own")
    write_report("x", ReportConfig(), [cell(kind="ad", window=80, **small)], None, origin, tmp_path)
    assert not list((tmp_path / "figures").glob("grid.*"))
    assert (tmp_path / "figures" / "learning.png").exists()
    assert (tmp_path / "figures" / "mine.png").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_many_models_and_seeds_and_unknown_costs(tmp_path: Path, cell: Make, origin: Provenance) -> None:
    cells = [
        cell(depth=depth, n_latent=n_latent, seed=seed, shape=(4, 2, 12), metrics=None,
             state_bytes=None, train_seconds=None, parts=(), evaluation_steps_per_second=None,
             compressions=None)
        for depth in range(2) for n_latent in (4, 8, 16, 32) for seed in range(2)
    ]  # fmt: skip
    write_report("many", ReportConfig(title="Many"), cells, None, origin, tmp_path, figures=False)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["title"] == "Many"
    assert {figure["name"] for figure in written["figures"]} == {
        "learning", "profile", "grid", "marginals", "goals", "maps", "found"
    }  # fmt: skip
    assert written["cells"][0]["state_bytes"] is None
    assert written["cells"][0]["compressions"] is None
    assert "2 training seeds: no significance is claimed" in written["qualification"]


@pytest.mark.parametrize("name", ["darkroom_permuted", "dark_key_to_door"])
def test_other_task_families(tmp_path: Path, cell: Make, origin: Provenance, name: str) -> None:
    config = Config.model_validate({"env": {"name": name, "size": 9}})
    goals: tuple[tuple[int, ...], ...] = ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0))
    one: dict[str, Any] = {
        "config": config, "goals": goals, "task_ids": (5, 9), "optimal": (2.0, 2.0),
        "returns": np.ones((2, 3, 4)), "compressions": np.ones((2, 3), dtype=int),
    }  # fmt: skip
    write_report(name, ReportConfig(), [cell(**one)], None, origin, tmp_path, figures=False)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["cells"][0]["normalised_last10"] == 0.5
    assert "on 2 held-out tasks" in written["headline"]
    assert "maps" not in {figure["name"] for figure in written["figures"]}


def test_a_file_in_the_way_is_one_clear_message(tmp_path: Path, origin: Provenance) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(CadError, match="out"):
        write_report("x", ReportConfig(), [], None, origin, tmp_path / "out")
