"""How long `cad report` takes on a sweep of 1,000 cells, how much memory, and what its checksums cost.

``python benchmarks/report_speed.py`` writes the stored results of a made-up sweep, as its stages would have
left them (10 seeds of AD at 4 windows and of CompressedAD over depth x latents x learning rate, 8 held-out
tasks, 8 roll-outs, 50 episodes), runs the command on them in a process of its own, and fails when it takes
more than 60 s or 2 GB, or when the checksums of what it reads take more than 2% of its CPU time.  Writing the
sweep takes about a minute and 300 MB of disk.  ``--ablation`` writes `experiments/ablation.yaml` instead:
54 cells, and histories as large as theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cad.checksums import read_sealed
from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.envs.transitions import Transitions
from cad.evaluation.results import save_results
from cad.evaluation.rollout import RolloutResult
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.directory import StageFile
from cad.experiments.plan.experiment import Experiment, open_experiment
from cad.experiments.run.attempt import StageAttempt
from cad.histories.collect import collect
from cad.histories.file import Provenance, write_root, write_task
from cad.storage import sha256_file

MOST_SECONDS, MOST_GB, MOST_FOR_CHECKSUMS = 60.0, 2.0, 0.02
ABLATION = Path(__file__).parents[1] / "experiments" / "ablation.yaml"
# Whatever a report compares with its checksum; actions only of the roll-outs that it draws.
READ = (StageFile.HISTORIES, StageFile.METRICS, StageFile.RETURNS)
EXPERIMENT = """
name: made-up
base:
  env: {{name: darkroom, size: {size}, n_heldout: 8, n_validation: 0}}
  source: {{n_streams: 2, n_steps: 80, batch_size: 160, n_epochs: 1}}
  train: {{validate_every: 0}}
  model: {{n_transit: 40}}
arms:
  - name: AD
    set: {{model.kind: ad}}
    grid: {{model.n_transit: {windows}}}
  - name: CompressedAD
    set: {{model.kind: compressed_ad}}
    grid:
      model.max_compression_depth: {depths}
      model.n_latent: {latents}
      train.learning_rate: {rates}
seeds: {seeds}
"""
FULL: dict[str, Any] = {
    "size": 5, "windows": [20, 40, 80, 160], "depths": [0, 1, 2, 3], "latents": [1, 2, 4, 8, 16, 32],
    "rates": [0.001, 0.002, 0.004, 0.008], "seeds": list(range(10)),
}  # fmt: skip
QUICK: dict[str, Any] = {
    "size": 4, "windows": [40], "depths": [1], "latents": [4], "rates": [0.004], "seeds": [0],
}  # fmt: skip


def write_sweep(folder: Path, sizes: dict[str, Any]) -> tuple[Path, int]:
    """Stage directories under ``folder/runs`` with made-up results; the experiment file, number of cells."""
    file = folder / "made-up.yaml"
    file.write_text(EXPERIMENT.format(**sizes), encoding="utf-8")
    opened = open_experiment(file, [], folder / "runs")
    _write_histories(opened)
    _write_cells(opened)
    return file, len(opened.cells)


def write_ablation(folder: Path) -> tuple[Path, int]:
    """As :func:`write_sweep`, of the ablation; its histories are random walks of as many steps."""
    opened = open_experiment(ABLATION, [], folder / "runs")
    attempt = StageAttempt(opened.root, opened.cells[0].histories)
    attempt.claim()
    config, rng = attempt.stage.config, np.random.default_rng(0)
    family, split = task_family(config.env), split_tasks(config.env)
    shape = (config.source.n_streams, config.source.steps_per_stream)
    with h5py.File(attempt.file(StageFile.HISTORIES), "w") as file:
        write_root(file, Provenance(config.env, config.source, split, {}, "made up"), attempt.stage.name)
        for task in family.task_ids:
            states = rng.integers(0, config.env.size, (*shape, 2), dtype=np.uint8)
            actions, rewards = rng.integers(0, 5, shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
            ends = np.zeros(shape, dtype=np.uint8)
            ends[:, family.horizon - 1 :: family.horizon] = 1
            history = Transitions(states, actions, rewards, states, ends)
            write_task(file, task, family.goal(task), family.optimal_return(task), history)
    attempt.directory.finish({})
    _write_cells(opened)
    return ABLATION, len(opened.cells)


def _write_cells(opened: Experiment) -> None:
    for number, cell in enumerate(opened.cells):
        _write_training(opened.root, cell)
        _write_returns(opened.root, cell, number)


def _write_histories(opened: Experiment) -> None:
    attempt = StageAttempt(opened.root, opened.cells[0].histories)
    attempt.claim()
    config = attempt.stage.config
    collect(config.env, config.source, attempt.file(StageFile.HISTORIES), workers=1)
    attempt.directory.finish({})


def _write_training(root: Path, cell: Cell) -> None:
    attempt = StageAttempt(root, cell.training)
    attempt.claim()
    n_updates, depths = cell.config.train.n_updates, cell.config.model.n_depths
    lines = []
    for step in range(0, n_updates + 1, cell.config.train.log_every):
        loss = 0.8 + 0.8 * float(np.exp(-step / 300))
        line = {"step": step, "loss": loss, "accuracy": 1 - loss / 2, "gradient_norm": loss / 3}
        for depth in range(depths):
            line |= {f"loss_depth_{depth}": loss, f"accuracy_depth_{depth}": 1 - loss / 2}
        lines.append(json.dumps(line))
    attempt.file(StageFile.METRICS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    facts = {"parameters": 300_000, "train_seconds": 200.0 + 40 * depths, "updates": n_updates}
    attempt.directory.finish({**facts, "supervised_actions": 40 * 64 * n_updates, "cores": 1})


def _write_returns(root: Path, cell: Cell, number: int) -> None:
    """Returns that rise to a level which depends on the model, the task and the seed."""
    attempt = StageAttempt(root, cell.evaluation)
    attempt.claim()
    config, model = cell.config, cell.config.model
    tasks, family = split_tasks(config.env).heldout, task_family(config.env)
    optimal = np.array([family.optimal_return(task) for task in tasks])[:, None, None]
    rng = np.random.default_rng(number)
    shape = (len(tasks), config.evaluation.n_rollouts, config.evaluation.n_episodes)
    level = 0.6 + 0.05 * (0 if model.depth is None else 1 + model.depth) + rng.normal(0, 0.03)
    rise = 1 - np.exp(-np.arange(shape[2]) / rng.uniform(4, 10, (len(tasks), 1, 1)))
    returns = rng.binomial(optimal.astype(int), np.broadcast_to(np.clip(level * rise, 0, 1), shape))
    steps = shape[2] * config.env.steps_per_episode
    times = np.arange(model.n_transit, steps, model.n_transit) if model.depth is not None else np.empty(0)
    compression_steps = np.broadcast_to(times.astype(np.int32), (*shape[:2], len(times)))
    result = RolloutResult(
        task_ids=tasks,
        returns=returns.astype(np.float32),
        compressions=np.full(shape[:2], len(times), dtype=np.int64),
        horizon=config.env.steps_per_episode,
        state_bytes=2048 * (model.n_transit + (model.latents or 0)),
        seconds=float(rng.uniform(3, 6)),
        compression_steps=compression_steps,
        chosen=np.zeros(compression_steps.shape, dtype=np.bool_),
    )
    save_results(attempt.file(StageFile.RETURNS), result)
    attempt.directory.finish({"steps_per_second": result.steps_per_second})


def measure(file: Path, root: Path) -> dict[str, float]:
    """Wall and CPU seconds and the largest memory (GB) of ``cad report`` on a written sweep."""
    words = [sys.executable, "-m", "cad.cli", "report", str(file), "--root", str(root)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": wall, "cpu_seconds": cpu, "memory_gb": after.ru_maxrss * 1024 / 1e9}


def checksum_seconds(root: Path) -> float:
    """CPU seconds to read the checksums of all that ``cad report`` reads of the stages, each once."""
    files = [path for name in READ for path in sorted(root.glob(f"stages/*/{name}"))]
    before = time.process_time()
    for file in files:
        sha256_file(file)
    for marker in root.glob(f"stages/*/{StageFile.DONE}"):
        read_sealed(marker, "")
    return time.process_time() - before


def main() -> int:
    """Write, measure, print; 1 where it is too slow or too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 cells, to see that it runs")
    parser.add_argument("--ablation", action="store_true", help="the ablation's size")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--folder", type=Path, help="write the sweep there, and keep it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.ablation:
            file, n_cells = write_ablation(folder)
        else:
            file, n_cells = write_sweep(folder, QUICK if arguments.quick else FULL)
        numbers = {"cells": n_cells, **measure(file, folder / "runs")}
        numbers["checksum_seconds"] = checksum_seconds(folder / "runs")
    numbers["checksum_share"] = numbers["checksum_seconds"] / numbers["cpu_seconds"]
    numbers["ok"] = (
        numbers["wall_seconds"] <= MOST_SECONDS
        and numbers["memory_gb"] <= MOST_GB
        and numbers["checksum_share"] <= MOST_FOR_CHECKSUMS
    )
    text = json.dumps(numbers, indent=2)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    return 0 if numbers["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
