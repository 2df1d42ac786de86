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


# Seeds that differ by less are counted as equal.
EQUAL = 0.02
RECURRENT_AND_AD = ("linear attention, equal state", "GRU", "AD, equal state")
GATED = "CompressedAD, gated"
# What a family asks for, the experiment, what labels have behind the model's name, the model that compresses.
FAMILIES = (
    ("Cued Darkroom, 5 x 5, 4 cues", "memory_models", "", "CompressedAD"),
    ("the same, gated, with a burn-in", "memory_models", "", GATED),
    ("T-maze, corridor of 100 steps", "t_maze", ", corridor 100", "CompressedAD"),
    ("T-maze, 10,000 steps", "t_maze", ", corridor 10,000", "CompressedAD"),
    ("T-maze, 100,000 steps", "t_maze", ", corridor 100,000", "CompressedAD"),
    ("Bandit, 5 arms", "bandit", "", "CompressedAD"),
    ("Bandit, 50 arms", "bandit_50_arms", "", "CompressedAD"),
    ("the same, gated, with a burn-in", "bandit_50_arms", "", GATED),
    ("Bandit, 100 arms, recurrent nets with a burn-in too", "bandit_100_arms", "", "CompressedAD"),
    ("Random process, 8 states", "random_mdp", "", "CompressedAD"),
    ("Random process, 32 states", "random_mdp_32_states", "", "CompressedAD"),
    ("Random process, 64 states", "random_mdp_64_states", "", "CompressedAD"),
)


def families() -> str:
    """Markdown table of what memories reach in each family, means over tasks and seeds."""
    heading = (
        "family", "CompressedAD", "linear attention", "GRU, less state", "AD",
        "CompressedAD minus linear attention, by seed", "seeds: better / equal / worse",
    )  # fmt: skip
    lines = [" | ".join(heading), " | ".join(["---"] + ["---:"] * 6)]
    for words, name, ending, compressed in FAMILIES:
        if not (RESULTS / name).exists():
            continue
        scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in _rows(name, "per_task.csv"):
            scores[row["label"]][row["seed"]].append(float(row["normalised_last10"]))
        own = [
            {seed: mean(tasks) for seed, tasks in scores.get(f"{kind}{ending}", {}).items()}
            for kind in (compressed, *RECURRENT_AND_AD)
        ]
        ours, recurrent = own[0], own[1]
        differences = [ours[seed] - recurrent[seed] for seed in sorted(ours) if seed in recurrent]
        better, worse = (
            sum(d > EQUAL for d in signed) for signed in (differences, [-d for d in differences])
        )
        verdict = f"{better} / {len(differences) - better - worse} / {worse}"
        cells = [
            "-"
            if not by_seed
            else f"{mean(by_seed.values()):.2f}"
            + (f" ({len(by_seed)} of {len(ours)} seeds)" if len(by_seed) < len(ours) else "")
            for by_seed in own
        ]
        lines.append(
            " | ".join((words, *cells, " ".join(f"{round(d, 2) + 0:+.2f}" for d in differences), verdict))
        )
    return "\n".join(f"| {line} |" for line in lines)


def filled(text: str) -> str:
    """The text with what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` made anew."""

    def fill(found: re.Match[str]) -> str:
        return f"<!-- table {found[1]} -->\n\n{table(found[1])}\n\n<!-- end -->"

    text = re.sub(r"<!-- table (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)
    table_of_all = f"<!-- families -->\n\n{families()}\n\n<!-- end -->"
    return re.sub(r"<!-- families -->.*?<!-- end -->", lambda _: table_of_all, text, flags=re.DOTALL)


if __name__ == "__main__":
    readme = RESULTS / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
