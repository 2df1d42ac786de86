"""README and docs: every link to a file of the repository leads somewhere, and README is one screen long."""

from __future__ import annotations

import re
import runpy
import sys
import types
from pathlib import Path

import pytest
import yaml

import cad

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "slurm/README.md", "benchmarks/README.md")),
    ROOT / "experiments/results/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    files = [link for link in links if not link.startswith(("http:", "https:"))]
    assert [link for link in files if not (page.parent / link).exists()] == []


def test_every_page_of_docs_is_linked() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"{page.name})" not in text]
    assert missing == []


def test_the_version_is_one() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d\S+)", changes, re.M)[0] == cad.__version__
    assert re.findall(r"^version: (\S+)$", citation, re.M) == [cad.__version__]


def test_hooks_and_templates_can_be_read() -> None:
    """Hooks are the environment's own tools, those of `make check` in its order."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    commands = [hook["entry"].replace(".venv", "$(BIN)").replace("$(BIN)/bin", "$(BIN)") for hook in hooks]
    made = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    steps = [line.strip().removesuffix(" .") for line in made.splitlines()[1:]]
    assert commands[:3] == steps[:3] and commands[3] == "make test-fast"
    templates = [yaml.safe_load(path.read_text()) for path in (ROOT / ".github/ISSUE_TEMPLATE").iterdir()]
    assert len(templates) == 3 and all({"name", "description", "body"} <= set(one) for one in templates)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_site_shows_the_notebook_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    files = types.ModuleType("mkdocs.structure.files")
    files.File = None  # the page is made without mkdocs, which few machines have
    for name, module in (("mkdocs", files), ("mkdocs.structure", files), ("mkdocs.structure.files", files)):
        monkeypatch.setitem(sys.modules, name, module)
    source = (ROOT / "examples" / "notebook.py").read_text(encoding="utf-8")
    page = runpy.run_path(str(ROOT / "docs" / "site_hooks.py"))["_notebook"](ROOT / "examples/notebook.py")
    assert page.startswith("# cad from a notebook\n") and "# %%" not in page
    shown = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    code = [line for line in source.splitlines() if line and not line.startswith("#")]
    assert [line for line in shown.splitlines() if line] == code
    assert "notebook.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
