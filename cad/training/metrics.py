"""The metrics of a training: JSON lines for programs, TensorBoard and other trackers for people."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from cad.checksums import DamagedFileError, read_bytes, require_file, stage_remedy
from cad.storage import disk_error, write_text
from cad.training.trackers import open_trackers


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read all complete lines of a metrics file; a last line that a kill cut short is left out.

    Raises :class:`CadError` for a file that cannot be read or is damaged.
    """
    if not path.exists():
        return []
    remedy = stage_remedy(path.parent)
    require_file(path, remedy)
    records = []
    for number, line in enumerate(read_bytes(path).split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or type(record.get("step")) is not int:
                raise ValueError(f"no record of an update: {line[:40]!r}")
        except (ValueError, RecursionError) as error:
            raise DamagedFileError(path, f"line {number} is not JSON: {error}", remedy) from error
        records.append(record)
    return records


def require_lines(path: Path, records: Sequence[Mapping[str, float]], every: int, step: int) -> None:
    """Raise :class:`~cad.checksums.DamagedFileError` where the line of an update up to ``step`` is missing.

    There is one every ``every`` updates, the beginning included.
    """
    there = {record["step"] for record in records}
    missing = next((update for update in range(0, step + 1, every) if update not in there), None)
    if missing is not None:
        raise DamagedFileError(path, f"the line of update {missing} is missing", stage_remedy(path.parent))


class MetricsLog:
    """Appends to ``metrics.jsonl`` in a folder, and writes to trackers, TensorBoard by default.

    ``run_id`` is the trackers' name of the run.  ``step`` is the update that a run resumes from: later lines
    of the interrupted run are dropped, so that the file equals that of a run without a stop.  With ``every``,
    the updates between two lines, a line that is missing before it is an error (:func:`require_lines`).
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        trackers: Sequence[str] = ("tensorboard",),
        run_id: str = "",
        every: int | None = None,
    ) -> None:
        self._path = folder / "metrics.jsonl"
        # A run without a checkpoint starts again from the first line.
        kept = [r for r in read_metrics(self._path) if r["step"] <= step] if step else []
        if step and every is not None:
            require_lines(self._path, kept, every, step)
        write_text(self._path, "".join(json.dumps(r) + "\n" for r in kept))
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise disk_error(error, self._path) from error
        self._trackers = open_trackers(trackers, folder, run_id, step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record ``values`` at ``step``."""
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            for tracker in self._trackers:
                tracker.write(step, values)
        except OSError as error:
            raise disk_error(error, self._path) from error

    def sync(self) -> None:
        """Have what was written on the disk: a checkpoint that follows must not outlive its lines."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise disk_error(error, self._path) from error

    def __enter__(self) -> MetricsLog:
        """Return the open log."""
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close the file and the trackers."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()
