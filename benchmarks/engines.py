"""The cost of an engine per step at 1 and 2 ranks, of a checkpoint, and the memory that a rank needs.

``python benchmarks/engines.py [--json FILE] [--figure FILE]`` starts real ranks over gloo
on this machine.  Times are CPU-seconds of a rank, so that other work does not count; the figure
shows the loss of 1 and 2 ranks over the same samples.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from cad.histories.sampler import HistoryArrays
from cad.interrupt import StopFlag
from cad.process import prepare_process
from cad.schema import Config
from cad.storage import write_json
from cad.training.checkpoint import Checkpoint, load_newest, save_checkpoint
from cad.training.engines import start_engine
from cad.training.learner import build_model, training_objective, training_sampler
from cad.training.loop import train
from cad.training.metrics import read_metrics
from cad.training.ranks import SINGLE_PROCESS, RankAssignment, Ranks
from cad.training.rendezvous import joined
from cad.training.training import Training

VARIANTS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("plain", 1, {}),
    ("accelerate", 1, {"engine": "accelerate"}),
    ("accelerate", 2, {"engine": "accelerate"}),
    *((f"ZeRO {stage}", 1, {"engine": "deepspeed", "zero_stage": stage}) for stage in (1, 3)),
    *((f"ZeRO {stage}", 2, {"engine": "deepspeed", "zero_stage": stage}) for stage in range(4)),
)
CPU = torch.device("cpu")
RESULT_FILE = "result.json"


def cell(train: dict[str, Any], *, width: int = 64, layers: int = 4, batch: int = 32) -> Config:
    """The default CompressedAD, or a wider one."""
    return Config.model_validate(
        {
            "model": {"n_embd": width, "n_layer": layers, "n_head": 4, "encoder_n_layer": 2},
            "train": {"optimizer": "adamw", "batch_size": batch, "learning_rate": 1e-3, **train},
        }
    )


def made_up(config: Config) -> HistoryArrays:
    """Histories whose action is the row that the agent stands in: learnable, and quick to make."""
    rng = np.random.default_rng(0)
    shape = (8, 20, config.source.steps_per_stream)
    observations = rng.integers(0, 9, (*shape, 2), dtype=np.uint8)
    rewards = rng.integers(0, 2, shape, dtype=np.uint8)
    return HistoryArrays(observations, observations[..., 0] % 5, rewards, config.env.steps_per_episode, 5)


def measure_steps(
    ranks: Ranks, _folder: Path, settings: dict[str, Any], warm: int, measured: int
) -> dict[str, float]:
    """Median CPU- and wall-seconds of an update."""
    config = cell(settings)
    torch.manual_seed(0)
    sampler, objective = training_sampler(config, made_up(config)), training_objective(config)
    engine = start_engine(config.train, build_model(config), ranks, CPU)
    cpu, wall = [], []
    for update in range(warm + measured):
        batch = sampler.batch(update, ranks.rank, ranks.size)
        begun, clock = time.process_time(), time.perf_counter()
        engine.update([batch], objective, 1.0)
        cpu.append(time.process_time() - begun)
        wall.append(time.perf_counter() - clock)
    return {"cpu_seconds": statistics.median(cpu[warm:]), "wall_seconds": statistics.median(wall[warm:])}


def tensor_bytes() -> int:
    """Bytes of all live tensors, shared storage counted once.

    A CPU process's resident memory says less: it includes freed memory that is kept for reuse.
    """
    storages = {}
    for candidate in gc.get_objects():
        if issubclass(type(candidate), torch.Tensor):  # isinstance would trigger imports of lazy modules
            storage = candidate.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def run_rank(assignment: RankAssignment | None, folder: str, task: str, arguments: dict[str, Any]) -> None:
    """One rank of a measurement; the first one writes the result into ``folder``."""
    prepare_process(1)
    if assignment is None:
        result = TASKS[task](SINGLE_PROCESS, Path(folder), **arguments)
    else:
        with joined(assignment, Path(folder), StopFlag(), "cpu") as ranks:
            result = TASKS[task](ranks, Path(folder), **arguments)
    if assignment is None or assignment.rank == 0:
        write_json(Path(folder) / RESULT_FILE, result)


def measure_losses(ranks: Ranks, folder: Path, settings: dict[str, Any]) -> list[dict[str, float]]:
    """Train; returns the metrics lines."""
    config = cell(settings)
    torch.manual_seed(0)
    training = Training(
        config.train,
        build_model(config),
        training_sampler(config, made_up(config)),
        folder,
        objective=training_objective(config),
        seed=config.seed,
        run_id="run",
        device=CPU,
        ranks=ranks,
    )
    train(training, StopFlag())
    return read_metrics(folder / "metrics.jsonl")[1:]


def measure_state(ranks: Ranks, folder: Path, settings: dict[str, Any], **shape: int) -> dict[str, float]:
    """Bytes of tensors that a rank keeps between updates; CPU-seconds and size of a checkpoint.

    For DeepSpeed this excludes the copy of the weights that :meth:`collect` fills.
    """
    config = cell(settings, **shape)
    torch.manual_seed(0)
    sampler, objective = training_sampler(config, made_up(config)), training_objective(config)
    before = tensor_bytes()
    model = build_model(config)
    weights = sum(p.numel() for p in model.parameters())
    if config.train.engine == "deepspeed":
        before = tensor_bytes()
    engine = start_engine(config.train, model, ranks, CPU)
    for update in range(2):
        engine.update([sampler.batch(update, ranks.rank, ranks.size)], objective, 1.0)
    result = {"parameters": weights, "bytes": tensor_bytes() - before}
    begun = time.process_time()
    engine.collect()
    state = engine.optimiser_state()
    result["gather_seconds"] = time.process_time() - begun
    if ranks.first:
        tensors = {f"model/{k}": v for k, v in model.state_dict().items()} | state
        begun = time.process_time()
        save_checkpoint(folder, Checkpoint(1, 0.0, 0, tensors), "run", 1)
        written = time.process_time()
        load_newest(folder, "run")
        result |= {"write_seconds": written - begun, "read_seconds": time.process_time() - written}
        result["file_bytes"] = (folder / "00000001" / "state.safetensors").stat().st_size
    return result


TASKS: dict[str, Any] = {
    "steps": measure_steps,
    "losses": measure_losses,
    "state": measure_state,
}


def in_ranks(size: int, task: str, **arguments: Any) -> Any:
    """Run a task in new processes, whose memory holds nothing of an earlier measurement."""
    with tempfile.TemporaryDirectory() as folder:
        rendezvous_id = secrets.token_hex(4)
        assignments = [
            RankAssignment(rank, size, rank, "127.0.0.1", rendezvous_id) if size > 1 else None
            for rank in range(size)
        ]
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=run_rank, args=(assignment, folder, task, arguments))
            for assignment in assignments
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit(f"{task} failed: exit codes {[p.exitcode for p in processes]}")
        return json.loads((Path(folder) / RESULT_FILE).read_text(encoding="utf-8"))


def draw(curves: dict[str, Sequence[dict[str, float]]], file: Path) -> None:
    """Draw the loss by update, and the distance between the curves."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(6.4, 4.6), sharex=True, height_ratios=(2, 1), constrained_layout=True
    )
    names = list(curves)
    for name, style in zip(names, ("-", "--", ":"), strict=False):
        records = curves[name]
        above.plot([r["step"] for r in records], [r["loss"] for r in records], style, label=name, lw=1.8)
    above.set_ylabel("loss")
    above.legend(frameon=False)
    reference = curves[names[0]]
    for number, name in enumerate(names[1:], start=1):
        apart = [abs(a["loss"] / b["loss"] - 1) + 1e-12 for a, b in zip(curves[name], reference, strict=True)]
        below.semilogy([r["step"] for r in reference], apart, f"C{number}", lw=1.2, label=name)
    below.set_ylabel(f"apart from\n{names[0]}, relative")
    below.set_xlabel("update")
    below.set_ylim(1e-10, 1e-6)
    below.legend(frameon=False)
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--figure", type=Path, help="draw loss curves of 1 and 2 ranks here")
    options = parser.parse_args()
    console = Console()
    wide = {"width": 512, "layers": 6, "batch": 2}
    numbers: dict[str, Any] = {"steps": [], "state": []}

    table = Table("engine", "ranks", "CPU-ms per update and rank", "ms per update")
    for name, size, settings in VARIANTS:
        result = in_ranks(size, "steps", settings=settings, warm=5, measured=15)
        numbers["steps"].append({"engine": name, "ranks": size, **result})
        times = [f"{1e3 * result[key]:.1f}" for key in ("cpu_seconds", "wall_seconds")]
        table.add_row(name, str(size), *times)
    console.print(table)

    table = Table("engine", "ranks", "MiB per rank", "gather", "write", "read, CPU-s", "MiB on disk")
    for name, size, settings in VARIANTS:
        if size == 1 and name != "plain":
            continue
        result = in_ranks(size, "state", settings=settings, **wide)
        numbers["state"].append({"engine": name, "ranks": size, **result})
        times = [f"{result[key]:.2f}" for key in ("gather_seconds", "write_seconds", "read_seconds")]
        table.add_row(
            name, str(size), f"{result['bytes'] / 2**20:.0f}", *times, f"{result['file_bytes'] / 2**20:.0f}"
        )
    console.print(table)

    if options.figure:
        base = {"n_updates": 200, "log_every": 5, "checkpoint_every": 200, "validate_every": 0}
        base |= {"num_warmup_steps": 20, "watchdog_share": None, "batch_size": 8}
        curves = {
            "1 rank": in_ranks(1, "losses", settings=base),
            "2 ranks, accelerate": in_ranks(2, "losses", settings={**base, "engine": "accelerate"}),
            "2 ranks, ZeRO 2": in_ranks(
                2, "losses", settings={**base, "engine": "deepspeed", "zero_stage": 2}
            ),
        }
        numbers["curves"] = curves
        draw(curves, options.figure)
    if options.json:
        write_json(options.json, numbers)


if __name__ == "__main__":
    main()
