"""How fast training and roll-outs are against an earlier commit, on one core and in one run.

``python benchmarks/against.py COMMIT [--turns 3] [--json FILE]`` takes the commit's files out of the
repository (or names another checkout), and measures both trees in turns, each in processes of its own, with
the measurements of its own ``throughput.py``.  Rates are units a CPU-second, medians over turns.  ``--quick``
only shows that it runs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]


def measure(tree: Path, quick: bool) -> dict[str, float]:
    """Units a CPU-second of what a tree's ``throughput.py`` measures, by name."""
    sys.path[:0] = [str(tree), str(tree / "benchmarks")]
    import throughput

    throughput.use_one_core()
    plan = throughput.QUICK if quick else throughput.Plan()
    rates = {}
    for name in throughput.MODELS:
        config = throughput.config_of(name)
        measured: Any = throughput.training_rates(plan, config, throughput.made_up_histories(plan, config))
        # Earlier commits do not give the number of supervised actions with it.
        rates[f"training {name}"] = (measured[0] if isinstance(measured, tuple) else measured).cpu
        for parallel, laps in ((8, 1 if quick else 30), *(() if quick else ((64, 8),))):
            rollouts = throughput.our_rollout_rates(config, parallel, laps)
            rates[f"roll-outs {name}, {parallel} parallel"] = rollouts.cpu
    return rates


def measured_in_turns(trees: dict[str, Path], turns: int, quick: bool) -> dict[str, dict[str, float]]:
    """By tree and name: medians over turns, in each of which every tree has a process."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for _ in range(turns):
        for name, tree in trees.items():
            words = [sys.executable, __file__, "--measure", str(tree), *(["--quick"] if quick else [])]
            # The tree's own cad, not the installed one.
            surroundings = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
            run = subprocess.run(words, env=surroundings, stdout=subprocess.PIPE, text=True, check=True)
            taken[name].append(json.loads(run.stdout.splitlines()[-1]))
    return {
        name: {row: statistics.median(one[row] for one in all_turns) for row in all_turns[0]}
        for name, all_turns in taken.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "commit", nargs="?", default="HEAD", help="the earlier commit, or its checkout; default HEAD"
    )
    parser.add_argument("--turns", type=int, default=3, help="how often each is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON")
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes; the numbers mean nothing")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure, options.quick)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        before = Path(options.commit)
        if not before.is_dir():
            before = Path(folder)
            words = ["git", "archive", options.commit]
            archive = subprocess.run(words, cwd=HERE, stdout=subprocess.PIPE, check=True).stdout
            with tarfile.open(fileobj=io.BytesIO(archive)) as files:
                files.extractall(folder, filter="data")
        trees = {"now": HERE, "before": before.resolve()}
        rates = measured_in_turns(trees, 1 if options.quick else options.turns, options.quick)
    rows = [
        {"name": name, "now": now, "before": rates["before"][name], "ratio": now / rates["before"][name]}
        for name, now in rates["now"].items()
        if name in rates["before"]
    ]
    for row in rows:
        print(f"{row['name']:36}{row['now']:10,.0f}{row['before']:10,.0f}{row['ratio']:8.2f}")
    if options.json:
        from cad.storage import write_json

        write_json(options.json, {"commit": options.commit, "quick": options.quick, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
