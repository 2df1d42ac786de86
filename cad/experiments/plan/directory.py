"""Stage directories: the one owner of every name in them.

``<root>/stages/<stage's name>/`` is a stage's directory.  A folder name is enough to open one, so that
tables of many stages need neither their configs nor torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cad.errors import CadError
from cad.experiments.plan.job_records import JobNote, read_job_note, write_job_note
from cad.storage import is_locked, read_json, write_json


class StageFile(StrEnum):
    """Every file and folder of a stage's directory, but for its lock (:func:`cad.storage.folder_lock`)."""

    DONE = "DONE"  # written last, with a record such as the seconds it took: nothing else means complete
    FAILED = "FAILED"  # why the last attempt failed
    IDENTITY = "stage.json"  # what the name is a hash of
    PROGRESS = "progress.json"  # for tables; may be out of date
    JOB = "job.json"  # which Slurm job runs the stage
    HISTORIES = "histories.h5"
    ENCODER = "encoder.safetensors"
    MODEL = "model.safetensors"
    RETURNS = "returns.h5"
    ACTIONS = "actions.h5"
    PROBE = "probe.json"
    STREAMED = "streamed"  # a copy of the histories, while a training with train.stream runs
    CHECKPOINTS = "checkpoints"  # this and what follows is written by :func:`cad.training.loop.train`
    METRICS = "metrics.jsonl"
    TENSORBOARD = "tensorboard"


def stages_folder(root: Path) -> Path:
    """The folder of all stage directories under a root folder of runs."""
    return root / "stages"


@dataclass(frozen=True)
class StageDirectory:
    """The directory of the stage called ``name`` under a root folder of runs."""

    root: Path
    name: str

    @property
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

    def identity(self) -> dict[str, Any]:
        """What the stage's name is a hash of; :class:`CadError` where that is missing or damaged."""
        identity = read_json(self.file(StageFile.IDENTITY))
        if not isinstance(identity, dict):
            raise CadError(f"{self.file(StageFile.IDENTITY)} is damaged; remove {self.path} to run it again")
        return identity

    @property
    def done(self) -> bool:
        """Whether the stage is complete."""
        return self.file(StageFile.DONE).exists()

    def record(self) -> dict[str, Any]:
        """What the stage recorded when it finished; :class:`CadError` where that is damaged."""
        record = read_json(self.file(StageFile.DONE))
        if not isinstance(record, dict):
            raise CadError(f"{self.file(StageFile.DONE)} is damaged; remove it to run the stage again")
        return record

    def finish(self, record: dict[str, Any]) -> None:
        """Mark the stage complete; :meth:`record` reads ``record`` back."""
        write_json(self.file(StageFile.DONE), record)

    def failure(self) -> str | None:
        """Why the stage failed; None where it did not, or where it is complete all the same."""
        marker = self.file(StageFile.FAILED)
        if self.done or not marker.exists():
            return None
        try:
            record = json.loads(marker.read_text(encoding="utf-8"))
        except FileNotFoundError:  # another attempt has just begun
            return None
        except (OSError, ValueError):
            return f"{marker} is damaged"
        return str(record.get("message", "")) if isinstance(record, dict) else ""

    def record_failure(self, message: str, *, expected: bool) -> None:
        """Keep why the stage failed; ``expected`` is False for an error that is a bug."""
        write_json(self.file(StageFile.FAILED), {"message": message, "expected": expected})

    def clear_failure(self) -> None:
        """Forget an earlier failure."""
        self.file(StageFile.FAILED).unlink(missing_ok=True)

    def progress(self) -> dict[str, Any]:
        """The latest note of progress, empty where there is none yet.

        ``done`` of ``total`` units of work at ``time`` (seconds since the epoch); ``first_done`` and
        ``first_time`` are from the current attempt's first note; the latest metrics follow.
        """
        try:
            note = json.loads(self.file(StageFile.PROGRESS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def locked(self) -> bool:
        """Whether a process of this machine works in the directory."""
        return is_locked(self.path)

    def job(self) -> JobNote | None:
        """Which job runs the stage; None where none was submitted, or where the note cannot be read."""
        return read_job_note(self.file(StageFile.JOB))

    def note_job(self, note: JobNote) -> None:
        """Leave a note of the job that runs the stage."""
        write_job_note(self.file(StageFile.JOB), note)
