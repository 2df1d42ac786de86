"""The metrics of a training: JSON lines for programs, TensorBoard files for people."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard.writer import SummaryWriter

from cad.checksums import DamagedFileError, read_bytes, stage_remedy
from cad.storage import disk_error, write_text


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read all complete lines of a metrics file; a last line that a kill cut short is left out.

    Raises :class:`CadError` for a file that cannot be read or is damaged.
    """
    if not path.exists():
        return []
    remedy = stage_remedy(path.parent)
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


class MetricsLog:
    """Appends to ``metrics.jsonl`` and to TensorBoard files in the same folder.

    ``step`` is the update that a run resumes from.  Later lines of the interrupted run are dropped, so
    that the file equals that of a run without a stop.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / "metrics.jsonl"
        # A run without a checkpoint starts again from the first line.
        kept = [r for r in read_metrics(self._path) if r["step"] <= step] if step else []
        write_text(self._path, "".join(json.dumps(r) + "\n" for r in kept))
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise disk_error(error, self._path) from error
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record ``values`` at ``step``."""
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            for key, value in values.items():
                self._board.add_scalar(key, value, step)
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
        """Close both files."""
        self._file.close()
        self._board.close()
