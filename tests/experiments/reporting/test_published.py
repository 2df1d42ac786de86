"""Published results: the tables of their page are those of their CSV files, and nothing is left out."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
PAGE = EXPERIMENTS / "results" / "README.md"


def test_the_tables_are_those_of_the_published_files() -> None:
    spec = importlib.util.spec_from_file_location("results_table", EXPERIMENTS / "results_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = PAGE.read_text(encoding="utf-8")
    assert module.filled(text) == text, "run: python experiments/results_table.py"
    without = re.sub(r"(<!-- table \w+ -->).*?(<!-- end -->)", r"\1\2", text, flags=re.DOTALL)
    assert without != text and module.filled(without) == text


def test_everything_published_is_on_the_page_and_has_its_experiment() -> None:
    text = PAGE.read_text(encoding="utf-8")
    published = {path.parent.name for path in EXPERIMENTS.glob("results/*/report.md")}
    assert published == set(re.findall(r"<!-- table (\w+) -->", text))
    for name in published:
        assert f"({name}/report.md)" in text
        folders = (EXPERIMENTS, EXPERIMENTS.parent / "examples")
        assert any((folder / f"{name}.yaml").exists() for folder in folders)
