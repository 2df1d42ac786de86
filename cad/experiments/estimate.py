"""What stages will cost before they run: pure functions of measured paces.

A stage takes a known number of steps (updates, environment steps, transitions).  How long one step
takes is measured (:mod:`cad.experiments.measure`); between stages of one kind that differ in size it
is scaled by the work of a step, counted in multiply-accumulates.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from cad.config.schema import Config, ModelConfig
from cad.experiments.plan import Stage

Pace = tuple[str, ...]
"""What two stages must share for the pace of one to say something of the other's."""

# A pace measured at so much more or less work a step is not relied on.
_FAR = 4.0


@dataclass(frozen=True)
class Rate:
    """One measurement: a step of ``work`` million multiply-accumulates took ``seconds`` of one process."""

    pace: Pace
    work: float
    seconds: float
    source: str
    """Where it comes from: ``finished`` or ``calibration``."""


@dataclass(frozen=True)
class Allocation:
    """What one stage of a kind is given while it runs, and the pool that it waits in.

    ``workers`` processes share a collection, ``ranks`` a training (as if they lost no time by it).
    """

    device: str = "cpu"
    cores: int = 1
    gpus: int = 0
    workers: int = 1
    ranks: int = 1
    pool: str = ""


@dataclass(frozen=True)
class Task:
    """A stage to be run: ``seconds`` long, behind ``after``, one of the tasks that share ``pool``."""

    name: str
    seconds: float
    after: tuple[str, ...] = ()
    pool: str = ""


@dataclass(frozen=True)
class Estimate:
    """What running some stages will take, by kind of stage; stages with a GPU count as GPU-hours.

    ``seconds`` is the time to the last one's end if none waits for anything but the others, ``sources``
    where the paces come from, ``unknown`` the kinds (and how many stages) that could not be measured.
    """

    core_hours: dict[str, float]
    gpu_hours: dict[str, float]
    seconds: float
    sources: tuple[str, ...]
    unknown: dict[str, int]

    def exceeds(self, hours: float) -> bool:
        """Whether core-hours or GPU-hours are above ``hours``, or cannot be told."""
        return bool(self.unknown) or max(sum(self.core_hours.values()), sum(self.gpu_hours.values())) > hours

    def __str__(self) -> str:
        """One line for people."""
        parts = [
            f"{_hours(sum(by_kind.values()))} {unit} ({_by_kind(by_kind)})"
            for by_kind, unit in ((self.gpu_hours, "GPU-hours"), (self.core_hours, "core-hours"))
            if by_kind
        ]
        if self.unknown:
            missing = ", ".join(f"{n} {kind}" for kind, n in self.unknown.items())
            parts.append(f"{missing} that could not be measured")
        if not self.sources:
            return " and ".join(parts)
        paces = ", ".join(self.sources)
        return f"{' and '.join(parts)}; done in {in_words(self.seconds)} without queueing (paces: {paces})"


def estimate(
    stages: Sequence[Stage],
    allocation_of: Callable[[Stage], Allocation],
    paces: Paces,
    limits: Mapping[str, int],
) -> Estimate:
    """What ``stages``, in the order in which they start, will take.

    ``limits`` are the stages of a pool that run at a time; inputs that are not among ``stages`` are
    taken as done.
    """
    core_hours: dict[str, float] = {}
    gpu_hours: dict[str, float] = {}
    unknown: Counter[str] = Counter()
    tasks = []
    sources: dict[tuple[str, str], set[str]] = {}
    for stage in stages:
        given = allocation_of(stage)
        a_step = paces.seconds_a_step(stage, given.device)
        if a_step is None:
            unknown[stage.kind] += 1
            continue
        seconds = a_step * _steps_in_a_row(stage, given)
        spent, amount = (gpu_hours, given.gpus) if given.gpus else (core_hours, given.cores)
        spent[stage.kind] = spent.get(stage.kind, 0.0) + amount * seconds / 3600
        tasks.append(Task(stage.name, seconds, tuple(needed.name for needed in stage.inputs), given.pool))
        key = (stage.kind, stage.config.model.kind)
        if key not in sources:
            sources[key] = paces.sources(stage, given.device)
    return Estimate(
        core_hours,
        gpu_hours,
        finishing_seconds(tasks, limits),
        tuple(sorted(set().union(*sources.values()))),
        dict(unknown),
    )


def pace_of(stage: Stage, device: str) -> Pace:
    """Kind of stage, kind of model, device, and the settings that change a pace otherwise than by size."""
    config = stage.config
    if stage.kind == "histories":
        source = config.source
        return ("histories", config.env.name, *map(str, (source.n_streams, source.batch_size)),
                *map(str, (source.n_steps, source.n_epochs, source.hidden)))  # fmt: skip
    if stage.kind == "evaluate":
        return (stage.kind, config.model.kind, device)
    loop = config.train if stage.kind == "train" else config.pretrain
    how = (loop.optimizer, loop.precision, "compiled" if loop.compile else "not compiled")
    return (stage.kind, config.model.kind, device, *how)


def steps_of(stage: Stage) -> int:
    """Updates of a training, steps in the environment of an evaluation, transitions of a collection."""
    config = stage.config
    if stage.kind == "train":
        return config.train.n_updates
    if stage.kind == "pretrain":
        return config.pretrain.n_updates
    if stage.kind == "evaluate":
        return config.evaluation.n_episodes * config.env.steps_per_episode
    return config.env.total_tasks * config.source.n_streams * config.source.steps_per_stream


def work_of(stage: Stage) -> float:
    """Million multiply-accumulates of one step's forward pass; what the pace of a step is scaled by."""
    config = stage.config
    if stage.kind == "histories":
        return 1.0  # measured for just these settings (pace_of)
    if stage.kind == "evaluate":
        return config.n_evaluated * config.evaluation.n_rollouts * _roll_out_work(config.model)
    if stage.kind == "pretrain":
        return config.pretrain.batch_size * (_encoding_work(config.model) + _reconstruction_work(config))
    work = _window_work(config.model)
    if config.train.reconstruction_weight:
        work += _reconstruction_work(config)
    return config.train.batch_size * work


class Paces:
    """Measured rates, by what they say something of."""

    def __init__(self, rates: Iterable[Rate] = ()) -> None:
        self._found: dict[Pace, dict[float, list[Rate]]] = {}
        for rate in rates:
            self.add(rate)

    def add(self, rate: Rate) -> None:
        """Take in one more."""
        self._found.setdefault(rate.pace, {}).setdefault(rate.work, []).append(rate)

    def seconds_a_step(self, stage: Stage, device: str) -> float | None:
        """From the rates of the same pace: the median of those of this work, else in proportion.

        None where no rate of this pace is within a factor of four of the stage's work.
        """
        found, work = self._found.get(pace_of(stage, device), {}), work_of(stage)
        if not any(work / _FAR <= measured <= work * _FAR for measured in found):
            return None
        below, below_seconds = 0.0, 0.0  # no work takes no time
        for measured in sorted(found):
            seconds = median(rate.seconds for rate in found[measured])
            if measured >= work:
                share = (work - below) / (measured - below)
                return below_seconds + share * (seconds - below_seconds)
            below, below_seconds = measured, seconds
        return below_seconds * work / below

    def sources(self, stage: Stage, device: str) -> set[str]:
        """Where the rates of a stage's pace come from."""
        found = self._found.get(pace_of(stage, device), {})
        return {rate.source for rates in found.values() for rate in rates}


def finishing_seconds(tasks: Sequence[Task], limits: Mapping[str, int]) -> float:
    """When the last task ends if all begin as soon as they may, in the order given.

    At most ``limits[pool]`` tasks of a pool run at a time; tasks come behind those they wait for.
    """
    ends: dict[str, float] = {}
    free: dict[str, list[float]] = {}
    for task in sorted(tasks, key=lambda task: task.pool):
        free.setdefault(task.pool, [0.0] * limits.get(task.pool, len(tasks)))
    for task in tasks:
        ready = max((ends[name] for name in task.after if name in ends), default=0.0)
        begin = max(ready, heapq.heappop(free[task.pool]))
        ends[task.name] = begin + task.seconds
        heapq.heappush(free[task.pool], ends[task.name])
    return max(ends.values(), default=0.0)


def in_words(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``, ``2 d 4 h``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def _steps_in_a_row(stage: Stage, given: Allocation) -> float:
    """Steps that one process works through while the others work beside it."""
    if stage.kind == "histories":
        tasks = stage.config.env.total_tasks
        return math.ceil(tasks / min(given.workers, tasks)) * steps_of(stage) / tasks
    return steps_of(stage) / given.ranks


def _hours(hours: float) -> str:
    return f"{hours:.2g}" if hours < 9.5 else f"{hours:.0f}"


def _by_kind(hours: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {_hours(spent)}" for kind, spent in hours.items())


def _blocks(model: ModelConfig, layers: int, tokens: float, seen: float) -> float:
    """Transformer blocks over ``tokens`` tokens, each of which sees ``seen``."""
    d, inner = model.n_embd, model.n_inner or 4 * model.n_embd
    return layers * tokens * (4 * d * d + 2 * d * inner + 2 * d * seen) / 1e6


def _encoder(model: ModelConfig, steps: float) -> float:
    tokens = steps + 2 * model.n_latent  # old latents, steps, queries
    return _blocks(model, model.encoder_n_layer, tokens, tokens)


def _mean_segment(model: ModelConfig) -> float:
    return sum(model.compress_lengths) / 2


def _encoding_work(model: ModelConfig) -> float:
    return model.max_compression_depth * _encoder(model, _mean_segment(model))


def _window_work(model: ModelConfig) -> float:
    """Of one training window."""
    if model.kind == "ad":
        return _blocks(model, model.n_layer, model.n_transit, model.n_transit)
    if model.kind == "region_ad":
        region = model.compress_interval + 2
        seen = model.n_regions * region + (model.n_latent if model.folds_regions else 0)
        folds = model.max_compression_depth * _encoder(model, region) if model.folds_regions else 0.0
        return _blocks(model, model.n_layer, model.training_regions * region, seen) + folds
    behind = _mean_segment(model) + model.n_latent
    return _blocks(model, model.n_layer, model.n_depths * behind, behind) + _encoding_work(model)


def _reconstruction_work(config: Config) -> float:
    """Of the decoder that reconstructs k segments from the latents behind them, k = 1 .. depth."""
    model = config.model
    segment = _mean_segment(model)
    tokens = [k * segment + model.n_latent for k in range(1, model.max_compression_depth + 1)]
    return sum(_blocks(model, config.pretrain.decoder_n_layer, n, n) for n in tokens)


def _roll_out_work(model: ModelConfig) -> float:
    """Of one step of one roll-out: a token through the cache, and its share of what is done now and then."""
    step = _blocks(model, model.n_layer, 1, model.n_transit + (model.n_latent if model.has_latents else 0))
    if model.kind == "ad":
        kept = model.n_transit - model.steps_dropped
        return step + _blocks(model, model.n_layer, kept, kept) / model.steps_dropped
    if model.kind == "region_ad":
        room = model.region_room
        folded = _encoder(model, room) if model.folds_regions else 0.0
        kept = (model.n_regions - 1) * room
        return step + (folded + _blocks(model, model.n_layer, kept, kept)) / room
    longest = model.compress_lengths[1]
    return step + (_encoder(model, longest) / longest if model.max_compression_depth else 0.0)
