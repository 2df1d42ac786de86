"""Speed of collection, training and roll-outs on one core, compared with a straightforward reference.

``python benchmarks/throughput.py`` measures everything in one process, pinned to one core, one
thread.  Rates are medians over laps, in units per *CPU-second*, so that other work on the machine
does not change them; the JSON has rates per wall-clock second too.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import reference
import torch
from rich.console import Console
from rich.table import Table

from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.evaluation.rollout import roll_out
from cad.histories.batch import Batch
from cad.histories.sampler import CPU, HistoryArrays, WindowSampler
from cad.histories.source import learn
from cad.interrupt import InterruptedRun, StopFlag
from cad.models.ad.config import ADConfig
from cad.process import prepare_process
from cad.schema import Config
from cad.storage import write_json
from cad.training.learner import build_model, training_objective, training_sampler
from cad.training.loop import train
from cad.training.training import Training

EXPECTED = {"collection": 10.0, "training": 50.0, "roll-outs": 20.0}
LARGEST_GROWTH = 1.2
MODELS: dict[str, dict[str, Any]] = {
    "AD": {"kind": "ad", "n_transit": 80},
    "CompressedAD": {
        "kind": "compressed_ad",
        "n_transit": 40,
        "n_latent": 16,
        "max_compression_depth": 3,
    },
}
# CompressedAD compresses a window of 40 steps every second episode of 20.
EPISODES_A_LAP = 2


@dataclass(frozen=True)
class Plan:
    """How much of everything is measured."""

    streams: int = 100
    steps_per_stream: int = 1000
    collections: int = 3
    tasks: int = 73
    training_laps: int = 7
    updates_a_lap: int = 5
    parallel: tuple[int, ...] = (8, 64, 512)
    # Laps by number of parallel roll-outs; a reference lap of 512 takes half a minute.
    laps: dict[int, int] = field(default_factory=lambda: {8: 20, 64: 5, 512: 5})
    reference_laps: dict[int, int] = field(default_factory=lambda: {8: 5, 64: 3, 512: 1})
    growth_parallel: int = 32
    early_episode: int = 10
    late_episode: int = 400
    growth_laps: int = 7
    matrix: int = 1024


QUICK = Plan(
    streams=25,
    steps_per_stream=80,
    collections=1,
    tasks=2,
    training_laps=2,
    updates_a_lap=1,
    parallel=(8,),
    laps={8: 1},
    reference_laps={8: 1},
    growth_parallel=8,
    early_episode=6,
    late_episode=10,
    growth_laps=2,
    matrix=64,
)


@dataclass(frozen=True)
class Rates:
    """Medians over the laps of one measurement."""

    cpu: float
    wall: float
    laps: int


class Laps:
    """Work done between two calls of :meth:`lap`, per second."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, float]] = []
        self._work: list[float] = []
        self.start()

    def start(self) -> None:
        """Begin a lap; time since the last one is not counted."""
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def lap(self, work: float) -> None:
        """End a lap in which ``work`` units were done, and begin the next one."""
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        self._marks.append((cpu, wall))
        self._work.append(work)
        self.start()

    def rates(self, first: int = 0, last: int | None = None) -> Rates:
        """Units per second in laps ``first`` to ``last`` (exclusive)."""
        marks, work = self._marks[first:last], self._work[first:last]
        return Rates(
            cpu=statistics.median(w / cpu for w, (cpu, _) in zip(work, marks, strict=True)),
            wall=statistics.median(w / wall for w, (_, wall) in zip(work, marks, strict=True)),
            laps=len(work),
        )


@dataclass(frozen=True)
class Comparison:
    """One row: our rates and the reference's, in ``unit`` per second."""

    part: str
    name: str
    unit: str
    ours: Rates
    reference: Rates
    expected: float | None
    share: float | None = None
    """Of the core's peak in float32 that ours reaches."""

    @property
    def ratio(self) -> float:
        """Our speed as a multiple of the reference's, in CPU time."""
        return self.ours.cpu / self.reference.cpu

    @property
    def ok(self) -> bool:
        """Whether the ratio reaches what the project promises."""
        return self.expected is None or self.ratio >= self.expected


@dataclass(frozen=True)
class Growth:
    """Cost of a roll-out step early and late in one long roll-out, in CPU microseconds."""

    name: str
    parallel: int
    early_episode: int
    late_episode: int
    early: float
    late: float

    @property
    def ratio(self) -> float:
        """Above 1: later steps cost more."""
        return self.late / self.early

    @property
    def ok(self) -> bool:
        """Whether it stays the same, up to the noise of a measurement."""
        return self.ratio <= LARGEST_GROWTH


def config_of(model: str) -> Config:
    """Default settings with one of the two models."""
    return Config.model_validate({"model": MODELS[model]})


def size_of(config: Config) -> reference.Size:
    """The reference's model of the same shape."""
    m = config.model
    latents = {"n_latent": m.latents, "depth": m.depth} if m.latents is not None else {}
    return reference.Size(m.n_transit, **latents, width=m.n_embd, layers=m.n_layer, heads=m.n_head)


def peak_flops(size: int) -> float:
    """FLOP a CPU-second of a product of square matrices in float32: what the core reaches."""
    a, best = torch.randn(size, size), 0.0
    for _ in range(5):
        begun = time.process_time()
        a @ a
        best = max(best, 2 * size**3 / (time.process_time() - begun))
    return best


# --- collection ------------------------------------------------------------------------------


def measure_collection(plan: Plan) -> list[Comparison]:
    """PPO learning one Darkroom goal, every transition kept."""
    config = Config()
    settings = {"n_streams": plan.streams, "steps_per_stream": plan.steps_per_stream}
    source = config.source.model_copy(update=settings)
    family, tasks = task_family(config.env), split_tasks(config.env).train
    laps = Laps()
    for task in tasks[: plan.collections]:
        laps.lap(learn(family, task, source).actions.size)
    ours = laps.rates()
    rows = []
    careful = reference.PPOSettings(source.batch_size, source.n_epochs, source.learning_rate)
    for name, ppo, expected in (
        ("PPO learning one goal", reference.PPOSettings(), EXPECTED["collection"]),
        ("the same, our PPO settings in both", careful, None),
    ):
        laps = Laps()
        for task in tasks[: plan.collections]:
            # One roll-out and the learning from it: every later one costs the same.
            laps.lap(reference.collect(task, plan.streams, source.n_steps, 1, ppo, seed=0))
        rows.append(Comparison("collection", name, "transitions", ours, laps.rates(), expected))
    return rows


# --- training --------------------------------------------------------------------------------


def made_up_histories(plan: Plan, config: Config) -> HistoryArrays:
    """Random histories of the real size: speed does not depend on their contents."""
    rng = np.random.default_rng(0)
    shape = (plan.tasks, config.source.n_streams, config.source.steps_per_stream)
    return HistoryArrays(
        observations=rng.integers(0, 9, (*shape, 2), dtype=np.uint8),
        actions=rng.integers(0, 5, shape, dtype=np.uint8),
        rewards=rng.integers(0, 2, shape, dtype=np.uint8),
        horizon=config.env.steps_per_episode,
        n_actions=5,
    )


class CountingSampler:
    """Counts the actions in a sampler's batches: segment lengths differ from update to update."""

    def __init__(self, sampler: WindowSampler) -> None:
        self.sampler, self.actions_drawn = sampler, 0

    def batch(self, update: int, part: int = 0, parts: int = 1, device: torch.device = CPU) -> Batch:
        """Draw a batch and count its actions."""
        batch = self.sampler.batch(update, part, parts, device)
        self.actions_drawn += batch.actions.numel()
        return batch


def training_rates(plan: Plan, config: Config, arrays: HistoryArrays) -> tuple[Rates, float]:
    """The real loop, metrics and all, stopped after some updates; the first lap warms up.

    With it, the supervised actions of an update.
    """
    # The only checkpoint is written at the stop, after the last lap.
    settings = {"log_every": plan.updates_a_lap, "checkpoint_every": 1000 * plan.updates_a_lap}
    config = config.model_copy(update={"train": config.train.model_copy(update=settings)})
    sampler, stop, laps = CountingSampler(training_sampler(config, arrays)), StopFlag(), Laps()
    counted = 0

    def progress(step: int, _values: object) -> None:
        nonlocal counted
        laps.lap(sampler.actions_drawn - counted)
        counted = sampler.actions_drawn
        if step == plan.updates_a_lap * (plan.training_laps + 1):
            stop.request()

    torch.manual_seed(0)
    model = build_model(config)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(InterruptedRun):
        training = Training(
            config.train,
            model,
            sampler,
            Path(folder),
            objective=training_objective(config),
            seed=config.seed,
            run_id="benchmark",
            device=torch.device("cpu"),
            progress=progress,
        )
        train(training, stop)
    return laps.rates(first=1), sampler.actions_drawn / (plan.updates_a_lap * (plan.training_laps + 1))


def reference_training_rates(
    plan: Plan, config: Config, arrays: HistoryArrays, every_step: bool = False
) -> Rates:
    """As many updates of the reference, with our batch size; see :class:`reference.Trainer`."""
    flat = (-1, arrays.actions.shape[-1])
    data = reference.HistoryDataset(
        arrays.observations.reshape(*flat, 2), arrays.actions.reshape(flat), arrays.rewards.reshape(flat)
    )
    trainer = reference.Trainer(size_of(config), data, config.train.batch_size, 0, every_step)
    laps = Laps()
    for _ in range(plan.training_laps + 1):
        laps.lap(sum(trainer.update() for _ in range(plan.updates_a_lap)))
    return laps.rates(first=1)


def measure_training(plan: Plan) -> list[Comparison]:
    """Supervised actions per second of both models.

    The second reference learns from every step of the same windows, as ours does: what is left is code.
    """
    rows, peak = [], peak_flops(plan.matrix)
    for name in MODELS:
        config = config_of(name)
        arrays = made_up_histories(plan, config)
        ours, actions = training_rates(plan, config, arrays)
        work = 3 * 2e6 * config.train.batch_size * config.spec.window_work(config.model, config.others)
        share = ours.cpu / actions * work / peak
        for label, every_step, expected in (
            (name, False, EXPECTED["training"]),
            (f"{name}, every step in both", True, None),
        ):
            plain = reference_training_rates(plan, config, arrays, every_step)
            rows.append(Comparison("training", label, "supervised actions", ours, plain, expected, share))
    return rows


VARIANTS: dict[str, dict[str, Any]] = {
    "bf16": {"train": {"precision": "bf16"}},
    "2 heads": {"model": {"n_head": 2}},
}


def measure_variants(plan: Plan) -> list[Comparison]:
    """Training in another way; the reference is ours as it is by default."""
    rows = []
    for name, (label, change) in itertools.product(MODELS, VARIANTS.items()):
        config = config_of(name)
        arrays = made_up_histories(plan, config)
        model = {**MODELS[name], **change.get("model", {})}
        other = Config.model_validate({"model": model, "train": change.get("train", {})})
        usual, _ = training_rates(plan, config, arrays)
        changed, _ = training_rates(plan, other, arrays)
        rows.append(Comparison("variants", f"{name}, {label}", "supervised actions", changed, usual, None))
    return rows


# --- roll-outs -------------------------------------------------------------------------------


def our_rollouts(
    config: Config, parallel: int, n_episodes: int, progress: Callable[[int], None]
) -> Callable[[], object]:
    """A function that rolls a model of random weights out on the held-out goals."""
    torch.manual_seed(0)
    model = build_model(config).eval()
    family, tasks = task_family(config.env), split_tasks(config.env).heldout
    return lambda: roll_out(
        model,
        family,
        tasks,
        n_rollouts=parallel // len(tasks),
        n_episodes=n_episodes,
        seed=0,
        progress=progress,
    )


def our_rollout_rates(config: Config, parallel: int, n_laps: int) -> Rates:
    """Steps per second of our roll-outs, without the laps until the window is full."""
    warm = -(-config.model.n_transit // (EPISODES_A_LAP * config.env.steps_per_episode))
    work = EPISODES_A_LAP * config.env.steps_per_episode * parallel
    laps = Laps()
    our_rollouts(
        config,
        parallel,
        EPISODES_A_LAP * (warm + n_laps),
        lambda done: laps.lap(work) if done % EPISODES_A_LAP == 0 else None,
    )()
    return laps.rates(first=warm)


def reference_rollout_rates(config: Config, parallel: int, n_laps: int, drop: int = 1) -> Rates:
    """The same for the reference, which warms up for one lap, if there is more than one."""
    torch.manual_seed(0)
    model = reference.ReferenceModel(size_of(config)).eval()
    tasks = split_tasks(config.env).heldout
    warm = 1 if n_laps > 1 else 0
    work = EPISODES_A_LAP * config.env.steps_per_episode * parallel
    laps = Laps()
    reference.roll_out(
        model,
        [task for task in tasks for _ in range(parallel // len(tasks))],
        EPISODES_A_LAP * (n_laps + warm),
        lambda done: laps.lap(work) if done % EPISODES_A_LAP == 0 else None,
        drop,
    )
    return laps.rates(first=warm)


def measure_rollouts(plan: Plan) -> list[Comparison]:
    """Steps per second of all parallel roll-outs together, once the window is full.

    Where AD's window grows and drops as many steps at once in both, what is left is code and cache; the
    window of CompressedAD's reference does so anyway.
    """
    rows, peak = [], peak_flops(plan.matrix)
    for name, parallel in itertools.product(MODELS, plan.parallel):
        config, n_laps = config_of(name), plan.reference_laps[parallel]
        ours = our_rollout_rates(config, parallel, plan.laps[parallel])
        share = ours.cpu * 2e6 * config.spec.rollout_work(config.model) / peak
        label = f"{name}, {parallel} parallel"
        plain = reference_rollout_rates(config, parallel, n_laps)
        rows.append(Comparison("roll-outs", label, "steps", ours, plain, EXPECTED["roll-outs"], share))
        if isinstance(config.model, ADConfig) and parallel == plan.parallel[0]:
            plain = reference_rollout_rates(config, parallel, n_laps, config.model.steps_dropped)
            label += ", equal window"
            rows.append(Comparison("roll-outs", label, "steps", ours, plain, None, share))
    return rows


def growth_of(name: str, plan: Plan) -> Growth:
    """Measure early and late laps in turn: after each late lap of the long roll-out, a new one runs up to
    its early lap.  Other load on the machine then affects both equally.
    """
    config, parallel = config_of(name), plan.growth_parallel
    work = EPISODES_A_LAP * config.env.steps_per_episode * parallel
    first_late = plan.late_episode - EPISODES_A_LAP * (plan.growth_laps - 1)
    early, late = Laps(), Laps()

    def early_progress(done: int) -> None:
        if done == plan.early_episode:
            early.lap(work)
        elif done % EPISODES_A_LAP == 0:
            early.start()

    fresh = our_rollouts(config, parallel, plan.early_episode, early_progress)

    def late_progress(done: int) -> None:
        if done % EPISODES_A_LAP == 0:
            if done >= first_late:
                late.lap(work)
                fresh()
            late.start()

    our_rollouts(config, parallel, plan.late_episode, late_progress)()
    cost = [1e6 / laps.rates().cpu for laps in (early, late)]
    return Growth(name, parallel, plan.early_episode, plan.late_episode, *cost)


def measure_growth(plan: Plan) -> list[Growth]:
    """Whether a step late in a long roll-out costs more than an early one."""
    return [growth_of(name, plan) for name in MODELS]


# --- output ----------------------------------------------------------------------------------


def print_tables(console: Console, rows: Sequence[Comparison], growth: Sequence[Growth]) -> None:
    """Print the results for people."""
    table = Table(title="One core, one thread, units per CPU-second (median)")
    table.add_column("what", overflow="fold")
    for heading in ("ours", "reference", "ratio", "expected", "share of peak"):
        table.add_column(heading, justify="right")
    part = None
    for row in rows:
        if row.part != part:
            part = row.part
            table.add_section()
            table.add_row(f"[bold]{part}[/], {row.unit}")
        expected = "" if row.expected is None else f">= {row.expected:g}"
        style = None if row.ok else "red"
        ours, plain = f"{row.ours.cpu:,.0f}", f"{row.reference.cpu:,.0f}"
        share = "" if row.share is None else f"{row.share:.0%}"
        table.add_row(
            f"  {row.name}",
            ours,
            plain,
            f"{row.ratio:.2f}" if row.ratio < 10 else f"{row.ratio:.0f}",
            expected,
            share,
            style=style,
        )
    console.print(table)
    table = Table(title="Do steps of a long roll-out get slower? CPU microseconds per step")
    early_late = (f"episode {growth[0].early_episode}", f"episode {growth[0].late_episode}")
    for heading in ("what", "parallel", *early_late, "ratio", "expected"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for g in growth:
        style = None if g.ok else "red"
        expected = f"<= {LARGEST_GROWTH:g}"
        table.add_row(
            g.name,
            str(g.parallel),
            f"{g.early:.1f}",
            f"{g.late:.1f}",
            f"{g.ratio:.2f}",
            expected,
            style=style,
        )
    console.print(table)


def as_json(rows: Sequence[Comparison], growth: Sequence[Growth], quick: bool) -> dict[str, Any]:
    """The results for programs."""
    measured: list[Comparison | Growth] = [*rows, *growth]
    return {
        "quick": quick,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "results": [{**asdict(r), "ratio": r.ratio, "ok": r.ok} for r in rows],
        "growth": [{**asdict(g), "ratio": g.ratio, "ok": g.ok} for g in growth],
        "ok": all(m.ok for m in measured),
    }


def use_one_core() -> None:
    """Pin this process to one core (where the system can) and PyTorch to one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    prepare_process(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns 1 with ``--check`` if something is slower than promised."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a ratio is not reached")
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes; the numbers mean nothing")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    use_one_core()
    console = Console()
    rows: list[Comparison] = []
    parts: list[tuple[str, Callable[[Plan], list[Comparison]]]] = [
        ("collection", measure_collection),
        ("training", measure_training),
        ("variants of training", measure_variants),
        ("roll-outs", measure_rollouts),
    ]
    for name, measure in parts:
        console.print(f"measuring {name} ...")
        rows += measure(plan)
    console.print("measuring a long roll-out ...")
    growth = measure_growth(plan)
    print_tables(console, rows, growth)
    numbers = as_json(rows, growth, options.quick)
    if options.json:
        write_json(options.json, numbers)
    return int(options.check and not numbers["ok"])


if __name__ == "__main__":
    sys.exit(main())
