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
from dataclasses import dataclass, field
from functools import cached_property
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
class Shared:
    """The ``task`` that a stage shares with others, and the ``process`` in it, which works on all of its own.

    So many processes of the task run ``side_by_side``, the longest first.
    """

    task: str
    process: str
    side_by_side: int = 1


@dataclass(frozen=True)
class Allocation:
    """What a stage is given while it runs, and the pool of tasks whose turn it waits for.

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
    shared: Shared | None = None
    """With others, if not alone in its task; all of a task have equal allocations."""


@dataclass(frozen=True)
class Estimate:
    """What running some stages will take, by kind of stage; stages with a GPU count as GPU-hours.

    ``seconds`` is the time until the last stage ends if none waits for anything but the others.
    ``sources`` says where the rates come from; ``unknown`` counts the stages, by kind, that could not be
    measured; ``shared`` are the seconds of each task that several stages share.
    """

    core_hours: dict[str, float]
    gpu_hours: dict[str, float]
    seconds: float
    sources: tuple[str, ...]
    unknown: dict[str, int]
    shared: dict[str, float] = field(default_factory=dict)

    def exceeds(self, hours: float) -> bool:
        """Whether core-hours or GPU-hours are above ``hours``, or may be."""
        return bool(self.unknown) or max(sum(self.core_hours.values()), sum(self.gpu_hours.values())) > hours

    def __str__(self) -> str:
        """One line for people, of work that runs at once."""
        return self.in_words()

    def in_words(self, queue: str = "") -> str:
        """One line for people; ``queue`` says what the time until the end leaves out."""
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
            text += f"; done in {end}{queue} (rates: {', '.join(self.sources)})"
        return text


def estimate(
    stages: Sequence[Stage],
    allocation_of: Callable[[Stage], Allocation],
    rates: Rates,
    limits: Mapping[str, int],
) -> Estimate:
    """Estimate what ``stages``, the first to start first, will take.

    A task (a stage, or those that share one) begins when all its inputs are done and its pool has room:
    ``limits`` is how many tasks of a pool run at a time.  While it waits for its inputs, it takes nobody's
    place.  Inputs outside ``stages`` count as done.  Its allocation is held until the last of it ends.
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
        took[stage.name] = _steps_of_one_process(stage, given) / rate.steps_per_second
    tasks: dict[str, _Task] = {}
    for stage in stages:
        if stage.name in took:
            given = allocation_of(stage)
            name = stage.name if given.shared is None else given.shared.task
            tasks.setdefault(name, _Task(given)).add(stage, given, took[stage.name])
    shared = {}
    for name, task in tasks.items():
        given = task.given
        hours[given.gpus > 0][task.stages[0].kind] += (given.gpus or given.cores) * task.seconds / 3600
        if given.shared is not None:
            shared[name] = task.seconds
    for by_kind in hours.values():  # what takes no time is no work
        for kind in [kind for kind, spent in by_kind.items() if not spent]:
            del by_kind[kind]
    last = _last_end(tasks, limits)
    return Estimate(
        dict(hours[False]), dict(hours[True]), last, tuple(sorted(sources)), dict(unknown), shared
    )


class _Task:
    """A stage, or several that share an allocation, and how long they take."""

    def __init__(self, given: Allocation) -> None:
        self.given, self.stages = given, list[Stage]()
        self._processes: dict[str, float] = defaultdict(float)

    def add(self, stage: Stage, given: Allocation, seconds: float) -> None:
        """Add a stage that takes so long by itself."""
        self.stages.append(stage)
        self._processes[stage.name if given.shared is None else given.shared.process] += seconds

    @cached_property
    def seconds(self) -> float:
        """Until the last process ends; a process begins where one has ended."""
        ends = [0.0] * (1 if self.given.shared is None else self.given.shared.side_by_side)
        for seconds in sorted(self._processes.values(), reverse=True):
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends)


def _last_end(tasks: Mapping[str, _Task], limits: Mapping[str, int]) -> float:
    """When the last of ``tasks`` ends, if each starts as soon as it may, the first in order first."""
    waiting = dict(tasks)
    unfinished = {stage.name for task in tasks.values() for stage in task.stages}
    running: list[tuple[float, str]] = []  # ends, and names
    places: Counter[str] = Counter()  # taken, by pool
    now = 0.0
    while waiting or running:
        for name, task in list(waiting.items()):
            if any(needed.name in unfinished for stage in task.stages for needed in stage.inputs):
                continue
            if running and (task.given.alone or tasks[running[0][1]].given.alone):
                break
            pool = task.given.pool
            if places[pool] < limits.get(pool, len(tasks)):
                del waiting[name]
                places[pool] += 1
                heapq.heappush(running, (now + task.seconds, name))
        now = running[0][0]
        while running and running[0][0] == now:
            _, name = heapq.heappop(running)
            places[tasks[name].given.pool] -= 1
            unfinished -= {stage.name for stage in tasks[name].stages}
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
    return config.train.batch_size * spec.training_work(config.model, config.others)
