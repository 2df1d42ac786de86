"""Which stages go into which job array, and what each array waits for: pure decisions, no Slurm.

Finished stages are left out, queued and running ones are joined by depending on their job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from cad.experiments.plan import Stage


@dataclass(frozen=True)
class Planned:
    """Task ``index`` of the ``array``-th array of this submission."""

    array: int
    index: int


Before = Planned | str
"""What must end well first: a task of this submission, or the id of a job that is there already."""


@dataclass(frozen=True)
class Scale:
    """Factors on a profile's memory and time limit, for a stage that ran out of them."""

    memory: float = 1.0
    minutes: float = 1.0


@dataclass(frozen=True)
class StageArray:
    """Stages of one kind that become one job array.

    ``after`` lists what the whole array waits for; with ``pairwise``, the number of an earlier
    array, task i waits for task i of that one alone.
    """

    kind: str
    stages: tuple[Stage, ...]
    scale: Scale = Scale()
    after: tuple[Before, ...] = ()
    pairwise: int | None = None


def plan_arrays(
    wanted: tuple[Stage, ...],
    alive: Mapping[str, str],
    max_size: int,
    scale: Callable[[Stage], Scale] = lambda _stage: Scale(),
) -> tuple[StageArray, ...]:
    """Arrays for ``wanted``, the stages to submit, in an order in which they can be submitted.

    ``alive`` gives the job ids of stages that are queued or running; an input that is neither
    wanted nor alive is taken as done.  No array has more than ``max_size`` tasks.
    """
    plan = _Plan(alive, max_size, scale)
    needed = {stage.name for other in wanted for stage in other.inputs}
    # Tasks that others wait for come first, so that the arrays behind them can go pair by pair.
    todo = sorted(wanted, key=lambda stage: stage.name not in needed)
    for kind in _kinds_in_order(wanted):
        of_kind = [stage for stage in todo if stage.kind == kind]
        # A training that starts from another one goes into an array of its own behind it.
        for behind in sorted({_behind_its_kind(stage) for stage in of_kind}):
            plan.add_kind([stage for stage in of_kind if _behind_its_kind(stage) == behind])
    return tuple(plan.arrays)


def fitting(wanted: tuple[Stage, ...], room: int | None) -> tuple[Stage, ...]:
    """The first ``room`` of ``wanted``, which come cell by cell: whole cells, but for the last one."""
    return wanted if room is None else wanted[:room]


def dependency(array: StageArray, arrays: tuple[StageArray, ...], job_ids: list[str]) -> str | None:
    """The value of sbatch's ``--dependency``; ``job_ids`` are those of the arrays submitted so far."""
    if array.pairwise is not None:
        return f"aftercorr:{job_ids[array.pairwise]}"
    if not array.after:
        return None
    words = []
    for before in array.after:
        if isinstance(before, str):
            words.append(before)
        else:
            # An array of one task is an ordinary job: it has no index.
            index = f"_{before.index}" if len(arrays[before.array].stages) > 1 else ""
            words.append(f"{job_ids[before.array]}{index}")
    return "afterok:" + ":".join(words)


def _kinds_in_order(stages: tuple[Stage, ...]) -> list[str]:
    """Kinds with those first that the others need."""

    def depth(stage: Stage) -> int:
        return 1 + max((depth(needed) for needed in stage.inputs), default=0)

    deepest: Counter[str] = Counter()
    for stage in stages:
        deepest[stage.kind] = max(deepest[stage.kind], depth(stage))
    return sorted(deepest, key=lambda kind: deepest[kind])


def _behind_its_kind(stage: Stage) -> int:
    """How many stages of its own kind it needs, one behind the other."""
    return max((1 + _behind_its_kind(n) for n in stage.inputs if n.kind == stage.kind), default=0)


class _Plan:
    def __init__(self, alive: Mapping[str, str], max_size: int, scale: Callable[[Stage], Scale]) -> None:
        self.arrays: list[StageArray] = []
        self._places: dict[str, Planned] = {}
        self._alive = alive
        self._max_size = max_size
        self._scale = scale

    def add_kind(self, stages: list[Stage]) -> None:
        """Add the arrays of one kind; those of the kinds it needs are there."""
        groups: dict[tuple[Scale, tuple[Before, ...]], list[Stage]] = {}
        for stage in stages:
            groups.setdefault((self._scale(stage), self._before(stage)), []).append(stage)
        for scale, earlier, paired in list(self._pairs(groups)):
            self._add(StageArray(paired[0].kind, tuple(paired), scale, pairwise=earlier))
            for stage in paired:
                del groups[scale, self._before(stage)]
        for (scale, after), members in groups.items():
            for start in range(0, len(members), self._max_size):
                part = tuple(members[start : start + self._max_size])
                self._add(StageArray(part[0].kind, part, scale, after))

    def _pairs(
        self, groups: dict[tuple[Scale, tuple[Before, ...]], list[Stage]]
    ) -> Iterator[tuple[Scale, int, list[Stage]]]:
        """Runs of at least two stages that each wait for one task, 0, 1, 2, ..., of one array."""
        for scale in dict.fromkeys(scale for scale, _ in groups):
            for number, array in enumerate(self.arrays):
                paired = []
                for index in range(len(array.stages)):
                    behind = groups.get((scale, (Planned(number, index),)), [])
                    if len(behind) != 1:
                        break
                    paired += behind
                if len(paired) > 1:
                    yield scale, number, paired

    def _before(self, stage: Stage) -> tuple[Before, ...]:
        found: list[Before] = []
        for needed in stage.inputs:
            if any(needed.name in _ancestors(other) for other in stage.inputs if other is not needed):
                continue  # whoever waits for the later stage waits for this one too
            place = self._places.get(needed.name) or self._alive.get(needed.name)
            if place is not None:
                found.append(place)
        return tuple(found)

    def _add(self, array: StageArray) -> None:
        for index, stage in enumerate(array.stages):
            self._places[stage.name] = Planned(len(self.arrays), index)
        self.arrays.append(array)


def _ancestors(stage: Stage) -> set[str]:
    return {name for needed in stage.inputs for name in (needed.name, *_ancestors(needed))}
