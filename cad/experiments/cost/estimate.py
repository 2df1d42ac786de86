"""Estimate what stages will take before they run: pure functions of measured rates.

A stage takes a known number of steps (updates, environment steps, transitions).  How many steps a second
one process makes is measured (:mod:`cad.experiments.cost.calibration`).  Between stages that differ only
in size, the rate is scaled by the work of a step, counted in multiply-accumulates.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from cad.experiments.durations import duration_in_words, hours_in_words
from cad.experiments.plan.stage import Stage

RateKey = tuple[str, ...]
"""What two stages must share for the rate of one to hold for the other."""

# A rate measured at so much more or less work a step is not used.
_FAR = 4.0


@dataclass(frozen=True)
class Rate:
    """One measurement of one process, whose steps were of ``work`` million multiply-accumulates each.

    ``source`` is ``finished`` or ``calibration``.
    """

    key: RateKey
    work: float
    steps_per_second: float
    source: str


class Rates:
    """All measured rates; a stage's own is scaled from those of the most similar work."""

    def __init__(self, rates: Iterable[Rate] = ()) -> None:
        self._by_work: dict[RateKey, dict[float, list[Rate]]] = defaultdict(lambda: defaultdict(list))
        for rate in rates:
            self.add(rate)

    def add(self, rate: Rate) -> None:
        """Add one measurement."""
        self._by_work[rate.key][rate.work].append(rate)

    def of(self, stage: Stage, device: str) -> Rate | None:
        """The stage's rate; None where nothing with its key is within a factor of four of its work."""
        key, work = rate_key(stage, device), work_of(stage)
        measured = self._by_work.get(key, {})
        nearest = min(measured, key=lambda other: abs(math.log(other / work)), default=None)
        if nearest is None or not work / _FAR <= nearest <= work * _FAR:
            return None
        steps_per_second = median(rate.steps_per_second for rate in measured[nearest]) * nearest / work
        return Rate(key, work, steps_per_second, measured[nearest][-1].source)


@dataclass(frozen=True)
class Allocation:
    """What a stage is given while it runs, and the pool of stages whose turn it waits for.

    ``workers`` processes share a collection, ``ranks`` a training (assumed to lose no time by it).
    Beside a stage that is ``alone`` no other runs.
    """

    device: str = "cpu"
    cores: int = 1
    gpus: int = 0
    workers: int = 1
    ranks: int = 1
    pool: str = ""
    alone: bool = False


@dataclass(frozen=True)
class Estimate:
    """What running some stages will take, by kind of stage; stages with a GPU count as GPU-hours.

    ``seconds`` is the time until the last stage ends if none waits for anything but the others.
    ``sources`` says where the rates come from; ``unknown`` counts the stages, by kind, that could not be
    measured.
    """

    core_hours: dict[str, float]
    gpu_hours: dict[str, float]
    seconds: float
    sources: tuple[str, ...]
    unknown: dict[str, int]

    def exceeds(self, hours: float) -> bool:
        """Whether core-hours or GPU-hours are above ``hours``, or may be."""
        return bool(self.unknown) or max(sum(self.core_hours.values()), sum(self.gpu_hours.values())) > hours

    def __str__(self) -> str:
        """One line for people."""
        parts = [
            hours_in_words(by_kind, unit)
            for by_kind, unit in ((self.gpu_hours, "GPU-hours"), (self.core_hours, "core-hours"))
            if by_kind
        ]
        if self.unknown:
            missing = ", ".join(f"{n} {kind}" for kind, n in self.unknown.items())
            parts.append(f"{missing} that could not be measured")
        text = " and ".join(parts)
        if self.sources:
            end = duration_in_words(self.seconds)
            text += f"; done in {end} without queueing (rates: {', '.join(self.sources)})"
        return text


def estimate(
    stages: Sequence[Stage],
    allocation_of: Callable[[Stage], Allocation],
    rates: Rates,
    limits: Mapping[str, int],
) -> Estimate:
    """Estimate what ``stages``, the first to start first, will take.

    A stage begins when its inputs are done and its pool has room: ``limits`` is how many stages of a pool
    run at a time.  While it waits for its inputs, it takes nobody's place.  Inputs outside ``stages``
    count as done.
    """
    hours: dict[bool, dict[str, float]] = {True: defaultdict(float), False: defaultdict(float)}
    unknown: Counter[str] = Counter()
    sources: set[str] = set()
    took: dict[str, float] = {}
    for stage in stages:
        given = allocation_of(stage)
        if not steps_of(stage):
            took[stage.name] = 0.0
            continue
        rate = rates.of(stage, given.device)
        if rate is None:
            unknown[stage.kind] += 1
            continue
        sources.add(rate.source)
        seconds = _steps_of_one_process(stage, given) / rate.steps_per_second
        hours[given.gpus > 0][stage.kind] += (given.gpus or given.cores) * seconds / 3600
        took[stage.name] = seconds
    known = [stage for stage in stages if stage.name in took]
    last = _last_end(known, took, {stage.name: allocation_of(stage) for stage in known}, limits)
    return Estimate(dict(hours[False]), dict(hours[True]), last, tuple(sorted(sources)), dict(unknown))


def _last_end(
    stages: Sequence[Stage],
    seconds: Mapping[str, float],
    given: Mapping[str, Allocation],
    limits: Mapping[str, int],
) -> float:
    """When the last of ``stages`` ends, if each starts as soon as it may, the first in order first."""
    waiting = {stage.name: stage for stage in stages}
    unfinished = set(waiting)
    running: list[tuple[float, str]] = []  # ends, and names
    places: Counter[str] = Counter()  # taken, by pool
    now = 0.0
    while waiting or running:
        for name, stage in list(waiting.items()):
            if any(needed.name in unfinished for needed in stage.inputs):
                continue
            if running and (given[name].alone or given[running[0][1]].alone):
                break
            pool = given[name].pool
            if places[pool] < limits.get(pool, len(stages)):
                del waiting[name]
                places[pool] += 1
                heapq.heappush(running, (now + seconds[name], name))
        now = running[0][0]
        while running and running[0][0] == now:
            _, name = heapq.heappop(running)
            places[given[name].pool] -= 1
            unfinished.remove(name)
    return now


def rate_key(stage: Stage, device: str) -> RateKey:
    """Kind of stage, kind of model, device, and settings that change a rate other than by size."""
    config = stage.config
    if stage.kind == "histories":
        return ("histories", config.env.name, *map(str, config.source.rate_settings))
    if stage.kind == "evaluate":
        return (stage.kind, config.model.kind, device)
    loop = config.train if stage.kind == "train" else config.pretrain
    how = (loop.optimizer, loop.precision, "compiled" if loop.compile else "not compiled")
    return (stage.kind, config.model.kind, device, *how)


def steps_of(stage: Stage) -> int:
    """Updates of a training, steps in the environment of an evaluation, transitions of a collection."""
    config = stage.config
    if stage.kind == "train":
        return 0 if config.train.weights is not None else config.train.n_updates
    if stage.kind == "pretrain":
        return config.pretrain.n_updates
    if stage.kind == "evaluate":
        return config.evaluation.n_episodes * config.evaluated_env.steps_per_episode
    return config.env.total_tasks * config.source.n_streams * config.source.steps_per_stream


def _steps_of_one_process(stage: Stage, given: Allocation) -> float:
    """Steps that one process makes while those that it shares the stage with make theirs."""
    if stage.kind == "histories":
        tasks = stage.config.env.total_tasks
        return math.ceil(tasks / min(given.workers, tasks)) * steps_of(stage) / tasks
    return steps_of(stage) / given.ranks


def work_of(stage: Stage) -> float:
    """Million multiply-accumulates of one step's forward pass, by which rates are scaled."""
    config = stage.config
    if stage.kind == "histories":
        return 1.0  # measured for exactly these settings (rate_key)
    spec = config.spec
    if stage.kind == "evaluate":
        return config.n_evaluated * config.evaluation.n_rollouts * spec.rollout_work(config.model)
    if stage.kind == "pretrain":
        assert spec.pretraining is not None  # the config's rules see to it
        return config.pretrain.batch_size * spec.pretraining.window_work(config.model, config.pretrain)
    return config.train.batch_size * spec.window_work(config.model, config.others)
