"""A report for a repository: its Markdown, small tables and small figures."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

from cad.errors import UsageError
from cad.storage import atomic_dir

_SCALE = 0.5  # of paper's 300 dots an inch
_COLOURS = 128
_LARGEST_TABLE = 100_000  # bytes
_SCORES = "per_task.csv"  # what others compute with: its tasks may have long names
_LARGEST_SCORES = 500_000


def require_free(folder: Path) -> None:
    """Raise :class:`UsageError` where ``folder`` holds anything else than a published report."""
    if folder.exists() and not (
        folder.is_dir() and {path.name for path in folder.iterdir()} <= {"report.md", "csv", "figures"}
    ):
        raise UsageError(f"{folder} holds files that are no published report: choose another folder")


def publish(report: Path, folder: Path) -> list[str]:
    """Put a report's Markdown, its CSV files and its figures, made small, into ``folder``.

    An earlier report there is replaced as a whole.  Returns the names of tables that were left
    out because they are large.  Raises what :func:`require_free` does, and
    :class:`cad.errors.CadError` where the disk refuses.
    """
    require_free(folder)
    with atomic_dir(folder) as temporary:
        shutil.copyfile(report / "report.md", temporary / "report.md")
        for part in ("csv", "figures"):
            (temporary / part).mkdir()
        tables = sorted((report / "csv").glob("*.csv"))
        large = [
            table
            for table in tables
            if table.stat().st_size > (_LARGEST_SCORES if table.name == _SCORES else _LARGEST_TABLE)
        ]
        for table in tables:
            if table not in large:
                shutil.copyfile(table, temporary / "csv" / table.name)
        for figure in sorted((report / "figures").glob("*.png")):
            with Image.open(figure) as image:
                size = (round(_SCALE * image.width), round(_SCALE * image.height))
                small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            # The other methods drop the colour of thin lines in favour of shades of large areas.
            small.quantize(_COLOURS, Image.Quantize.FASTOCTREE).save(
                temporary / "figures" / figure.name, optimize=True
            )
    return [table.name for table in large]
