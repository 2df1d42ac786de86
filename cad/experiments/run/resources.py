"""What a stage may use while it runs: processes, device, ranks.  None of it changes a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral

import torch

from cad.config import LoopConfig
from cad.errors import UsageError, printable
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.stage import Stage
from cad.experiments.run.pruning import Pruning
from cad.training.engines import require_ranks


@dataclass(frozen=True)
class Resources:
    """What a stage may use; none of it changes a result, though ``pruning`` may end it without one."""

    workers: int = 1
    device: str = "cpu"
    threads: int = 1
    ranks: int = 1
    """Processes that share one training, where its engine can."""
    memory: float | None = None
    """Bytes for all processes of a task; None: unknown."""
    pack: int = 1
    """Most trainings of one shape that a process works on together."""
    pack_memory: float | None = None
    """Bytes that they may take together; None: any."""
    together: int = 1
    """Trainings that a cluster's task works on: what one of them takes is not what that needs."""
    trace: Callable[[str], None] | None = None
    """Called with a line for every compression of an evaluation."""
    pruning: Pruning | None = None
    """Ends trainings early."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Code and image, recorded when the stage is done."""

    def __post_init__(self) -> None:
        """Refuse counts that are none.

        The device is another machine's where a job is submitted: :meth:`require_device` is for those who run.
        """
        for option in ("workers", "threads", "ranks", "pack"):
            require_count(option, getattr(self, option))

    def require_device(self) -> None:
        """Raise :class:`UsageError` for a device that is not there, before anything runs."""
        pick_device(self.device)


def require_count(option: str, value: object) -> None:
    """Raise :class:`UsageError`, which names the option, for all but whole numbers above 0."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
        raise UsageError(f"--{option} {printable(repr(value), 40)}: give a whole number from 1")


def pick_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device where there is one, else the CPU.

    Raises :class:`UsageError` for a device that this machine, or this build of torch, does not have.
    """
    found = torch.cuda.device_count()
    if not isinstance(name, str):
        name = repr(name)
    if name == "auto":
        return torch.device("cuda" if found else "cpu")
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"--device {printable(name, 40)}: choose cpu, cuda, cuda:N (a number) or auto")
    if kind == "cuda" and int(number or 0) >= found:
        why = f"torch {torch.__version__} has no CUDA" if torch.version.cuda is None else "see nvidia-smi"
        raise UsageError(
            f"--device {name}: torch finds {found} CUDA devices here ({why}); use --device cpu or auto"
        )
    return torch.device(name)


def engine_settings(stage: Stage) -> LoopConfig | None:
    """The config section that says how a stage trains; None for stages that do not train."""
    sections = {"train": stage.config.train, "pretrain": stage.config.pretrain}
    return sections.get(stage.kind)


def ranks_of(stage: Stage, ranks: int) -> int:
    """How many of ``ranks`` processes a stage uses."""
    settings = engine_settings(stage)
    return 1 if settings is None or settings.engine == "plain" else ranks


def require_ranks_of_cells(cells: Sequence[Cell], ranks: int) -> None:
    """Refuse a number of ranks that some training cannot use, or that no training would use."""
    if ranks == 1:
        return
    stages = [stage for cell in cells for stage in cell.stages]
    for stage in stages:
        settings = engine_settings(stage)
        if settings is not None and settings.engine != "plain":
            require_ranks(settings, stage.kind, ranks)
    if all(ranks_of(stage, ranks) == 1 for stage in stages):
        require_ranks(cells[0].config.train, "train", ranks)
