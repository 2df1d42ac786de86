"""Which stages go into which job array, and what each array waits for: pure decisions, no Slurm.

Finished stages are left out.  Where a stage is queued or running, others depend on its job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from cad.experiments.plan.stage import Stage


@dataclass(frozen=True)
class Planned:
    """Task ``index`` of the ``array``-th array of this submission."""

    array: int
    index: int


Dependency = Planned | str
"""What must succeed first: a task of this submission, or the id of a job that Slurm already has."""


@dataclass(frozen=True)
class ResourceMultiplier:
    """Factors on a profile's memory and time limit, for a stage that needed more."""

    memory: float = 1.0
    minutes: float = 1.0


@dataclass(frozen=True)
class StageArray:
    """Stages of one kind that become one job array.

    ``after`` lists what the whole array waits for.  ``pairwise`` is the number of an earlier array:
    task i then waits for task i of that array only.  At most ``throttle`` tasks run at a time, once the
    array with the number ``behind`` has ended.
    """

    kind: str
    stages: tuple[Stage, ...]
    multiplier: ResourceMultiplier = ResourceMultiplier()
    after: tuple[Dependency, ...] = ()
    pairwise: int | None = None
    throttle: int | None = None
    behind: int | None = None


def plan_arrays(
    wanted: tuple[Stage, ...],
    alive: Mapping[str, str],
    max_size: int,
    multiplier: Callable[[Stage], ResourceMultiplier] = lambda _stage: ResourceMultiplier(),
) -> tuple[StageArray, ...]:
    """Arrays for ``wanted``, the stages to submit, in the order of submission.

    ``alive`` gives the job ids of stages that are queued or running; an input that is neither
    wanted nor alive counts as done.  No array has more than ``max_size`` tasks.
    """
    plan = _Plan(alive, max_size, multiplier)
    needed = {stage.name for other in wanted for stage in other.inputs}
    # Tasks that others wait for come first, so that later arrays can depend on them pair by pair.
    todo = sorted(wanted, key=lambda stage: stage.name not in needed)
    for kind in _kinds_in_order(wanted):
        of_kind = [stage for stage in todo if stage.kind == kind]
        # A training that starts from another one goes into a later array of its own.
        for depth in sorted({_depth_in_kind(stage) for stage in of_kind}):
            plan.add_kind([stage for stage in of_kind if _depth_in_kind(stage) == depth])
    return tuple(plan.arrays)


def fitting(wanted: tuple[Stage, ...], room: int | None) -> tuple[Stage, ...]:
    """The first ``room`` of ``wanted``.  These come cell by cell, so only the last cell may be incomplete."""
    return wanted if room is None else wanted[:room]


def dependency(array: StageArray, arrays: tuple[StageArray, ...], job_ids: list[str]) -> str | None:
    """The value of sbatch's ``--dependency``; ``job_ids`` belong to the arrays submitted so far."""
    conditions = []
    if array.pairwise is not None:
        conditions.append(f"aftercorr:{job_ids[array.pairwise]}")
    if array.after:
        conditions.append("afterok:" + ":".join(_waited_for(array, arrays, job_ids)))
    if array.behind is not None:
        conditions.append(f"afterany:{job_ids[array.behind]}")
    return ",".join(conditions) or None


def share_throttle(arrays: tuple[StageArray, ...], throttle: Callable[[str], int]) -> tuple[StageArray, ...]:
    """Let ``throttle(kind)`` hold for all arrays of a kind together.

    Each gets a share that fits its size.  Where there are more arrays than the throttle allows tasks,
    an array starts when an earlier one has ended.
    """
    shared = list(arrays)
    for kind in dict.fromkeys(array.kind for array in arrays):
        numbers = [number for number, array in enumerate(arrays) if array.kind == kind]
        left, lanes = throttle(kind), min(len(numbers), throttle(kind))
        # The smallest first: what they do not need is for the larger ones.
        size = {lane: max(len(arrays[n].stages) for n in numbers[lane::lanes]) for lane in range(lanes)}
        for place, lane in enumerate(sorted(size, key=lambda lane: size[lane])):
            share = min(size[lane], left // (lanes - place))
            left -= share
            behind = None
            for number in numbers[lane::lanes]:
                shared[number] = replace(arrays[number], throttle=share, behind=behind)
                behind = number
    return tuple(shared)


def _waited_for(array: StageArray, arrays: tuple[StageArray, ...], job_ids: list[str]) -> list[str]:
    words = []
    for needed in array.after:
        if isinstance(needed, str):
            words.append(needed)
        else:
            # An array of one task is an ordinary job: it has no index.
            index = f"_{needed.index}" if len(arrays[needed.array].stages) > 1 else ""
            words.append(f"{job_ids[needed.array]}{index}")
    return words


def _kinds_in_order(stages: tuple[Stage, ...]) -> list[str]:
    """The kinds, each after the kinds that it needs."""

    def depth(stage: Stage) -> int:
        return 1 + max((depth(needed) for needed in stage.inputs), default=0)

    deepest: Counter[str] = Counter()
    for stage in stages:
        deepest[stage.kind] = max(deepest[stage.kind], depth(stage))
    return sorted(deepest, key=lambda kind: deepest[kind])


def _depth_in_kind(stage: Stage) -> int:
    """Length of the chain of stages of its own kind that it needs."""
    return max((1 + _depth_in_kind(n) for n in stage.inputs if n.kind == stage.kind), default=0)


class _Plan:
    def __init__(
        self, alive: Mapping[str, str], max_size: int, multiplier: Callable[[Stage], ResourceMultiplier]
    ) -> None:
        self.arrays: list[StageArray] = []
        self._planned: dict[str, Planned] = {}
        self._alive = alive
        self._max_size = max_size
        self._multiplier = multiplier

    def add_kind(self, stages: list[Stage]) -> None:
        """Add the arrays of one kind; the arrays of the kinds that it needs exist already."""
        groups: dict[tuple[ResourceMultiplier, tuple[Dependency, ...]], list[Stage]] = {}
        for stage in stages:
            groups.setdefault((self._multiplier(stage), self._dependencies(stage)), []).append(stage)
        for multiplier, earlier, paired in list(self._pairs(groups)):
            self._add(StageArray(paired[0].kind, tuple(paired), multiplier, pairwise=earlier))
            for stage in paired:
                del groups[multiplier, self._dependencies(stage)]
        for (multiplier, after), members in groups.items():
            for start in range(0, len(members), self._max_size):
                part = tuple(members[start : start + self._max_size])
                self._add(StageArray(part[0].kind, part, multiplier, after))

    def _pairs(
        self, groups: dict[tuple[ResourceMultiplier, tuple[Dependency, ...]], list[Stage]]
    ) -> Iterator[tuple[ResourceMultiplier, int, list[Stage]]]:
        """Two or more stages that wait, one each, for the tasks 0, 1, 2, ... of one array."""
        for multiplier in dict.fromkeys(multiplier for multiplier, _ in groups):
            for number, array in enumerate(self.arrays):
                paired = []
                for index in range(len(array.stages)):
                    waiting = groups.get((multiplier, (Planned(number, index),)), [])
                    if len(waiting) != 1:
                        break
                    paired += waiting
                if len(paired) > 1:
                    yield multiplier, number, paired

    def _dependencies(self, stage: Stage) -> tuple[Dependency, ...]:
        dependencies: list[Dependency] = []
        for needed in stage.inputs:
            if any(needed.name in _ancestors(other) for other in stage.inputs if other is not needed):
                continue  # waiting for the later stage includes waiting for this one
            dependency = self._planned.get(needed.name) or self._alive.get(needed.name)
            if dependency is not None:
                dependencies.append(dependency)
        return tuple(dependencies)

    def _add(self, array: StageArray) -> None:
        for index, stage in enumerate(array.stages):
            self._planned[stage.name] = Planned(len(self.arrays), index)
        self.arrays.append(array)


def _ancestors(stage: Stage) -> set[str]:
    return {name for needed in stage.inputs for name in (needed.name, *_ancestors(needed))}
