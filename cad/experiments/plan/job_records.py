"""Records of submissions: which job runs a stage, its attempts, and what was submitted with it.

:mod:`cad.cluster` writes them; reports and tables read them, so their formats are defined here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from cad.checksums import read_bytes
from cad.errors import CadError
from cad.storage import write_json

SUBMISSION_FILE = "submission.json"
ATTEMPTS_SUFFIX = ".attempts"
"""Of the file in which the job script notes a job's attempts, beside the job's log."""

STARTED, OUT_OF_MEMORY, BAD_NODE = "started", "out-of-memory", "bad-node"
"""Events: an attempt began; it ran out of memory; its node is avoided from then on."""


def is_shortage(reason: str) -> bool:
    """Whether a failure's reason is that memory ran out."""
    return "out of memory" in reason or "MemoryError" in reason


class AttemptEvent(NamedTuple):
    """One line that the job script noted, such as ``started`` or ``out-of-memory``."""

    time: str
    node: str
    event: str


@dataclass(frozen=True)
class JobNote:
    """Which job runs a stage; ``folder`` is the submission's, relative to the runs folder."""

    job_id: str
    name: str
    experiment: str
    user: str
    folder: str
    submitted: float
    minutes: float
    memory: float
    """Factors on the profile's time limit and memory (1 unless retried with more)."""
    pack: tuple[str, ...] = ()
    """The stages that the job works on together, where it is a pack."""
    cluster: str | None = None
    """The cluster's name, empty for the one that Slurm's commands ask by themselves; None in notes of
    earlier versions, which did not say."""

    def log(self, root: Path) -> Path:
        """The log of all attempts."""
        return root / self.folder / f"{self.job_id}_0_log.out"

    def attempts(self, root: Path) -> list[AttemptEvent]:
        """What the job script noted, oldest first."""
        path = root / self.folder / f"{self.job_id}{ATTEMPTS_SUFFIX}"
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        return [AttemptEvent(*line.split(" ", 2)) for line in lines if line.count(" ") >= 2]

    def submission(self, root: Path) -> SubmissionRecord | None:
        """The submission that the job belongs to; None where its record cannot be read."""
        return read_submission(root / self.folder)


def read_job_note(path: Path) -> JobNote | None:
    """Read a note; None where there is none, or one of a newer version."""
    try:
        return _job_note.validate_json(read_bytes(path))
    except (CadError, ValueError):
        return None


_job_note = TypeAdapter(JobNote)


def job_note(data: object) -> JobNote:
    """A note from plain data; :class:`ValueError` where it is none."""
    return _job_note.validate_python(data)


def write_job_note(path: Path, note: JobNote) -> None:
    """Write a note."""
    write_json(path, asdict(note))


@dataclass(frozen=True)
class SubmissionRecord:
    """What one `cad submit` submitted: the experiment, the profile, and what its jobs run.

    ``code_differs_from_commit`` says whether the working tree had changes.
    """

    experiment: str
    overrides: tuple[str, ...]
    command: str
    profile: dict[str, Any]
    code_version: str
    code_differs_from_commit: bool
    user: str
    image_sha256: str | None = None
    clusters: str | None = None
    """The clusters that were asked for, with commas between; empty and None as in :class:`JobNote`."""


def read_submission(folder: Path) -> SubmissionRecord | None:
    """Read the record in a submission's folder; None where it is missing, damaged or incomplete."""
    try:
        return _submission.validate_json((folder / SUBMISSION_FILE).read_bytes())
    except (OSError, ValueError):
        return None


_submission = TypeAdapter(SubmissionRecord)


def write_submission(folder: Path, record: SubmissionRecord) -> None:
    """Write the record into a submission's folder."""
    write_json(folder / SUBMISSION_FILE, asdict(record))
