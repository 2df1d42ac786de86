"""Which stages go into which job array, and what each array waits for: pure decisions, no Slurm.

Finished stages are left out.  Where a stage is queued or running, others depend on its job.  A task is one
stage, or a pack of trainings.  As one of a pack can fail alone, what needs it waits until the pack has ended,
however it did, and then looks whether its own inputs are done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from cad.envs.own_code import code_folders
from cad.experiments.plan.stage import Stage, named_files


@dataclass(frozen=True)
class Planned:
    """Task ``index`` of the ``array``-th array of this submission."""

    array: int
    index: int


Dependency = Planned | str
"""What must end first: a task of this submission, or the id of a job that Slurm already has."""

Task = tuple[Stage, ...]
"""What one task of an array runs: a stage, or several as a pack."""

Pack = Callable[[list[Stage]], list[list[Stage]]]
"""Packs of two or more of some trainings, of any shapes; what is in none of them runs alone."""


@dataclass(frozen=True)
class ResourceMultiplier:
    """Factors on a profile's memory and time limit, for a stage that needed more."""

    memory: float = 1.0
    minutes: float = 1.0


@dataclass(frozen=True)
class StageArray:
    """Stages of one kind that become one job array: its tasks are single stages, or all of them packs.

    The whole array waits until all in ``after`` have succeeded and all in ``ended`` have ended.  ``pairwise``
    is the number of an earlier array: task i then waits for task i of that array only.  At most ``throttle``
    tasks run at a time, once the array with the number ``behind`` has ended.
    """

    kind: str
    tasks: tuple[Task, ...]
    multiplier: ResourceMultiplier = ResourceMultiplier()
    after: tuple[Dependency, ...] = ()
    ended: tuple[Dependency, ...] = ()
    pairwise: int | None = None
    throttle: int | None = None
    behind: int | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of all tasks."""
        return tuple(stage for task in self.tasks for stage in task)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the user's that its tasks read, each once."""
        return tuple(dict.fromkeys(file for stage in self.stages for file in named_files(stage)))

    @property
    def code_folders(self) -> tuple[Path, ...]:
        """Folders of the user's from which its tasks import environments, each once."""
        envs = dict.fromkeys(stage.config.env for stage in self.stages if stage.config.env.own_module)
        return tuple(dict.fromkeys(folder for env in envs for folder in code_folders(env)))

    @property
    def packed(self) -> bool:
        """Whether its tasks are packs."""
        return len(self.tasks[0]) > 1


def plan_arrays(
    wanted: tuple[Stage, ...],
    alive: Mapping[str, str],
    max_size: int,
    multiplier: Callable[[Stage], ResourceMultiplier] = lambda _stage: ResourceMultiplier(),
    pack: Pack = lambda _trainings: [],
    packed_jobs: Collection[str] = (),
) -> tuple[StageArray, ...]:
    """Arrays for ``wanted``, the stages to submit, in the order of submission.

    ``alive`` gives the job ids of stages that are queued or running; an input that is neither
    wanted nor alive counts as done; ``packed_jobs`` are those of the jobs that are packs.  No array has more
    than ``max_size`` tasks.
    """
    plan = _Plan(alive, max_size, multiplier, pack, packed_jobs)
    needed = {stage.name for other in wanted for stage in other.inputs}
    # Tasks that others wait for come first, so that later arrays can depend on them pair by pair.
    todo = sorted(wanted, key=lambda stage: stage.name not in needed)
    for kind in _kinds_in_order(wanted):
        of_kind = [stage for stage in todo if stage.kind == kind]
        # A training that starts from another one goes into a later array of its own.
        for depth in sorted({_depth_in_kind(stage) for stage in of_kind}):
            plan.add_kind([stage for stage in of_kind if _depth_in_kind(stage) == depth])
    return tuple(plan.arrays)


def fitting(
    wanted: tuple[Stage, ...], room: int | None, n_tasks: Callable[[tuple[Stage, ...]], int] = len
) -> tuple[Stage, ...]:
    """The first of ``wanted`` that make at most ``room`` tasks.

    These come cell by cell, so only the last cell may be incomplete.
    """
    if room is None or n_tasks(wanted) <= room:
        return wanted
    # A stage is at most one task more: the most that fit are between these.
    fits, too_many = min(room, len(wanted) - 1), len(wanted)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if n_tasks(wanted[:middle]) <= room else (fits, middle)
    return wanted[:fits]


def dependency(array: StageArray, arrays: tuple[StageArray, ...], job_ids: list[str]) -> str | None:
    """The value of sbatch's ``--dependency``; ``job_ids`` belong to the arrays submitted so far."""
    conditions = []
    if array.pairwise is not None:
        conditions.append(f"aftercorr:{job_ids[array.pairwise]}")
    if array.after:
        conditions.append("afterok:" + ":".join(_job_ids(array.after, arrays, job_ids)))
    if array.ended:
        conditions.append("afterany:" + ":".join(_job_ids(array.ended, arrays, job_ids)))
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
        size = {lane: max(len(arrays[n].tasks) for n in numbers[lane::lanes]) for lane in range(lanes)}
        for place, lane in enumerate(sorted(size, key=lambda lane: size[lane])):
            share = min(size[lane], left // (lanes - place))
            left -= share
            behind = None
            for number in numbers[lane::lanes]:
                shared[number] = replace(arrays[number], throttle=share, behind=behind)
                behind = number
    return tuple(shared)


def _job_ids(
    dependencies: tuple[Dependency, ...], arrays: tuple[StageArray, ...], job_ids: list[str]
) -> list[str]:
    words = []
    for needed in dependencies:
        if isinstance(needed, str):
            words.append(needed)
        else:
            # An array of one task is an ordinary job: it has no index.
            index = f"_{needed.index}" if len(arrays[needed.array].tasks) > 1 else ""
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


class _Group(NamedTuple):
    """What tasks of one array have in common."""

    multiplier: ResourceMultiplier
    after: tuple[Dependency, ...]
    ended: tuple[Dependency, ...]
    packed: bool


class _Plan:
    def __init__(
        self,
        alive: Mapping[str, str],
        max_size: int,
        multiplier: Callable[[Stage], ResourceMultiplier],
        pack: Pack,
        packed_jobs: Collection[str],
    ) -> None:
        self.arrays: list[StageArray] = []
        self._planned: dict[str, Planned] = {}
        self._alive = alive
        self._max_size = max_size
        self._multiplier = multiplier
        self._pack, self._packed_jobs = pack, packed_jobs

    def add_kind(self, stages: list[Stage]) -> None:
        """Add the arrays of one kind; the arrays of the kinds that it needs exist already."""
        groups: dict[_Group, list[Task]] = {}
        for task in self._tasks(stages):
            groups.setdefault(self._group(task), []).append(task)
        for multiplier, earlier, paired in list(self._pairs(groups)):
            for task in paired:
                del groups[self._group(task)]
            self._add(StageArray(paired[0][0].kind, tuple(paired), multiplier, pairwise=earlier))
        for group, members in groups.items():
            for start in range(0, len(members), self._max_size):
                part = tuple(members[start : start + self._max_size])
                self._add(StageArray(part[0][0].kind, part, group.multiplier, group.after, group.ended))

    def _tasks(self, stages: list[Stage]) -> list[Task]:
        """Packs, and what runs alone in the order of ``stages``."""
        alike: dict[
            tuple[ResourceMultiplier, tuple[str, ...]], dict[tuple[Dependency, ...], list[Stage]]
        ] = {}
        for stage in stages:
            # What waits for a collection only is not kept waiting by the others' pre-training.
            pending = (
                one.kind for one in stage.inputs if one.name in self._planned or one.name in self._alive
            )
            waiting = alike.setdefault((self._multiplier(stage), tuple(sorted(pending))), {})
            waiting.setdefault(self._dependencies(stage), []).append(stage)
        # Those that wait for the same come together, where the packs allow it.
        packs = [
            tuple(pack)
            for waiting in alike.values()
            for pack in self._pack([stage for same in waiting.values() for stage in same])
        ]
        packed = {stage.name for pack in packs for stage in pack}
        return [*packs, *((stage,) for stage in stages if stage.name not in packed)]

    def _group(self, task: Task) -> _Group:
        waited_for = [self._dependencies(stage) for stage in task]
        each = tuple(dict.fromkeys(needed for some in waited_for for needed in some))
        # What only some of a pack need may fail without the others.
        all_need_all = len(set(waited_for)) == 1
        after = tuple(needed for needed in each if all_need_all and not self._is_pack(needed))
        ended = tuple(needed for needed in each if needed not in after)
        return _Group(self._multiplier(task[0]), after, ended, len(task) > 1)

    def _is_pack(self, needed: Dependency) -> bool:
        if isinstance(needed, str):
            return needed in self._packed_jobs
        return self.arrays[needed.array].packed

    def _pairs(
        self, groups: dict[_Group, list[Task]]
    ) -> Iterator[tuple[ResourceMultiplier, int, list[Task]]]:
        """Two or more stages that wait, one each, for the tasks 0, 1, 2, ... of one array."""
        for multiplier in dict.fromkeys(group.multiplier for group in groups):
            for number, array in enumerate(self.arrays):
                paired = []
                for index in range(len(array.tasks)):
                    waiting = groups.get(_Group(multiplier, (Planned(number, index),), (), False), [])
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
        for index, task in enumerate(array.tasks):
            for stage in task:
                self._planned[stage.name] = Planned(len(self.arrays), index)
        self.arrays.append(array)


def _ancestors(stage: Stage) -> set[str]:
    return {name for needed in stage.inputs for name in (needed.name, *_ancestors(needed))}
