"""Run an experiment on this machine: stages in order, several at once, each in its own process.

``DONE`` markers decide the order and what is skipped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cad.errors import CadError
from cad.experiments.plan.cells import Cell, distinct_stages
from cad.experiments.plan.directory import StageDirectory, StageFile, stages_folder
from cad.experiments.plan.stage import Stage, StageKind, expected_steps
from cad.experiments.run.job import run_or_record, run_pack_or_record
from cad.experiments.run.pack_plan import key_of
from cad.experiments.run.pack_size import size_within
from cad.experiments.run.resources import Resources
from cad.experiments.run.stage_process import StageProcess, end_all, wait_for_any
from cad.interrupt import StopFlag
from cad.storage import make_dirs

_POLL_SECONDS = 0.5
_LITTLE_SPACE = 2**24  # bytes on the disk with which a stage may fail to say that it is full


def _unreported(folder: Path) -> str:
    """Why a stage may have ended that recorded no failure."""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        if free < _LITTLE_SPACE:
            return (
                f"its process ended without reporting an error, and the disk of {folder} is full or nearly "
                f"full ({free / 2**20:.1f} MiB are free); free some space and run again to resume"
            )
    return "its process ended without reporting an error (killed or out of memory?); run again to resume"


@dataclass
class StageState:
    """The state of a stage: waiting, running, done, stopped, pruned, failed or blocked (an input failed)."""

    stage: Stage
    directory: StageDirectory
    state: str = "waiting"
    message: str = ""
    started: float = 0.0
    seconds: float = 0.0
    cores: float = 1.0
    """Cores that it runs on; in a pack its share of them."""

    def begin(self, resources: Resources, members: int) -> None:
        """It runs from now on, in a pack of ``members``."""
        cores = resources.workers if self.stage.kind == "histories" else resources.threads
        self.state, self.started, self.cores = "running", time.time(), cores / members

    @cached_property
    def pack_key(self) -> str | None:
        """Equal for stages that can be in one pack; None for one that runs alone."""
        return key_of(self.stage)


@dataclass
class Run:
    """All stages of an experiment and their states."""

    root: Path
    cells: tuple[Cell, ...]
    stages: dict[str, StageState] = field(default_factory=dict)
    prunes: bool = False
    """Whether trainings that were ended early are left as they are; else they go on."""

    def __post_init__(self) -> None:
        """See which stages are done, or pruned."""
        for stage in distinct_stages(self.cells):
            directory = StageDirectory(self.root, stage.name)
            entry = StageState(stage, directory, "done" if directory.done else "waiting")
            if self.prunes and (why := directory.pruned()) is not None:
                entry.state, entry.message = "pruned", why
            self.stages[stage.name] = entry

    def limit(self, first: StageKind, last: StageKind) -> None:
        """Run only stages of the kinds from ``first`` to ``last``.

        Raises :class:`CadError` where a stage before ``first`` is not done.
        """
        chosen = {stage.name for stage in distinct_stages(self.cells, first, last)}
        until = {stage.name for stage in distinct_stages(self.cells, last=last)}
        missing = [name for name in until - chosen if self.stages[name].state != "done"]
        if missing:
            raise CadError(
                f"cannot start from {first}: not complete under {stages_folder(self.root)}: "
                f"{', '.join(sorted(missing))}; run the same command without --from"
            )
        self.stages = {name: entry for name, entry in self.stages.items() if name in until}

    def next_pack(self, size: int, workers: int = 1, memory: float | None = None) -> list[StageState]:
        """The longest waiting stage whose inputs are done, and up to ``size`` - 1 that can be packed with it.

        With ``memory`` no more than fit into so many bytes.

        Longest first, so that workers do not idle at the end while one of them runs a long stage; for the
        same reason ``workers`` that are free share what is ready.  Stages that need a failed one become
        blocked.
        """
        ready = sorted(self._ready(), key=lambda entry: -expected_steps(entry.stage))
        if not ready:
            return []
        key = ready[0].pack_key if size > 1 else None
        if key is None:
            return ready[:1]
        same = [entry for entry in ready if entry.pack_key == key]
        most = size_within(ready[0].stage.config, size, memory)
        return same[: min(most, -(-len(same) // workers))]

    def _ready(self) -> list[StageState]:
        ready = []
        for entry in self.stages.values():
            if entry.state != "waiting":
                continue
            inputs = [self.stages[stage.name].state for stage in entry.stage.inputs]
            if any(state in ("failed", "blocked") for state in inputs):
                entry.state, entry.message = "blocked", "an earlier stage failed"
            elif "pruned" in inputs:
                entry.state, entry.message = "pruned", "its training was ended early"
            elif all(state == "done" for state in inputs):
                ready.append(entry)
        return ready

    def settle(
        self, entry: StageState, *, stopped: bool = False, why: str = "", log: Path | None = None
    ) -> None:
        """Take a stage's outcome from its markers; ``stopped`` says that it was asked to save and end.

        ``why`` is the reason of a failure that the stage could not record, as where it may not write; empty
        where it is not known and may be in its ``log``.
        """
        entry.seconds = time.time() - entry.started
        if entry.directory.done:
            entry.state = "done"
            return
        pruned = entry.directory.pruned()
        if pruned is not None:
            entry.state, entry.message = "pruned", pruned
            return
        reason = entry.directory.failure()
        if reason is None and stopped:
            entry.state, entry.message = "stopped", _saved(entry)
            return
        if reason is None:
            reason = why or _unreported(self.root) + (f"; its log is {log}" if log is not None else "")
        entry.state, entry.message = "failed", reason

    @property
    def failures(self) -> list[StageState]:
        """Stages that failed, without those that are blocked by them."""
        return [entry for entry in self.stages.values() if entry.state == "failed"]


def _saved(entry: StageState) -> str:
    """In words, what a stopped stage goes on from."""
    if entry.stage.kind in ("train", "pretrain"):
        update = entry.directory.saved_update()
        return "it had saved nothing yet" if update is None else f"saved at update {update}"
    note = entry.directory.progress()
    done, total = note.get("done", 0), note.get("total", "?")
    if entry.stage.kind == "histories":
        return f"{done} of {total} tasks are kept"
    if entry.directory.file(StageFile.ROLLOUT).exists():
        return f"saved after {done} of {total} episodes"
    return "it had saved nothing yet"


Show = Callable[[Run], None]


def run_inline(run: Run, resources: Resources, stop: StopFlag, show: Show) -> None:
    """Run the stages one after the other in this process."""
    while pack := run.next_pack(resources.pack, memory=resources.pack_memory):
        for entry in pack:
            entry.begin(resources, len(pack))
        show(run)
        stages, why = [entry.stage for entry in pack], ""
        try:
            if len(pack) == 1:
                run_or_record(run.root, stages[0], resources, stop)
            else:
                run_pack_or_record(run.root, stages, resources, stop)
        except CadError as error:
            why = str(error)
        for entry in pack:
            run.settle(entry, stopped=stop(), why=why)
        show(run)
        if any(entry.state != "done" for entry in pack):
            stop.raise_if_set("the experiment")


def run_in_processes(
    run: Run, resources: Resources, workers: int, jobs: Path, stop: StopFlag, show: Show
) -> None:
    """Run up to ``workers`` stages at a time in local processes; logs go to a new folder under ``jobs``.

    A stage that collects histories uses all workers itself, so it runs alone.
    """
    logs = make_dirs(jobs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    running: dict[str, tuple[list[StageState], StageProcess]] = {}
    try:
        while True:
            for name, (pack, process) in list(running.items()):
                ended = process.ended
                for entry in pack:
                    # One of a pack may be done long before the others.
                    if entry.state == "running" and (ended or entry.directory.done):
                        run.settle(entry, log=logs / f"{name}.log")
                if ended:
                    del running[name]
            while (
                len(running) < workers
                and not stop()
                and (ready := run.next_pack(resources.pack, workers - len(running), resources.pack_memory))
            ):
                if running and any(
                    _runs_alone(other) for other in (ready[0], *(e[0] for e, _ in running.values()))
                ):
                    break
                for entry in ready:
                    entry.begin(resources, len(ready))
                name, stages = ready[0].stage.name, [entry.stage for entry in ready]
                running[name] = ready, StageProcess(run.root, stages, resources, logs / f"{name}.log")
            show(run)
            if not running:
                break
            wait_for_any([process for _, process in running.values()], _POLL_SECONDS)
            if stop():
                break
    finally:
        end_all([process for _, process in running.values()])
    for pack, _ in running.values():
        for entry in pack:
            if entry.state == "running":
                run.settle(entry, stopped=stop())
    show(run)
    stop.raise_if_set("the experiment")


def _runs_alone(entry: StageState) -> bool:
    return entry.stage.kind == "histories"
