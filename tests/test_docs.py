"""README and docs: every link to a file of the repository leads somewhere, and README is one screen long."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
