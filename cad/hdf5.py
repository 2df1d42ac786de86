"""HDF5 files, opened for reading such that "cannot be read" and "is damaged" stay apart."""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from cad.checksums import DamagedFileError, stage_remedy
from cad.errors import CadError, first_line
from cad.storage import disk_error, open_file


def open_hdf5(path: Path, remedy: str) -> h5py.File:
    """Open ``path`` for reading; ``remedy`` says what to do where it is damaged.

    Raises :class:`CadError` for what the system says, also where another program holds the file's lock,
    and :class:`DamagedFileError` where the file was read but is not HDF5.
    """
    try:
        with open_file(path) as file:
            file.read(1)  # the system's own words: HDF5's are long
        return h5py.File(path, "r", locking="best-effort")
    except BlockingIOError as error:
        owner = _lock_owner(path) or "another program"
        raise CadError(
            f"cannot read {path}: {owner} has it open for writing; wait for it or end it, or, if nothing "
            "writes to the file (a notebook that forgot to close it), set HDF5_USE_FILE_LOCKING=FALSE"
        ) from error
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno:
            raise disk_error(error, path, "read") from error
        raise DamagedFileError(path, f"truncated, or not HDF5: {first_line(error)}", remedy) from error


# What h5py raises while it reads an open file.
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)


def unreadable(error: BaseException, path: Path, remedy: str) -> CadError:
    """The message for what h5py raised while it read: the system's words, or that the file is damaged."""
    if isinstance(error, OSError) and error.errno:
        return disk_error(error, path, "read")
    return DamagedFileError(path, first_line(error), remedy)


def require_owner(file: h5py.File, path: Path, stage: str | None) -> None:
    """Raise :class:`DamagedFileError` for a file that says that another stage than ``stage`` wrote it."""
    try:
        owner = file.attrs.get("stage")
    except UNREADABLE as error:
        raise unreadable(error, path, stage_remedy(path.parent)) from error
    if stage is not None and owner is not None and owner != stage:
        raise DamagedFileError(path, f"it is that of {owner}, not of {stage}", stage_remedy(path.parent))


def _lock_owner(path: Path) -> str | None:
    """The process of this machine that locked a file; None where the system does not tell."""
    try:
        status = path.stat()
        place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            words = line.split()
            if place in words:
                number = words[words.index(place) - 1]
                name = Path(f"/proc/{number}/comm").read_text(encoding="utf-8").strip()
                return f"process {number} ({name})"
    except (OSError, ValueError):
        pass
    return None
