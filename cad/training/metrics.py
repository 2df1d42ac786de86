"""The metrics of a training: JSON lines for programs, TensorBoard files for people."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard.writer import SummaryWriter

from cad.errors import CadError
from cad.storage import disk_error, write_text


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read all complete lines of a metrics file; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise CadError(f"{path}:{number} is damaged (not JSON: {error})") from error
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
