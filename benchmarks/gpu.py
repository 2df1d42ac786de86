"""What a GPU gives: one prepared script, at most eight minutes, for whoever has one for a moment.

``python benchmarks/gpu.py --json FILE --figure FILE`` measures, beside one CPU core of the same machine:
that results are equal (losses, returns, packed and single trainings), models an hour by the size of a pack,
steps a second by the number of roll-outs, memory, the share of the device's peak, every engine with one rank
on NCCL, and what the 54 models of ``experiments/ablation.yaml`` take.  ``--quick`` does all of it on a CPU in
seconds, to show that it runs; its numbers say nothing.

A part that fails is recorded with its error, and the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.evaluation.rollout import RolloutResult, roll_out
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.experiment import open_experiment
from cad.histories.made_up import made_up_histories
from cad.interrupt import StopFlag
from cad.process import prepare_process
from cad.schema import Config
from cad.storage import write_json
from cad.training.engines import start_engine
from cad.training.learner import build_model, build_training
from cad.training.loop import train
from cad.training.metrics import read_metrics
from cad.training.packed.loop import train_together
from cad.training.packed.shape import pack_key
from cad.training.ranks import RankAssignment
from cad.training.rendezvous import joined

ABLATION = Path(__file__).parents[1] / "experiments" / "ablation.yaml"
CPU = torch.device("cpu")
MODEL = {"kind": "compressed_ad", "n_transit": 40, "n_latent": 16, "max_compression_depth": 3}


@dataclass(frozen=True)
class Plan:
    """How much of everything is measured."""

    packs: tuple[int, ...] = (1, 4, 16, 64, 256)
    updates_a_lap: int = 10
    laps: int = 3
    rollouts: tuple[int, ...] = (64, 256, 1024, 4096, 16384)
    cpu_rollouts: tuple[int, ...] = (64, 256)
    episodes: int = 6  # of a measured roll-out; the first ones fill the window
    equal_updates: int = 100
    equal_episodes: int = 10
    scaled_episodes: int = 10  # of an evaluation, of which the rest is taken to last as long
    model: tuple[tuple[str, Any], ...] = tuple(MODEL.items())
    matrix: int = 8192
    cpu_matrix: int = 1024


QUICK = Plan(
    packs=(1, 2),
    updates_a_lap=2,
    laps=1,
    rollouts=(8,),
    cpu_rollouts=(8,),
    episodes=2,
    equal_updates=4,
    equal_episodes=2,
    scaled_episodes=1,
    model=(*MODEL.items(), ("n_embd", 16), ("n_layer", 1), ("n_head", 2), ("encoder_n_layer", 1)),
    matrix=128,
    cpu_matrix=128,
)


def config_of(plan: Plan, seed: int = 0, **train: Any) -> Config:
    """CompressedAD as the ablation has it, without trackers."""
    loop = {"loggers": [], "validate_every": 0, "watchdog_share": None, **train}
    return Config.model_validate({"seed": seed, "model": dict(plan.model), "train": loop})


def synchronise(device: torch.device) -> None:
    """Wait for what was started on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- trainings -------------------------------------------------------------------------------


def trained(
    configs: Sequence[Config],
    device: torch.device,
    tick: Callable[[], None] = lambda: None,
    *,
    packed: bool = True,
) -> list[list[float]]:
    """Train as one pack, or one alone; the losses of each.

    ``tick`` is called at every metrics line of the first one.
    """
    config = configs[0]
    arrays = made_up_histories(task_family(config.env), config.source.steps_per_stream)
    with tempfile.TemporaryDirectory() as folder:
        trainings, folders = [], [Path(folder) / str(number) for number in range(len(configs))]
        for place, config in zip(folders, configs, strict=True):
            learner = build_training(config, arrays)
            learner.trained.to(device)
            tell = (lambda _step, _values: tick()) if place is folders[0] else None
            place.mkdir()
            trainings.append(learner.training(place, run_id=place.name, device=device, progress=tell))
        if packed:
            for _, outcome in train_together(trainings, StopFlag(), vmapped=configs[0].spec.stacks):
                if isinstance(outcome, Exception):
                    raise outcome
        else:
            (training,) = trainings
            train(training, StopFlag())
        records = [read_metrics(place / "metrics.jsonl") for place in folders]
    return [[record["loss"] for record in own if "loss" in record] for own in records]


def seconds_an_update(
    configs: Sequence[Config], device: torch.device, plan: Plan, *, packed: bool = True
) -> float:
    """Of a pack, or of one alone: the median over laps, without the first one."""
    # log_every sets the laps: a line is written when the device has done what came before it.
    n = plan.updates_a_lap * (plan.laps + 1)
    loop = {"n_updates": n, "log_every": plan.updates_a_lap, "checkpoint_every": n, "num_warmup_steps": 1}
    settings = [c.model_copy(update={"train": c.train.model_copy(update=loop)}) for c in configs]
    marks: list[float] = []
    trained(settings, device, lambda: marks.append(time.perf_counter()), packed=packed)
    return float(np.median(np.diff(marks))) / plan.updates_a_lap


def measure_packs(plan: Plan, device: torch.device) -> dict[str, Any]:
    """Models an hour, and memory, by the size of a pack; the CPU's one core beside it."""
    n_updates = Config().train.n_updates

    def row(
        where: torch.device, size: int, *, packed: bool = True, precision: str = "fp32"
    ) -> dict[str, Any]:
        if where.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(where)
        configs = [config_of(plan, seed, precision=precision) for seed in range(size)]
        seconds = seconds_an_update(configs, where, plan, packed=packed)
        return {
            "device": where.type,
            "pack": size,
            "seconds_an_update": seconds,
            "models_an_hour": 3600 * size / (seconds * n_updates),
            "peak_bytes": torch.cuda.max_memory_allocated(where) if where.type == "cuda" else None,
        }

    alone = row(device, 1, packed=False)
    rows = [row(device, size) for size in plan.packs]
    middle = plan.packs[len(plan.packs) // 2 + 1] if len(plan.packs) > 2 else plan.packs[-1]
    half = {**row(device, middle, precision="bf16"), "precision": "bf16"}
    core = row(CPU, 1, packed=False)
    best = max(r["models_an_hour"] for r in rows)
    return {
        "updates_of_a_model": n_updates,
        "rows": [*rows, core],
        "half": half,
        "alone": alone,  # one at a time, without graphs
        "packed_to_alone": best / alone["models_an_hour"],
        "packed_to_single": best / rows[0]["models_an_hour"],
        "to_one_core": best / core["models_an_hour"],
    }


def measure_ablation(plan: Plan, device: torch.device) -> dict[str, Any]:
    """What trainings and evaluations of the ablation's 54 models take, a pack a shape: measured, scaled."""
    cells = open_experiment(ABLATION, [], Path("runs")).cells
    packs: dict[str | None, list[Cell]] = {}
    for cell in cells[:2] if plan is QUICK else cells:
        packs.setdefault(pack_key(cell.config), []).append(cell)
    total = evaluation = 0.0
    for members in packs.values():
        quiet = {"loggers": (), "validate_every": 0, "watchdog_share": None}
        configs = [
            m.config.model_copy(update={"train": m.config.train.model_copy(update=quiet)}) for m in members
        ]
        total += seconds_an_update(configs, device, plan) * configs[0].train.n_updates
        config, settings = configs[0], configs[0].evaluation
        model = build_model(config).to(device).eval()
        family, tasks = task_family(config.env), split_tasks(config.env).heldout
        result = roll_out(
            model, family, tasks, n_rollouts=settings.n_rollouts, n_episodes=plan.scaled_episodes, seed=0
        )
        evaluation += len(members) * result.seconds * settings.n_episodes / plan.scaled_episodes
    return {
        "models": sum(map(len, packs.values())),
        "packs": len(packs),
        "training_seconds": total,
        "evaluation_seconds": evaluation,  # one after the other
    }


# --- equality --------------------------------------------------------------------------------


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative one."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def measure_equality(plan: Plan, device: torch.device) -> dict[str, Any]:
    """Losses of the same trainings on a CPU, on the device, and in a pack; returns of the same weights."""
    n = plan.equal_updates
    loop = {"n_updates": n, "log_every": max(1, n // 20), "checkpoint_every": n, "num_warmup_steps": 1}
    configs = [config_of(plan, seed, **loop) for seed in range(3)]
    configs = [c.model_copy(update={"model": c.model.model_copy(update={"dropout": 0.0})}) for c in configs]
    together = trained(configs, device)
    alone = [trained([config], device, packed=False)[0] for config in configs]
    on_cpu = trained(configs[:1], CPU, packed=False)[0]
    ours, theirs = (rolled_out(configs[0], 32, plan.equal_episodes, where) for where in (device, CPU))
    return {
        "updates": n,
        "packed_and_single": max(map(largest_difference, together, alone)),
        "device_and_cpu": largest_difference(alone[0], on_cpu),
        "equal_episode_returns": float((ours.returns == theirs.returns).mean()),
        "mean_returns": [float(ours.returns.mean()), float(theirs.returns.mean())],
    }


# --- roll-outs -------------------------------------------------------------------------------


def rolled_out(config: Config, parallel: int, episodes: int, device: torch.device) -> RolloutResult:
    """A model of random weights in the held-out goals."""
    torch.manual_seed(0)
    model = build_model(config).to(device).eval()
    family, tasks = task_family(config.env), split_tasks(config.env).heldout
    n = max(1, parallel // len(tasks))
    return roll_out(model, family, tasks, n_rollouts=n, n_episodes=episodes, seed=0)


def measure_rollouts(plan: Plan, device: torch.device) -> dict[str, Any]:
    """Steps a second of all roll-outs together."""
    config, rows = config_of(plan), []
    for where, sizes in ((device, plan.rollouts), (CPU, plan.cpu_rollouts)):
        rolled_out(config, 8, 2, where)  # warm
        for parallel in sizes:
            result = rolled_out(config, parallel, plan.episodes, where)
            synchronise(where)
            rows.append(
                {
                    "device": where.type,
                    "rollouts": result.returns.shape[0] * result.returns.shape[1],
                    "steps_per_second": result.steps_per_second,
                }
            )
    return {"rows": rows}


# --- peak and engines ------------------------------------------------------------------------


def peak_flops(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """Of a square matrix product: what the device reaches, not what its leaflet says."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        synchronise(device)
        begun = time.perf_counter()
        a @ a
        synchronise(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    return best


def measure_peak(plan: Plan, device: torch.device) -> dict[str, Any]:
    """The share of the peak that one training and the largest pack reach (3 x the forward pass)."""
    config = config_of(plan)
    work = 3 * 2e6 * config.train.batch_size * config.spec.window_work(config.model, config.others)
    rows = []
    for where, size in ((device, 1), (device, min(64, plan.packs[-1])), (CPU, 1)):
        matrix = plan.matrix if where.type == "cuda" else plan.cpu_matrix
        peak = peak_flops(matrix, where, torch.float32)
        seconds = seconds_an_update([config_of(plan, seed) for seed in range(size)], where, plan)
        rows.append(
            {
                "device": where.type,
                "pack": size,
                "flops": size * work / seconds,
                "peak_fp32": peak,
                "share": size * work / seconds / peak,
            }
        )
    half = peak_flops(plan.matrix, device, torch.bfloat16)
    return {"rows": rows, "peak_bf16": half}


def engine_rank(plan: Plan, device: str, settings: dict[str, Any], folder: str) -> None:
    """One rank of an engine, in a process of its own; writes its seconds an update."""
    prepare_process(1)
    assignment = RankAssignment(0, 1, 0, "127.0.0.1", secrets.token_hex(4))
    where = torch.device("cuda:0" if device == "cuda" else "cpu")
    config = config_of(plan, optimizer="adamw", **settings)
    arrays = made_up_histories(task_family(config.env), config.source.steps_per_stream)
    learner = build_training(config, arrays)
    with joined(assignment, Path(folder), StopFlag(), device) as ranks:
        engine = start_engine(config.train, learner.trained, ranks, where)
        took = []
        for update in range(plan.updates_a_lap * (plan.laps + 1)):
            batch = learner.sampler.batch(update, device=where)
            synchronise(where)
            begun = time.perf_counter()
            loss = float(engine.update([batch], learner.objective, 1.0).columns[0])
            took.append(time.perf_counter() - begun)
    median = float(np.median(took[plan.updates_a_lap :]))
    write_json(Path(folder) / "result.json", {"seconds_an_update": median, "last": loss})


def measure_engines(plan: Plan, device: torch.device) -> dict[str, Any]:
    """Every engine with one rank: NCCL on a GPU, gloo on a CPU."""
    rows: dict[str, Any] = {}
    context = multiprocessing.get_context("spawn")
    for name, settings in (
        ("plain", {}),
        ("accelerate", {"engine": "accelerate"}),
        ("deepspeed, ZeRO 1", {"engine": "deepspeed", "zero_stage": 1}),
    ):
        with tempfile.TemporaryDirectory() as folder:
            process = context.Process(target=engine_rank, args=(plan, device.type, settings, folder))
            process.start()
            process.join(90)
            if process.is_alive():
                process.kill()
            file = Path(folder) / "result.json"
            rows[name] = json.loads(file.read_text()) if file.exists() else f"exit code {process.exitcode}"
    return rows


# --- all -------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Plan, torch.device], dict[str, Any]]] = {
    "equality": measure_equality,
    "packs": measure_packs,
    "roll-outs": measure_rollouts,
    "engines": measure_engines,
    "peak": measure_peak,
    "ablation": measure_ablation,
}


def draw(results: dict[str, Any], file: Path) -> None:
    """Models an hour by pack, and steps a second by roll-outs."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
    for ax, part, x, y, title in (
        (axes[0], "packs", "pack", "models_an_hour", "models an hour by models in a pack"),
        (axes[1], "roll-outs", "rollouts", "steps_per_second", "steps a second by roll-outs"),
    ):
        rows = results.get(part, {}).get("rows", [])
        for name in dict.fromkeys(row["device"] for row in rows):
            own = [row for row in rows if row["device"] == name]
            ax.loglog([row[x] for row in own], [row[y] for row in own], "o-", label=name)
        ax.set_title(title, fontsize=9)
        ax.legend(frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="on a CPU, tiny: shows that it runs")
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=8, help="begin no part after that")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--figure", type=Path, help="draw them here (PNG)")
    given = parser.parse_args()
    plan = QUICK if given.quick else Plan()
    if not given.quick and not torch.cuda.is_available():
        sys.exit("gpu.py: torch finds no GPU here; --quick shows on a CPU that the script runs")
    device = CPU if given.quick else torch.device("cuda", 0)
    prepare_process(1)
    synchronise(device)  # from here on there is something to ask about
    console = Console()
    name = "CPU (quick: no measurement)" if given.quick else torch.cuda.get_device_name(device)
    results: dict[str, Any] = {
        "quick": given.quick,
        "device": name,
        "torch": torch.__version__,
        "seconds": {},
    }
    begun = time.perf_counter()
    for part in given.parts:
        if time.perf_counter() - begun > 60 * given.minutes:
            results[part] = {"skipped": f"{given.minutes:g} minutes had passed"}
            continue
        started = time.perf_counter()
        try:
            results[part] = PARTS[part](plan, device)
        except Exception as error:  # the others are worth having
            results[part] = {"error": f"{type(error).__name__}: {error}"}
        results["seconds"][part] = time.perf_counter() - started
        console.print(part, results[part])
        if given.json:
            write_json(given.json, results)  # what is measured is kept, whatever comes
    if given.figure:
        with contextlib.suppress(KeyError):
            draw(results, given.figure)
    sys.exit(int(any("error" in results[part] for part in given.parts)))


if __name__ == "__main__":
    main()
