"""Fills the tables of experiments/results/README.md from the published CSV files.

python experiments/results_table.py
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean

RESULTS = Path(__file__).parent / "results"
HEADER = (
    "model", "seeds", "updates", "supervised actions, millions", "training, core-minutes",
    "where source histories end", "last 10 episodes", "95% interval", "lowest task",
)  # fmt: skip


def _rows(name: str, file: str) -> list[dict[str, str]]:
    with (RESULTS / name / "csv" / file).open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def table(name: str) -> str:
    """Markdown table of one published experiment, a line a model; returns are divided by the optimum."""
    costs, tasks = defaultdict(list), defaultdict(lambda: defaultdict(list))
    for row in _rows(name, "cost.csv"):
        costs[row["label"]].append(row)
    for row in _rows(name, "per_task.csv"):
        tasks[row["label"]][row["task_id"]].append(float(row["normalised_last10"]))
    lines = [" | ".join(HEADER), " | ".join(["---"] + ["---:"] * (len(HEADER) - 1))]
    for row in _rows(name, "models.csv"):
        label = row["label"]
        updates, actions, minutes = (
            mean(float(cell[key]) for cell in costs[label])
            for key in ("updates", "supervised_actions", "core_minutes")
        )
        within = row["mean_at_history_end"]
        cells = (
            label, row["n_seeds"], f"{updates:,.0f}", f"{actions / 1e6:.2f}", f"{minutes:.1f}",
            f"{float(within):.3f}" if within else "-", f"{float(row['mean']):.3f}",
            f"{float(row['mean_low_95']):.3f} to {float(row['mean_high_95']):.3f}",
            f"{min(mean(scores) for scores in tasks[label].values()):.3f}",
        )  # fmt: skip
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def filled(text: str) -> str:
    """The text with what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` made anew."""

    def fill(found: re.Match[str]) -> str:
        return f"<!-- table {found[1]} -->\n\n{table(found[1])}\n\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


if __name__ == "__main__":
    readme = RESULTS / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
