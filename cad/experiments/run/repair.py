"""Find stages whose files are not what was written, and set those files aside so that they are made again.

Nothing is removed: damaged files go into ``set-aside/`` in the stage's directory, with its ``DONE``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cad.checksums import DamagedFileError, is_missing, require_file, set_aside
from cad.errors import CadError
from cad.evaluation.actions_file import load_actions
from cad.evaluation.probes.result import load_probe
from cad.evaluation.results import load_results
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.directory import FOLDERS, OUTPUTS, StageDirectory, StageFile
from cad.experiments.reporting.gather import stored_metrics
from cad.experiments.run.runner import Run
from cad.histories.audit import audit
from cad.locks import folder_lock
from cad.training.checkpoint import damaged_checkpoints, newest_step
from cad.training.metrics import require_lines
from cad.training.transfer import read_weights

# The others hold timings too.
_REPRODUCIBLE = {StageFile.HISTORIES, StageFile.ENCODER, StageFile.MODEL, StageFile.ACTIONS}


@dataclass(frozen=True)
class Repair:
    """What was found in a stage's directory; ``before`` are the checksums that its outputs had."""

    directory: StageDirectory
    damages: tuple[DamagedFileError, ...]
    again: bool
    """Whether the stage has to run again."""
    before: dict[str, str] = field(default_factory=dict)

    def compared(self) -> str:
        """In words, whether what was made again is what was there before."""
        now = self.directory.record().get("outputs", {})
        comparable = self.before.keys() & _REPRODUCIBLE
        differing = sorted(name for name in comparable if now.get(name) != self.before[name])
        if not comparable:
            return "made again"
        if not differing:
            return "made again, the same bytes as before"
        return (
            f"made again; {', '.join(differing)} has other bytes than before (another machine or version?), "
            "and stages that used the old ones were not run again"
        )


def repair_stage(directory: StageDirectory, *, change: bool = True) -> Repair | None:
    """Examine a stage's files and set damaged ones aside; None where nothing is damaged.

    With ``change=False`` nothing is written.  A finished stage of a version that recorded no checksums
    gets them, once its files have been opened without a fault.
    Raises :class:`CadError` where a file cannot be read, or another process works on the stage.
    """
    if not directory.path.is_dir():
        return None
    if not change:
        return _found(directory)
    with folder_lock(directory.path, f"stage {directory.name}"):
        found = _found(directory)
        if found is not None:
            _set_aside(found)
        elif directory.done and "outputs" not in (record := directory.record()):
            directory.finish(record)
        return found


def run_to_repair(root: Path, cells: tuple[Cell, ...], repairs: list[Repair]) -> Run:
    """The stages to run again, and the stages that they need."""
    run = Run(root, cells)
    wanted = [repair.directory.name for repair in repairs if repair.again]
    for name in wanted:  # grows
        wanted += [stage.name for stage in run.stages[name].stage.inputs if stage.name not in wanted]
    run.stages = {name: entry for name, entry in run.stages.items() if name in wanted}
    return run


def _found(directory: StageDirectory) -> Repair | None:
    damages: list[DamagedFileError] = []
    for check in _checks(directory):
        try:
            check()
        except DamagedFileError as error:
            if error.path not in [damage.path for damage in damages]:  # several checks read the record
                damages.append(error)
    if not damages:
        return None
    essential = {StageFile.DONE, StageFile.IDENTITY, *OUTPUTS.get(directory.kind, ())}
    again = directory.done and any(damage.path.name in essential for damage in damages)
    try:
        before = directory.record().get("outputs", {}) if again else {}
    except CadError:
        before = {}
    return Repair(directory, tuple(damages), again, before)


def _set_aside(repair: Repair) -> None:
    directory = repair.directory
    folder = directory.file(StageFile.SET_ASIDE)
    damaged = [damage.path for damage in repair.damages if damage.path.exists()]
    metrics = directory.file(StageFile.METRICS)
    if any(damage.path == metrics for damage in repair.damages):
        # Checkpoints do not hold the lines of metrics before them: only a new training writes these.
        damaged = [path for path in damaged if path.parent.name != StageFile.CHECKPOINTS]
        damaged.append(directory.file(StageFile.CHECKPOINTS))
    # DONE last: killed before, the stage still counts as damaged and not as whole.
    damaged.sort(key=lambda path: path.name == StageFile.DONE)
    for path in damaged:
        if path.exists():
            set_aside(path, folder)
    if repair.again and directory.done:
        set_aside(directory.file(StageFile.DONE), folder)


def _checks(directory: StageDirectory) -> Iterator[Callable[[], object]]:
    """What may find a damage, each alone: one does not hide another."""
    for name in StageFile:
        path = directory.file(name)
        if name not in FOLDERS:
            yield functools.partial(require_file, path, directory.remedy)
        elif path.exists() and not path.is_dir() and name != StageFile.SET_ASIDE:
            error = DamagedFileError(path, "a file is in the place of a folder", directory.remedy)
            yield functools.partial(_raise, error)
    if directory.done or directory.file(StageFile.IDENTITY).exists():
        yield directory.identity
    for path, why in damaged_checkpoints(directory.file(StageFile.CHECKPOINTS), directory.name):
        yield functools.partial(_raise, DamagedFileError(path, why, directory.remedy))
    if directory.file(StageFile.PROBE).exists():
        yield lambda: load_probe(directory.file(StageFile.PROBE), directory.name)
    if not directory.done:
        yield lambda: stored_metrics(directory)
        if directory.file(StageFile.IDENTITY).exists():  # else nothing says how many there are
            yield lambda: _require_lines(directory)
        if directory.file(StageFile.HISTORIES).exists():
            yield lambda: _require_opening(directory, StageFile.HISTORIES)
        return
    yield directory.record
    try:
        outputs = directory.record().get("outputs")
    except DamagedFileError:
        outputs = None
    for name in OUTPUTS.get(directory.kind, ()):
        if outputs is None:  # a version that recorded none wrote it, or the record is damaged
            yield functools.partial(_require_opening, directory, name)
        elif name in outputs:
            yield functools.partial(directory.checked, name)


def _require_lines(directory: StageDirectory) -> None:
    """Check that a training which is not done has all lines of metrics before its newest checkpoint."""
    step = newest_step(directory.file(StageFile.CHECKPOINTS), directory.name)
    if step is not None:
        every = int(directory.identity()["config"][directory.kind]["log_every"])
        require_lines(directory.file(StageFile.METRICS), stored_metrics(directory) or [], every, step)


def _raise(error: DamagedFileError) -> None:
    raise error


def _require_opening(directory: StageDirectory, name: StageFile) -> None:
    """Check a file without a recorded checksum as far as possible: it opens, and fits what it says."""
    path = directory.file(name)
    require_file(path, directory.remedy)
    if is_missing(path):
        if name in (StageFile.ACTIONS, StageFile.METRICS):  # the first versions kept none
            return
        raise DamagedFileError(path, "it is missing", directory.remedy)
    if name == StageFile.HISTORIES:
        report = audit(path, stage=directory.name)
        if not report.ok:
            raise DamagedFileError(path, report.problems[0], directory.remedy)
    elif name in (StageFile.MODEL, StageFile.ENCODER):
        read_weights(path, stage=directory.name)
    elif name == StageFile.RETURNS:
        load_results(path, directory.name)
    elif name == StageFile.ACTIONS:
        load_actions(path, load_results(directory.file(StageFile.RETURNS), directory.name).task_ids)
    else:
        stored_metrics(directory)
