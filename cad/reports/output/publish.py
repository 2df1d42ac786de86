"""A report for a repository: its Markdown, small tables and small figures."""

from __future__ import annotations

import re
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
_HEADING = "## How the numbers were made"  # of every report


def require_free(folder: Path) -> Path:
    """The folder to publish into, without links.

    Raises :class:`UsageError` where it holds anything else than a published report, where that could not
    be put there, and where it is the current folder, which replacing it would take away.
    """
    place = folder.resolve()
    if Path.cwd().is_relative_to(place):
        raise UsageError(f"{folder} is the folder that you are in, or one above it: choose another folder")
    above = next(each for each in (place, *place.parents) if each.exists())
    if not above.is_dir():
        raise UsageError(f"{above} is a file, so that nothing can be published in {folder}: choose a folder")
    if place.exists() and (foreign := _foreign(place)) is not None:
        raise UsageError(
            f"{folder} holds files that are no published report ({foreign}): choose another folder"
        )
    return place


def _foreign(folder: Path) -> str | None:
    """A file that no published report has put there; None where there is none."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    known = _published(folder / "report.md") if files else set()
    if known is None:  # by a version that did not list them
        ours = {("csv", ".csv"), ("figures", ".png")}
        known = {file for file in files if (str(Path(file).parent), Path(file).suffix) in ours}
        known.add("report.md")
    return next((file for file in files if file not in known), None)


def _published(report: Path) -> set[str] | None:
    """The files that were published with a report; none of what is no report, None where it lists none."""
    try:
        text = report.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return set()
    if (listed := re.search(r"<!-- published with this file: (.*) -->", text)) is not None:
        return {"report.md", *listed[1].split(", ")}
    return None if _HEADING in text else set()


def publish(report: Path, folder: Path) -> list[str]:
    """Put a report's Markdown, its CSV files and its figures, made small, into ``folder``.

    An earlier report there is replaced as a whole.  Returns the names of tables that were left
    out because they are large.  Raises what :func:`require_free` does, and
    :class:`cad.errors.CadError` where the disk refuses.
    """
    folder = require_free(folder)
    with atomic_dir(folder) as temporary:
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
        files = (path for path in temporary.rglob("*") if path.is_file())
        listed = ", ".join(sorted(path.relative_to(temporary).as_posix() for path in files))
        text = (report / "report.md").read_text(encoding="utf-8").rstrip()
        (temporary / "report.md").write_text(
            f"{text}\n\n<!-- published with this file: {listed} -->\n", encoding="utf-8"
        )
    return [table.name for table in large]
