"""One process's attempt at a stage: it claims the directory, notes progress, and marks the end."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from cad.checksums import DamagedFileError
from cad.errors import CadError
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.stage import STAGE_VERSION, Stage
from cad.storage import disk_error, make_dirs, remove_leftovers, write_json


@dataclass
class StageAttempt:
    """An attempt at ``stage`` under a root folder of runs; :meth:`claim` begins it."""

    root: Path
    stage: Stage
    number: int = 1
    """Counted from 1, over all processes that tried."""
    seconds_before: float = 0.0
    """Wall seconds of earlier attempts; of a killed one, until its last note of progress."""
    _first: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def directory(self) -> StageDirectory:
        """The stage's directory."""
        return StageDirectory(self.root, self.stage.name)

    def file(self, name: StageFile) -> Path:
        """One of the stage's files."""
        return self.directory.file(name)

    def claim(self) -> None:
        """Create the directory, or check that it is this stage's.

        Raises :class:`CadError` for a directory that describes another config or is of a newer version of the
        program.
        """
        path = make_dirs(self.directory.path)
        remove_leftovers(path)
        note = self.directory.progress()
        self.number = int(note.get("attempt", 0)) + 1
        this = note.get("time", 0.0) - note.get("first_time", 0.0)
        self.seconds_before = note.get("seconds_before", 0.0) + this
        file = self.file(StageFile.IDENTITY)
        if not file.exists():
            write_json(file, self.stage.identity)
            return
        stored = self.directory.stored_identity()
        if stored == self.stage.identity:
            return
        version = stored.get("version")
        if isinstance(version, int) and version > STAGE_VERSION[self.stage.kind]:
            raise CadError(f"{path} was written by a newer version of cad; update cad to use it")
        raise DamagedFileError(file, f"it describes another config than {path.name}", self.directory.remedy)

    def report(self, done: int, total: int, **latest: float) -> None:
        """Note progress for tables.  Losing a note is harmless, so it is not flushed to the disk."""
        now = time.time()
        if not self._first:
            # The rate of this attempt is known from it, also where it resumed from the middle.
            self._first = {"first_done": done, "first_time": now}
        before = {"attempt": self.number, "seconds_before": self.seconds_before}
        note = {"done": done, "total": total, "time": now, **self._first, **before, **latest}
        file = self.file(StageFile.PROGRESS)
        temporary = file.with_name(f".progress.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(note), encoding="utf-8")
            temporary.replace(file)
        except OSError as error:
            raise disk_error(error, file) from error
