"""Models an hour when 1, 2, 4, 8 or 16 trainings share a process (``cad run --pack``).

``python benchmarks/packing.py [--device cpu] [--json FILE] [--quick]`` measures updates of the default
model sizes on made-up histories, one thread, all sizes of packs in turns, medians over laps.  "Rates" are
models that differ in their learning rates, whose windows are equally long; "seeds" draw windows of their own,
whose lengths CompressedAD draws too.

``--unequal`` measures instead what a Slurm task with two cores makes of two trainings of different shapes
(``cad submit --pack 2``): side by side, and one after the other as on one core, in turns, in wall seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.run.job import run_or_record
from cad.experiments.run.resources import Resources
from cad.experiments.run.side_by_side import task_job
from cad.histories.sampler import HistoryArrays
from cad.interrupt import StopFlag
from cad.process import prepare_process
from cad.schema import Config
from cad.storage import write_json
from cad.training.engines import start_engine
from cad.training.learner import build_training
from cad.training.packed.captured import stack_of

KINDS: dict[str, dict[str, Any]] = {
    "AD": {"kind": "ad", "n_transit": 80},
    "CompressedAD": {"kind": "compressed_ad", "n_transit": 40, "n_latent": 16, "max_compression_depth": 3},
    "linear attention": {"kind": "linear_attention", "n_unroll": 160},
}
PACKS = (1, 2, 4, 8, 16)
QUICK_MODEL = {"n_embd": 16, "n_layer": 1, "n_head": 2}


def cell(kind: str, differ: str, number: int, quick: bool) -> Config:
    """One of a pack's cells."""
    return Config.model_validate(
        {
            "seed": number if differ == "seeds" else 0,
            "model": {**KINDS[kind], **(QUICK_MODEL if quick else {})},
            "train": {"learning_rate": 1e-3 * (1 + number), **({"batch_size": 4} if quick else {})},
        }
    )


def made_up(config: Config) -> HistoryArrays:
    """Random histories: speed does not depend on what is in them."""
    rng = np.random.default_rng(0)
    shape = (8, 20, config.source.steps_per_stream)
    observations = rng.integers(0, 9, (*shape, 2), dtype=np.uint8)
    rewards = rng.integers(0, 2, shape, dtype=np.uint8)
    actions = rng.integers(0, 5, shape, dtype=np.uint8)
    return HistoryArrays(observations, actions, rewards, config.env.steps_per_episode, 5)


def updater(configs: Sequence[Config], folder: Path, device: torch.device) -> Callable[[], None]:
    """One update of every model: by the single loop's engine for one, as a pack for several."""
    arrays = made_up(configs[0])
    trainings = [
        build_training(config, arrays).training(folder / str(number), run_id="benchmark", device=device)
        for number, config in enumerate(configs)
    ]

    if len(trainings) == 1:
        (training,) = trainings
        engine = start_engine(training.settings, training.model, training.ranks, device)
        training.model.train()

        def alone() -> None:
            torch.manual_seed(training.mask_seed)
            engine.update(training.batches(), training.objective, training.rate_factor)
            training.step += 1

        return alone
    stack = stack_of(trainings, vmapped=configs[0].spec.stacks)

    def together() -> None:
        stack.update()

    return together


def measure(
    kind: str, differ: str, packs: Sequence[int], device: torch.device, laps: int, quick: bool
) -> list[dict[str, Any]]:
    """Seconds of an update of one model, and models an hour, by the size of a pack."""
    with tempfile.TemporaryDirectory() as folder:
        updates = {
            size: updater([cell(kind, differ, n, quick) for n in range(size)], Path(folder), device)
            for size in packs
        }
        seconds: dict[int, list[float]] = {size: [] for size in packs}
        for lap in range(laps + 1):
            for size, update in updates.items():
                begun = _now(device)
                for _ in range(max(1, 16 // size)):
                    update()
                if lap:
                    seconds[size].append((_now(device) - begun) / (size * max(1, 16 // size)))
    total = Config().train.n_updates
    medians = {size: statistics.median(taken) for size, taken in seconds.items()}
    return [
        {
            "kind": kind,
            "differ": differ,
            "pack": size,
            "seconds_an_update": taken,
            "models_an_hour": 3600 / (taken * total),
            "ratio": medians[packs[0]] / taken,
        }
        for size, taken in medians.items()
    ]


QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart.yaml"


def unequal(laps: int, updates: int) -> dict[str, Any]:
    """Seconds of two of the quickstart's trainings as one task, start of processes included, by its cores.

    ``ideal`` is how many times as fast two cores would be if only the longer training counted.
    """
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "histories"
        words = [f"base.train.n_updates={updates}", "base.train.validate_every=0"]
        words += ["base.train.watchdog_share=null"]
        # Few tasks: an update takes no longer with more of them.
        words += ["base.env.n_tasks=8", "base.env.n_heldout=2", "base.env.n_validation=2"]
        cells = open_experiment(QUICKSTART, words, base).cells
        pair = [cells[3].training, cells[-1].training]
        histories = pair[0].inputs[0]
        run_or_record(base, histories, Resources(workers=2), StopFlag())
        ideal = []
        for lap in range(laps + 1):  # the first one starts the server of processes
            for cores, taken in seconds.items():
                root = Path(name) / f"{lap}-{cores}"
                (root / "stages").mkdir(parents=True)
                (root / "stages" / histories.name).symlink_to(StageDirectory(base, histories.name).path)
                begun = time.perf_counter()
                task_job(root, pair, Resources(workers=cores), lambda _directory: False)
                if lap:
                    taken.append(time.perf_counter() - begun)
                    alone = [StageDirectory(root, stage.name).record()["wall_seconds"] for stage in pair]
                    if cores == 1:
                        ideal.append(sum(alone) / max(alone))
    medians = {cores: statistics.median(taken) for cores, taken in seconds.items()}
    return {
        "one_after_the_other": medians[1],
        "side_by_side": medians[2],
        "ratio": medians[1] / medians[2],
        "ideal": statistics.median(ideal),
    }


def _now(device: torch.device) -> float:
    """CPU-seconds, so that other work does not count; seconds on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes; the numbers mean nothing")
    parser.add_argument(
        "--unequal", action="store_true", help="two trainings of different shapes as one task"
    )
    options = parser.parse_args(arguments)
    if options.unequal:
        found = unequal(1 if options.quick else 3, 5 if options.quick else 150)
        Console().print(
            f"two unequal trainings on two cores: {found['side_by_side']:.1f} s side by side, "
            f"{found['one_after_the_other']:.1f} s one after the other: {found['ratio']:.2f} times as fast "
            f"(at best {found['ideal']:.2f})"
        )
        if options.json:
            write_json(options.json, {"quick": options.quick, "unequal": found})
        return 0
    prepare_process(1)
    device, console = torch.device(options.device), Console()
    packs, laps = ((1, 2), 1) if options.quick else (PACKS, 7)
    table = Table("model", "that differ in", "pack", "ms an update of a model", "models an hour", "ratio")
    rows = []
    for kind in KINDS:
        for differ in ("rates", "seeds"):
            if differ == "seeds" and kind != "CompressedAD":
                continue  # the lengths of the others' windows are fixed: seeds cost what rates do
            for row in measure(kind, differ, packs, device, laps, options.quick):
                rows.append(row)
                table.add_row(
                    kind, differ, str(row["pack"]), f"{1e3 * row['seconds_an_update']:.2f}",
                    f"{row['models_an_hour']:.1f}", f"{row['ratio']:.2f}",
                )  # fmt: skip
    console.print(table)
    if options.json:
        write_json(options.json, {"quick": options.quick, "device": str(device), "results": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
