"""Input of a report: plain data, so that reports need not know run directories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cad.evaluation.probes.result import LatentProbe
from cad.schema import Config

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TrainingPart:
    """One stage of a model's training: its own, or one before it that it started from."""

    kind: str  # "pre-training", "AD to start from" or "training"
    seconds: float | None  # wall time
    updates: int | None
    supervised_actions: int | None  # of a pre-training: steps reconstructed
    cores: int  # CPU threads that worked or waited on it


@dataclass(frozen=True)
class CellResult:
    """One point of the grid with one seed, as far as it got.

    ``status`` is ``"done"``, ``"missing"``, ``"failed: <message>"`` or ``"pruned: <reason>"``; only a done
    cell's returns are averaged.  Cells that differ only by their seed form one model of the report.
    """

    label: str  # without the seed, e.g. "CompressedAD, depth 3, 16 latents"
    arm: str  # entry of the experiment file
    config: Config
    status: str
    returns: npt.NDArray[Any] | None  # (tasks, rollouts, episodes), sum of rewards of each episode
    compressions: npt.NDArray[Any] | None  # (tasks, rollouts), over the whole roll-out
    task_ids: tuple[int, ...]
    goals: tuple[tuple[int, ...], ...]
    optimal: tuple[float, ...]  # best possible return of each task
    state_bytes: int | None  # kept for one roll-out: key/value cache and latents
    n_parameters: int | None
    train_seconds: float | None  # of the model's own training; `parts` has what came before
    evaluation_seconds: float | None
    evaluation_steps_per_second: float | None
    metrics: Sequence[Mapping[str, Any]] | None  # lines of the training's metrics.jsonl, in order
    # (tasks, rollouts, most compressions): steps before each, -1 for none; whether the model asked for it.
    compression_steps: npt.NDArray[Any] | None = None
    chosen: npt.NDArray[Any] | None = None
    # Result of `cad probe`; and the actions (rollouts, steps) of one task, read only if they are drawn.
    probe: LatentProbe | None = None
    actions: Callable[[int], npt.NDArray[np.uint8]] | None = None
    equal_state: str | None = None  # which setting was chosen for a state as large as another's, in words
    steps_per_update: int | None = None  # which train.batch_size was chosen for; it is no setting then
    experiment: str = ""  # set where a report compares several; `label` then begins with it and ": "
    parts: tuple[TrainingPart, ...] = ()  # in order, the model's own training last
    # As `returns`, where tasks have several facts: the fact that an episode needed, and its optimum.
    facts: npt.NDArray[Any] | None = None
    optima: npt.NDArray[Any] | None = None
    lengths: npt.NDArray[Any] | None = None  # as `returns`: steps of each episode, where they vary
    history_episodes: int | None = None  # most episodes of a training history, where their lengths vary
    pretrain_metrics: Sequence[Mapping[str, Any]] | None = None  # lines of the pre-training's metrics.jsonl

    @property
    def core_minutes(self) -> float | None:
        """Core-minutes of all parts of the training; None unless all are known."""
        known = [part.seconds * part.cores / 60 for part in self.parts if part.seconds is not None]
        return sum(known) if known and len(known) == len(self.parts) else None

    @property
    def updates(self) -> int | None:
        """Updates of all parts."""
        known = [part.updates for part in self.parts if part.updates is not None]
        return sum(known) if known and len(known) == len(self.parts) else None

    @property
    def supervised_actions(self) -> int | None:
        """Actions, and in a pre-training steps, that all parts were trained on."""
        known = [part.supervised_actions for part in self.parts if part.supervised_actions is not None]
        return sum(known) if known and len(known) == len(self.parts) else None


@dataclass(frozen=True)
class SourceCurve:
    """The source algorithm's own learning on the evaluated tasks."""

    task_ids: tuple[int, ...]
    returns: npt.NDArray[Any]  # (tasks, episodes), mean over streams


@dataclass(frozen=True)
class StageRecord:
    """One stage of the experiment: its state, time, code and machine; None where unknown."""

    name: str
    kind: str
    state: str  # "done", "failed" or "missing"
    wall_seconds: float | None = None  # over all attempts
    cores: int | None = None
    attempts: int | None = None
    code_version: str | None = None
    dirty: bool | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    hardware: str | None = None
    image: str | None = None  # SHA-256 of the image that it ran in
    job_id: str | None = None
    peak_memory_bytes: int | None = None  # of the process that finished it
    cpu_seconds: float | None = None  # of its last attempt
    shared: bool = False  # one of several in its task: what that needed is not known from one
    own_code: Mapping[str, str] = field(default_factory=dict)  # module of the user's -> SHA-256

    @property
    def core_hours(self) -> float | None:
        """Cores held x hours."""
        if self.wall_seconds is None or self.cores is None:
            return None
        return self.wall_seconds * self.cores / 3600


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from and how to make them again.

    Code, packages and hardware are those of the report; ``stages`` have their own.
    """

    code_version: str
    dirty: bool  # whether the working tree differed from the commit
    packages: Mapping[str, str]
    hardware: str  # processor, cores, memory; never a host name
    commands: Sequence[str]  # these reproduce the report, in order
    protocol: str  # split, seeds, checkpoint rule, in words
    inputs: Mapping[str, str] = field(default_factory=dict)  # name -> SHA-256 of histories and the like
    stages: Sequence[StageRecord] = ()
    own_code: Mapping[str, str] = field(default_factory=dict)  # of the user's modules as they are now
