"""One process's attempt at a stage: it claims the directory, notes progress, and marks the end."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cad.checksums import DamagedFileError
from cad.envs.own_code import code_checksums
from cad.errors import CadError
from cad.experiments.durations import clock_time
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.stage import STAGE_VERSION, Stage
from cad.storage import disk_error, make_dirs, remove_leftovers, write_json

PROGRESS_LOG = "cad.progress"
"""Name of the log with a line of progress now and then, for jobs; a terminal has bars."""
_log = logging.getLogger(PROGRESS_LOG)
_log.setLevel(logging.WARNING)
_SECONDS_BETWEEN_LINES = 30.0


@dataclass
class StageAttempt:
    """An attempt at ``stage`` under a root folder of runs; :meth:`claim` begins it."""

    root: Path
    stage: Stage
    number: int = 1
    """Counted from 1, over all processes that tried."""
    seconds_before: float = 0.0
    """Wall seconds of earlier attempts; of a killed one, until its last note of progress."""
    own_code: Mapping[str, str] = field(default_factory=dict)
    """Checksums of the code of the user's that it began with, by module."""
    _first: dict[str, float] = field(default_factory=dict, repr=False)
    _told: float = field(default=0.0, repr=False)

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
        self.own_code = code_checksums(self.stage.config.env)
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
        if now - self._told >= _SECONDS_BETWEEN_LINES or done == total:
            self._told = now
            _log.info("%s", self._in_words(done, total, now, latest))
        before = {"attempt": self.number, "seconds_before": self.seconds_before}
        note = {"done": done, "total": total, "time": now, **self._first, **before, **latest}
        file = self.file(StageFile.PROGRESS)
        temporary = file.with_name(f".progress.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(note), encoding="utf-8")
            temporary.replace(file)
        except OSError as error:
            raise disk_error(error, file) from error

    def _in_words(self, done: int, total: int, now: float, latest: Mapping[str, float]) -> str:
        """``train-0123456789ab: 250 of 700 (36%), 3.9 a second, 1:55 left, loss 0.412``."""
        text = f"{self.stage.name}: {done:,} of {total:,} ({done / total:.0%})"
        moved, took = done - self._first["first_done"], now - self._first["first_time"]
        if moved > 0 and took > 0:
            text += f", {moved / took:.3g} a second, {clock_time((total - done) * took / moved)} left"
        named = (key for key in ("loss", "validation_return") if key in latest)
        return text + "".join(f", {key.replace('_', ' ')} {latest[key]:.3f}" for key in named)
