"""Run an experiment on this machine: stages in order, several at once, each in its own process.

``DONE`` markers decide the order and what is skipped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cad.errors import CadError
from cad.experiments.plan.cells import Cell, distinct_stages
from cad.experiments.plan.directory import StageDirectory, StageFile, stages_folder
from cad.experiments.plan.stage import Stage, StageKind, expected_steps
from cad.experiments.run.job import run_or_record
from cad.experiments.run.resources import Resources
from cad.experiments.run.stage_process import StageProcess, end_all, wait_for_any
from cad.interrupt import StopFlag
from cad.storage import make_dirs

_POLL_SECONDS = 0.5
_UNREPORTED = "its process ended without reporting an error (killed or out of memory?); run again to resume"


@dataclass
class StageState:
    """The state of a stage: waiting, running, done, stopped, pruned, failed or blocked (an input failed)."""

    stage: Stage
    directory: StageDirectory
    state: str = "waiting"
    message: str = ""
    started: float = 0.0
    seconds: float = 0.0


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

    def next_ready(self) -> StageState | None:
        """The longest waiting stage whose inputs are done; stages that need a failed one become blocked.

        Longest first, so that workers do not idle at the end while one of them runs a long stage.
        """
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
        return max(ready, key=lambda entry: expected_steps(entry.stage), default=None)

    def settle(self, entry: StageState, *, stopped: bool = False, why: str = _UNREPORTED) -> None:
        """Take a stage's outcome from its markers; ``stopped`` says that it was asked to save and end.

        ``why`` is the reason of a failure that the stage could not record, as where it may not write.
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
        entry.state, entry.message = "failed", why if reason is None else reason

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
    while (entry := run.next_ready()) is not None:
        entry.state, entry.started = "running", time.time()
        show(run)
        try:
            run_or_record(run.root, entry.stage, resources, stop)
        except CadError as error:
            run.settle(entry, stopped=stop(), why=str(error))
            show(run)
            stop.raise_if_set("the experiment")
        else:
            run.settle(entry)
            show(run)


def run_in_processes(
    run: Run, resources: Resources, workers: int, jobs: Path, stop: StopFlag, show: Show
) -> None:
    """Run up to ``workers`` stages at a time in local processes; logs go to a new folder under ``jobs``.

    A stage that collects histories uses all workers itself, so it runs alone.
    """
    logs = make_dirs(jobs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    running: dict[str, tuple[StageState, StageProcess]] = {}
    try:
        while True:
            for name, (entry, process) in list(running.items()):
                if process.ended:
                    del running[name]
                    run.settle(entry, why=f"{_UNREPORTED}; its log is {logs / f'{name}.log'}")
            while len(running) < workers and not stop() and (ready := run.next_ready()) is not None:
                if running and any(
                    _runs_alone(other) for other in (ready, *(e for e, _ in running.values()))
                ):
                    break
                ready.state, ready.started = "running", time.time()
                process = StageProcess(run.root, ready.stage, resources, logs / f"{ready.stage.name}.log")
                running[ready.stage.name] = (ready, process)
            show(run)
            if not running:
                break
            wait_for_any([process for _, process in running.values()], _POLL_SECONDS)
            if stop():
                break
    finally:
        end_all([process for _, process in running.values()])
    for entry, _ in running.values():
        run.settle(entry, stopped=stop())
    show(run)
    stop.raise_if_set("the experiment")


def _runs_alone(entry: StageState) -> bool:
    return entry.stage.kind == "histories"
