"""Which trainings a task works on, and in which processes: decided alike when it is planned and when it runs.

A task gets trainings of any shapes.  Those of one shape are trained together in one process
(:mod:`cad.experiments.run.packs`); the processes run side by side, as many as the task has cores and its
memory holds, the longest first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cad.experiments.plan.stage import Stage
from cad.experiments.run.pack_size import PROCESS_BYTES, processes_bytes, size_within, training_bytes
from cad.training.packed.shape import pack_key

# On a CPU, trainings that share a process gain nothing: no process does more than this part of what a core
# has to do, so that all cores end at about the same time.
_PART_OF_A_CORE = 0.25


def key_of(stage: Stage) -> str | None:
    """Equal for trainings that one process can work on together; None for what trains by itself."""
    trains = stage.kind == "train" and stage.config.train.weights is None
    return pack_key(stage.config) if trains else None


def joins_packs(stage: Stage) -> bool:
    """Whether a stage can be in a task with others: a training of one process."""
    return stage.kind == "train" and stage.config.train.engine == "plain"


def work_of(stage: Stage) -> float:
    """How long a training takes compared with others: multiply-accumulates of all its forward passes."""
    config = stage.config
    if config.train.weights is not None:
        return 0.0
    windows = config.train.n_updates * config.train.batch_size
    return windows * config.spec.training_work(config.model, config.others)


def planned_packs(stages: Sequence[Stage], size: int, memory: float | None = None) -> list[list[Stage]]:
    """Packs of two to ``size`` of the stages, of one shape each, if all could begin at once.

    With ``memory`` no pack has more than fit into so many bytes.
    """
    return [pack for pack in _of_one_shape(stages, size, memory) if len(pack) > 1 and key_of(pack[0])]


def mixed_packs(stages: Sequence[Stage], size: int, memory: float | None = None) -> list[list[Stage]]:
    """Packs of two to ``size`` of the stages, whatever their shapes, that take about equally long.

    Those of one shape stay together where a pack has room for them.  With ``memory`` no pack has more than
    fit into so many bytes at once.
    """
    # Those that are hardest to place first; of these, the longest.
    together = sorted(_of_one_shape(stages, size, memory), key=len, reverse=True)
    bytes_of = [
        0.0 if memory is None else sum(training_bytes(one.config) for one in some) for some in together
    ]
    # The fewest that can be enough are filled evenly; what fits into none of them begins another one.
    n = -(-sum(map(len, together)) // size)
    if memory:
        n = max(n, int(-(-sum(bytes_of) // memory)))
    packs = [_Filled() for _ in range(min(n, len(together)))]
    for some, taken in zip(together, bytes_of, strict=True):
        room = [
            pack
            for pack in packs
            if len(pack.stages) + len(some) <= size
            and (memory is None or not pack.stages or pack.taken + taken <= memory)
        ]
        if not room:
            room = [_Filled()]
            packs += room
        pack = min(room, key=lambda one: one.work)
        pack.stages += some
        pack.work += _work(some)
        pack.taken += taken
    return [pack.stages for pack in packs if len(pack.stages) > 1]


class _Filled:
    """A pack while it is filled: its stages, their work, and bytes."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.work, self.taken = 0.0, 0.0


def _of_one_shape(stages: Sequence[Stage], size: int, memory: float | None) -> list[list[Stage]]:
    """The stages that can be in packs, up to ``size`` of one shape together; the longest together first."""
    alike: dict[str, list[Stage]] = defaultdict(list)
    for stage in sorted(filter(joins_packs, stages), key=work_of, reverse=True):
        alike[key_of(stage) or stage.name].append(stage)
    together = []
    for same in alike.values():
        most = size_within(same[0].config, size, memory)
        together += [same[at : at + most] for at in range(0, len(same), most)]
    return sorted(together, key=_work, reverse=True)


def _work(stages: Sequence[Stage]) -> float:
    return sum(map(work_of, stages))


@dataclass(frozen=True)
class Room:
    """What the processes of a task may use at a time: cores, and bytes of the machine's and the GPU's memory.

    None: any.  ``gpu`` says that they share one.
    """

    cores: int = 1
    memory: float | None = None
    gpu: bool = False
    gpu_memory: float | None = None

    def holds(self, processes: Sequence[Sequence[Stage]]) -> bool:
        """Whether these processes can run side by side; one alone always can."""
        if len(processes) < 2:
            return True
        if len(processes) > self.cores:
            return False
        if self.memory is not None and host_bytes(processes, gpu=self.gpu) > self.memory:
            return False
        return self.gpu_memory is None or gpu_bytes(processes) <= self.gpu_memory

    def at_a_time(self, processes: Sequence[Sequence[Stage]]) -> int:
        """How many of the ``processes`` of a task run side by side in the beginning."""
        n = 1
        while n < len(processes) and self.holds(processes[: n + 1]):
            n += 1
        return n


def host_bytes(processes: Sequence[Sequence[Stage]], *, gpu: bool) -> float:
    """About what processes take of the machine's memory: rather too much."""
    trained = 0.0 if gpu else sum(training_bytes(stage.config) for some in processes for stage in some)
    return processes_bytes(len(processes), gpu=gpu) + trained


def gpu_bytes(processes: Sequence[Sequence[Stage]]) -> float:
    """About what processes take of a GPU's memory: rather too much."""
    trained = sum(training_bytes(stage.config) for some in processes for stage in some)
    return len(processes) * PROCESS_BYTES + trained


def processes_of(pack: Sequence[Stage], room: Room) -> list[list[Stage]]:
    """The processes that work on a pack, the longest first.

    On a GPU, and on one core, all trainings of one shape share a process.  Where there are more cores, they
    are parted, so that all cores are busy to the end.
    """
    alike: dict[str, list[Stage]] = defaultdict(list)
    for stage in sorted(pack, key=work_of, reverse=True):
        alike[key_of(stage) or stage.name].append(stage)
    most = len(pack) if room.gpu or room.cores == 1 else None
    processes = []
    for same in alike.values():
        own = work_of(same[0])
        part = _PART_OF_A_CORE * _work(pack) / room.cores
        step = most or max(1, int(part / own + 1e-6) if own else 1)
        processes += [same[at : at + step] for at in range(0, len(same), step)]
    return sorted(processes, key=_work, reverse=True)
