"""What a submission leaves behind: a note in each stage's directory that names its job."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cad.experiments.directory import StageDirectory
from cad.storage import write_json

JOB_FILE = "job.json"
# What the job script notes of a task, beside its log.
ATTEMPTS_SUFFIX = ".attempts"


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

    def log(self, root: Path) -> Path:
        """The log of all attempts."""
        return root / self.folder / f"{self.job_id}_0_log.out"

    def attempts(self, root: Path) -> list[list[str]]:
        """What the job script noted, a line an event: time, node, event."""
        path = root / self.folder / f"{self.job_id}{ATTEMPTS_SUFFIX}"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        return [line.split(" ", 2) for line in lines if line.count(" ") >= 2]


def write_note(directory: StageDirectory, note: JobNote) -> None:
    """Leave the note in the stage's directory."""
    write_json(directory.file(JOB_FILE), asdict(note))


def read_note(stage_folder: Path) -> JobNote | None:
    """The note in a stage's directory; None where no job was submitted for it."""
    try:
        return JobNote(**json.loads((stage_folder / JOB_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return None  # cut short by nobody (writes are atomic); from a newer version, say: submit again
