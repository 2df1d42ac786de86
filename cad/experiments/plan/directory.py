"""Stage directories: the one owner of every name in them.

``<root>/stages/<stage's name>/`` is a stage's directory.  A folder name is enough to open one, so that
tables of many stages need neither their configs nor torch.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from cad.checksums import (
    SET_ASIDE,
    DamagedFileError,
    file_checksum,
    is_missing,
    no_file,
    read_bytes,
    read_sealed,
    require_file,
    set_aside,
    stage_remedy,
    trust,
    write_sealed,
)
from cad.errors import CadError, first_line
from cad.experiments.plan.job_records import JobNote, read_job_note, write_job_note
from cad.experiments.plan.stage_record import wrong_value
from cad.locks import is_locked
from cad.storage import sha256_json, write_json


class StageFile(StrEnum):
    """Every file and folder of a stage's directory, but for its lock (:func:`cad.locks.folder_lock`)."""

    DONE = "DONE"  # written last, with a record such as the seconds it took: nothing else means complete
    FAILED = "FAILED"  # why the last attempt failed
    PRUNED = "PRUNED"  # why a training was ended early (`prune` of an experiment); it can go on
    IDENTITY = "stage.json"  # what the name is a hash of
    PROGRESS = "progress.json"  # for tables; may be out of date
    JOB = "job.json"  # which Slurm job runs the stage
    HISTORIES = "histories.h5"
    ENCODER = "encoder.safetensors"
    MODEL = "model.safetensors"
    RETURNS = "returns.h5"
    ACTIONS = "actions.h5"
    ROLLOUT = "rollout.saved"  # of an evaluation that has not ended: where it goes on
    PROBE = "probe.json"
    STREAMED = "streamed"  # a copy of the histories, while a training with train.stream runs
    CHECKPOINTS = "checkpoints"  # this and what follows is written by :func:`cad.training.loop.train`
    METRICS = "metrics.jsonl"
    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    MLFLOW = "mlruns"
    SET_ASIDE = SET_ASIDE  # damaged files, found by `cad repair` or, in checkpoints, by a training


FOLDERS = (
    StageFile.STREAMED,
    StageFile.CHECKPOINTS,
    StageFile.TENSORBOARD,
    StageFile.WANDB,
    StageFile.MLFLOW,
    StageFile.SET_ASIDE,
)
"""Which of them are folders."""
# What a stage of each kind leaves for others, recorded with its SHA-256 when it finishes.  Checkpoints
# carry their own; TensorBoard's files repeat what METRICS records.
OUTPUTS = {
    "histories": (StageFile.HISTORIES,),
    "pretrain": (StageFile.ENCODER, StageFile.METRICS),
    "train": (StageFile.MODEL, StageFile.METRICS),
    "evaluate": (StageFile.RETURNS, StageFile.ACTIONS),
}
_NO_NUMBER = 1e18  # of seconds, updates, attempts
# Keys of a record that came with its checksum.
_SINCE_CHECKSUMS = ("stage", "outputs")


def checked_if_recorded(file: Path) -> Path:
    """A file that a user named; where it is an output of a finished stage, :meth:`StageDirectory.checked`."""
    path = file.absolute()
    directory = StageDirectory(path.parent.parent.parent, path.parent.name)
    known = directory.path == path.parent and path.name in OUTPUTS.get(directory.kind, ())
    return directory.checked(StageFile(path.name)) if known and directory.done else file


def stage_around(path: Path) -> StageDirectory | None:
    """The stage whose directory ``path`` is, or lies in, whether it is there yet or not; None for others."""
    # As it is written and as it is: each may be a link to the other.
    for place in (Path(os.path.normpath(path.absolute())), Path(os.path.realpath(path))):
        for folder in (place, *place.parents):
            directory = StageDirectory(folder.parent.parent, folder.name)
            if directory.path == folder and directory.kind in OUTPUTS:
                return directory
    return None


def stages_folder(root: Path) -> Path:
    """The folder of all stage directories under a root folder of runs."""
    return root / "stages"


def stage_name(identity: dict[str, Any]) -> str:
    """The name of a stage: its kind and twelve digits of the hash of what determines its result."""
    return f"{identity.get('kind')}-{sha256_json(identity)[:12]}"


def shared_its_task(record: Mapping[str, Any]) -> bool:
    """Whether a finished stage was one of several that a task worked on, by what it recorded."""
    return any(key in record for key in ("pack", "task_of"))


@dataclass(frozen=True)
class StageDirectory:
    """The directory of the stage called ``name`` under a root folder of runs."""

    root: Path
    name: str

    @cached_property  # a table of 1,000 cells asks for 28,000
    def path(self) -> Path:
        """The directory itself."""
        return stages_folder(self.root) / self.name

    @property
    def kind(self) -> str:
        """The stage's kind, which its name begins with."""
        return self.name.rpartition("-")[0]

    def file(self, name: StageFile) -> Path:
        """One of the stage's files; it need not exist."""
        return self.path / name

    @property
    def remedy(self) -> str:
        """What to do about a damaged file of the stage, for messages."""
        return stage_remedy(self.path)

    def stored_identity(self) -> dict[str, Any]:
        """What :meth:`identity` reads, before it is compared with the name."""
        file = self.file(StageFile.IDENTITY)
        require_file(file, self.remedy)
        try:
            identity = json.loads(read_bytes(file))
        except (ValueError, RecursionError) as error:
            raise DamagedFileError(file, f"not JSON: {first_line(error)}", self.remedy) from error
        if not isinstance(identity, dict):
            raise DamagedFileError(file, "not a JSON object", self.remedy)
        return identity

    def identity(self) -> dict[str, Any]:
        """What the stage's name is a hash of; :class:`CadError` where that is missing or damaged."""
        file = self.file(StageFile.IDENTITY)
        if is_missing(file):
            raise DamagedFileError(file, "it is missing", self.remedy)
        identity = self.stored_identity()
        if self.name != stage_name(identity):
            raise DamagedFileError(file, "the directory is not named after it", self.remedy)
        return identity

    @property
    def done(self) -> bool:
        """Whether the stage is complete."""
        return self.file(StageFile.DONE).exists()

    def record(self) -> dict[str, Any]:
        """What the stage recorded when it finished; :class:`CadError` where that is damaged."""
        marker = self.file(StageFile.DONE)
        record = read_sealed(marker, self.remedy, always_sealed=_SINCE_CHECKSUMS)
        if record.get("stage", self.name) != self.name:
            raise DamagedFileError(marker, f"it is that of {record['stage']}", self.remedy)
        if (wrong := wrong_value(record)) is not None:
            raise DamagedFileError(marker, wrong, self.remedy)
        return record

    def finish(self, record: dict[str, Any]) -> None:
        """Mark the stage complete, with checksums of its outputs; :meth:`record` reads ``record`` back."""
        files = [self.file(name) for name in OUTPUTS.get(self.kind, ())]
        outputs = {file.name: file_checksum(file) for file in files if file.exists()}
        write_sealed(self.file(StageFile.DONE), {**record, "stage": self.name, "outputs": outputs})

    def record_output(self, name: StageFile) -> None:
        """Record the checksum of a file that was added to the finished stage."""
        record = self.record()
        if "outputs" in record:  # else the stage is of a version that recorded none
            record["outputs"][name] = file_checksum(self.file(name))
            write_sealed(self.file(StageFile.DONE), record)

    def checked(self, name: StageFile) -> Path:
        """A file of the finished stage; where its checksum was recorded, it is what the stage wrote.

        Raises :class:`DamagedFileError` where it is not, before any library opens it.  Stages of earlier
        versions have no checksums.
        """
        file = self.file(name)
        wanted = self.record().get("outputs", {}).get(name)
        require_file(file, self.remedy)
        if wanted is None:
            return file
        if is_missing(file):
            raise DamagedFileError(file, "it is missing", self.remedy)
        if file_checksum(file) != wanted:
            raise DamagedFileError(
                file, f"it is not what {self.name} wrote: its checksum differs from that in DONE", self.remedy
            )
        trust(file)
        return file

    def failure(self) -> str | None:
        """Why the stage failed; None where it did not, or where it is complete all the same."""
        return self._message(StageFile.FAILED)

    def _message(self, name: StageFile) -> str | None:
        marker = self.file(name)
        if not marker.exists() or self.done:
            return None
        try:
            record = json.loads(read_bytes(marker))
        except (CadError, ValueError, RecursionError):
            # It is gone where another attempt has just begun.
            return f"{marker} is damaged" if marker.exists() else None
        return str(record.get("message", "")) if isinstance(record, dict) else ""

    def pruned(self) -> str | None:
        """Why the training was ended early; None where it was not."""
        return self._message(StageFile.PRUNED)

    def record_pruned(self, why: str) -> None:
        """Keep why the training was ended early."""
        write_json(self.file(StageFile.PRUNED), {"message": why})

    def record_failure(self, message: str, *, expected: bool) -> None:
        """Keep why the stage failed; ``expected`` is False for an error that is a bug."""
        write_json(self.file(StageFile.FAILED), {"message": message, "expected": expected})

    def record_error(self, error: Exception) -> None:
        """Keep an error as why the stage failed; only logged where the disk does not take it."""
        expected = isinstance(error, CadError)
        try:
            self.record_failure(
                str(error) if expected else f"{type(error).__name__}: {error}", expected=expected
            )
        except CadError as also:  # on a full disk the marker cannot be written either
            logging.getLogger(__name__).error("%s", also)

    def clear_failure(self) -> None:
        """Forget an earlier failure, and that the training was ended early."""
        for marker in (self.file(StageFile.FAILED), self.file(StageFile.PRUNED)):
            if no_file(marker) is not None:
                set_aside(marker, self.file(StageFile.SET_ASIDE))
            marker.unlink(missing_ok=True)

    def progress(self) -> dict[str, Any]:
        """The latest note of progress, empty where there is none yet.

        ``done`` of ``total`` units of work at ``time`` (seconds since the epoch); ``first_done`` and
        ``first_time`` are from the current attempt's first note; the latest metrics follow.
        """
        try:
            note = json.loads(read_bytes(self.file(StageFile.PROGRESS)))
        except (CadError, ValueError, RecursionError):
            return {}
        whole = isinstance(note, dict) and all(
            type(value) in (int, float) and abs(value) < _NO_NUMBER for value in note.values()
        )
        return note if whole else {}

    def saved_update(self) -> int | None:
        """The update of the newest checkpoint; None without one."""
        try:
            with os.scandir(self.file(StageFile.CHECKPOINTS)) as entries:
                names = [entry.name for entry in entries if entry.name.isdigit() and entry.is_dir()]
        except OSError:
            return None
        return max(map(int, names), default=None)

    def locked(self) -> bool:
        """Whether a process of this machine works in the directory."""
        return is_locked(self.path)

    def job(self) -> JobNote | None:
        """Which job runs the stage; None where none was submitted, or where the note cannot be read."""
        return read_job_note(self.file(StageFile.JOB))

    def note_job(self, note: JobNote) -> None:
        """Leave a note of the job that runs the stage."""
        write_job_note(self.file(StageFile.JOB), note)
