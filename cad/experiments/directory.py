"""Stage directories: what is in them, when one is complete, who is working in one.

``<root>/stages/<name>/`` holds ``stage.json`` (identity), ``progress.json`` (for tables, may be
stale), the stage's outputs, and ``DONE``, written last: nothing else counts as complete.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cad.errors import CadError
from cad.experiments.plan import STAGE_VERSION, Stage
from cad.storage import disk_error, make_dirs, read_json, remove_leftovers, write_json


@dataclass(frozen=True)
class StageDirectory:
    """The directory of one stage under a root folder of runs."""

    root: Path
    stage: Stage
    # The first note of this process, by which its pace is known also when it went on from the middle.
    _first: dict[str, float] = field(default_factory=dict, compare=False, repr=False)
    # What earlier attempts took.
    _before: dict[str, float] = field(default_factory=dict, compare=False, repr=False)

    @property
    def path(self) -> Path:
        """Where the stage lives."""
        return self.root / "stages" / self.stage.name

    def file(self, name: str) -> Path:
        """One of the stage's files."""
        return self.path / name

    @property
    def done(self) -> bool:
        """Whether the stage is complete."""
        return self.file("DONE").exists()

    def claim(self) -> None:
        """Create the directory, or check that the one there is this stage's.

        Raises :class:`CadError` for a directory of another config or a newer version of the program.
        """
        make_dirs(self.path)
        remove_leftovers(self.path)
        self._count_attempt()
        identity = self.file("stage.json")
        if not identity.exists():
            write_json(identity, self.stage.identity)
            return
        found = read_json(identity)
        if found == self.stage.identity:
            return
        version = found.get("version") if isinstance(found, dict) else None
        if isinstance(version, int) and version > STAGE_VERSION[self.stage.kind]:
            raise CadError(f"{self.path} was written by a newer version of cad; update cad to use it")
        raise CadError(
            f"{identity} describes another config than the one that is asked for; nothing was changed; "
            "choose another --root or move that directory away"
        )

    def _count_attempt(self) -> None:
        """Take over what earlier attempts took, a killed one as far as its last note says."""
        note = self.progress()
        spent = note.get("seconds_before", 0.0) + note.get("time", 0.0) - note.get("first_time", 0.0)
        self._before.update(attempt=note.get("attempt", 0) + 1, seconds_before=spent)

    @property
    def attempt(self) -> int:
        """Which attempt at the stage this process makes, from 1; after :meth:`claim`."""
        return int(self._before["attempt"])

    @property
    def seconds_before(self) -> float:
        """Wall seconds of the attempts before this one; after :meth:`claim`."""
        return self._before["seconds_before"]

    def finish(self, facts: dict[str, Any]) -> None:
        """Mark the stage complete; ``facts`` (seconds and the like) stay readable in ``DONE``."""
        write_json(self.file("DONE"), facts)

    def facts(self) -> dict[str, Any]:
        """What the stage said of itself when it finished."""
        facts = read_json(self.file("DONE"))
        if not isinstance(facts, dict):
            raise CadError(f"{self.file('DONE')} is damaged; remove it to run the stage again")
        return facts

    def report(self, done: int, total: int, **latest: float) -> None:
        """Leave a note of progress for tables; losing one is harmless, so it is not flushed to disk."""
        now = time.time()
        if not self._first:
            self._first.update(first_done=done, first_time=now)
        note = {"done": done, "total": total, "time": now, **self._first, **self._before, **latest}
        temporary = self.file(f".progress.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(note), encoding="utf-8")
            temporary.replace(self.file("progress.json"))
        except OSError as error:
            raise disk_error(error, self.file("progress.json")) from error

    def progress(self) -> dict[str, float]:
        """The latest note of progress, empty where there is none yet."""
        try:
            note = json.loads(self.file("progress.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}
        return note if isinstance(note, dict) else {}
