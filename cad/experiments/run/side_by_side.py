"""A task of trainings of any shapes: their processes, side by side on one device.

Each process is what :func:`~cad.experiments.run.job.pack_job` or
:func:`~cad.experiments.run.job.stage_job` is elsewhere, so that every training keeps its directory, lock,
checkpoints and outcome.  This module starts them, the longest first, and sees how they end.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.stage import Stage
from cad.experiments.run.job import pack_job, work_of
from cad.experiments.run.pack_plan import Room, key_of, processes_of
from cad.experiments.run.pack_size import SHARE_OF_GPU
from cad.experiments.run.resources import Resources, pick_device
from cad.experiments.run.stage_process import StageProcess, end_all, wait_for_any
from cad.interrupt import InterruptedRun, StopFlag

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_ASK_EVERY_SECONDS = 5.0

HasLeft = Callable[[StageDirectory], bool]
"""Whether a training is not to begin, or not to go on: it has failed or was cancelled."""


def room_of(resources: Resources) -> Room:
    """What the processes of a task with these resources may use at a time, where the task runs."""
    device = pick_device(resources.device)
    if device.type != "cuda":
        return Room(resources.workers, resources.memory)
    card = torch.cuda.get_device_properties(device).total_memory
    return Room(resources.workers, resources.memory, gpu=True, gpu_memory=SHARE_OF_GPU * card)


def task_job(root: Path, stages: Sequence[Stage], resources: Resources, has_left: HasLeft) -> None:
    """Train the stages in as many processes as their shapes, the task's cores and its memory make of them.

    Each leaves ``DONE`` or ``FAILED`` in its own directory; this returns when all have ended.
    """
    room = room_of(resources)
    processes = processes_of(stages, room)
    resources = replace(resources, workers=1, together=len(stages))
    if len(processes) == 1 and key_of(stages[0]) is not None:
        pack_job(root, stages, resources, None)
        return
    with work_of(None) as stop:
        n = room.at_a_time(processes)
        log.info("%d trainings in %d processes, %d side by side", len(stages), len(processes), n)
        _SideBySide(root, processes, room, resources, stop, has_left).run()


@dataclass
class _Running:
    stages: list[Stage]
    process: StageProcess
    asked: float = field(default_factory=time.monotonic)


class _SideBySide:
    """The processes of a task while they run."""

    def __init__(
        self,
        root: Path,
        processes: Sequence[list[Stage]],
        room: Room,
        resources: Resources,
        stop: StopFlag,
        has_left: HasLeft,
    ) -> None:
        self._root, self._resources, self._stop, self._has_left = root, resources, stop, has_left
        self._waiting, self._room = list(processes), room
        self._running: list[_Running] = []
        self._saved = False

    def run(self) -> None:
        """Return when all have ended; raises :class:`InterruptedRun` after all were saved."""
        stop, running = self._stop, self._running
        n = len(self._waiting)
        try:
            while running or (self._waiting and not stop()):
                for one in [one for one in running if one.process.ended]:
                    running.remove(one)
                    self._settle(one)
                self._begin_what_fits()
                for one in running:
                    if stop():  # again, for one that did not listen yet; Slurm ends what takes too long
                        one.process.stop()
                    elif len(one.stages) == 1:  # several look themselves
                        self._stop_if_cancelled(one)
                if running:
                    wait_for_any([one.process for one in running], _POLL_SECONDS)
        finally:
            end_all([one.process for one in running])
        if self._saved or self._waiting:
            stop.raise_if_set(f"training in {n} processes")

    def _begin_what_fits(self) -> None:
        """The longest that fit: what does not fit now waits until others have ended."""
        for stages in list(self._waiting):
            if self._stop():
                return
            if not self._room.holds([*(one.stages for one in self._running), stages]):
                continue
            self._waiting.remove(stages)
            if left := [stage for stage in stages if not self._has_left(self._directory(stage))]:
                self._running.append(_Running(left, StageProcess(self._root, left, self._resources, None)))

    def _stop_if_cancelled(self, one: _Running) -> None:
        now = time.monotonic()
        if now > one.asked + _ASK_EVERY_SECONDS:
            one.asked = now
            if self._has_left(self._directory(one.stages[0])):
                one.process.stop()

    def _settle(self, one: _Running) -> None:
        """Record why a process left trainings that have neither ended nor failed."""
        open_ones = [
            directory
            for directory in map(self._directory, one.stages)
            if not directory.done and directory.failure() is None and directory.pruned() is None
        ]
        code = one.process.exit_code
        if open_ones and self._stop():
            self._saved = True
        if not open_ones or self._stop():
            return
        if code == InterruptedRun.exit_code:  # signalled before this process was: the job is to stop
            self._stop.request()
            self._saved = True
            return
        why = _reason(code)
        for directory in open_ones:
            log.error("%s: %s", directory.name, why)
            directory.record_failure(why, expected=True)

    def _directory(self, stage: Stage) -> StageDirectory:
        return StageDirectory(self._root, stage.name)


def _reason(code: int | None) -> str:
    """Why a process ended that could not say it."""
    if code is None or code == -signal.SIGKILL:
        how = "was killed (out of memory?)"
    elif code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
    else:
        how = f"ended with code {code} without reporting an error"
    return f"its process {how}; run again to resume from the last checkpoint"
