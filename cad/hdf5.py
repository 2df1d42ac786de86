"""HDF5 files, opened for reading such that "cannot be read" and "is damaged" stay apart.

HDF5 trusts what it reads: a damaged file may end the process by a signal.  So a file that was not compared
with a checksum (of an earlier version, or not of a stage) is first read whole in a child process.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import os
import re
import resource
import signal
from pathlib import Path

import h5py

from cad.checksums import DamagedFileError, is_trusted, stage_remedy, trust
from cad.errors import CadError, first_line
from cad.storage import UnreadableError, disk_error, open_file


def open_hdf5(path: Path, remedy: str) -> h5py.File:
    """Open ``path`` for reading; ``remedy`` says what to do where it is damaged.

    Raises :class:`CadError` for what the system says, also where another program holds the file's lock,
    and :class:`DamagedFileError` where the file was read but is not HDF5.
    """
    try:
        with open_file(path) as file:
            file.read(1)  # the system's own words: HDF5's are long
        untried = not is_trusted(path)
        crash = _crash(path) if untried else None
    except OSError as error:
        raise disk_error(error, path, "read") from error
    if crash is not None:
        raise DamagedFileError(path, f"HDF5 crashes when it reads it: {crash}", remedy)
    if untried:
        trust(path)
    try:
        return h5py.File(path, "r", locking="best-effort")
    except BlockingIOError as error:
        owner = _lock_owner(path) or "another program"
        raise UnreadableError(
            f"cannot read {path}: {owner} has it open for writing; wait for it or end it, or, if nothing "
            "writes to the file (a notebook that forgot to close it), set HDF5_USE_FILE_LOCKING=FALSE"
        ) from error
    except UNREADABLE as error:
        if (said := _system_error(error)) is not None:
            raise disk_error(said, path, "read") from error
        raise DamagedFileError(path, f"truncated, or not HDF5: {first_line(error)}", remedy) from error


# What h5py raises while it reads an open file.  It raises the last two for types that damaged bytes name, so
# that nothing but its calls belongs into a block that catches them: elsewhere they are mistakes of a program.
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)


def unreadable(error: BaseException, path: Path, remedy: str, what: str = "") -> CadError:
    """The message for what h5py raised while it read: the system's words, or that the file is damaged.

    ``what`` says which part of it is.
    """
    if (said := _system_error(error)) is not None:
        return disk_error(said, path, "read")
    return DamagedFileError(path, what + first_line(error), remedy)


# They are about what HDF5 asked for, as damaged bytes told it to, not about the disk.
_OF_THE_REQUEST = {errno.EFAULT, errno.EINVAL, errno.EOVERFLOW, errno.EFBIG}


def _system_error(error: BaseException) -> OSError | None:
    """What the system said, if that is why HDF5 failed; h5py has it in the text of a KeyError, say."""
    found = re.search(r"\berrno = (\d+)", str(error))
    number = int(found[1]) if found else getattr(error, "errno", None) or 0
    return OSError(number, os.strerror(number)) if number and number not in _OF_THE_REQUEST else None


def require_owner(file: h5py.File, path: Path, stage: str | None) -> None:
    """Raise :class:`DamagedFileError` for a file that says that another stage than ``stage`` wrote it."""
    try:
        owner = file.attrs.get("stage")
    except UNREADABLE as error:
        raise unreadable(error, path, stage_remedy(path.parent)) from error
    if stage is not None and owner is not None and owner != stage:
        raise DamagedFileError(path, f"it is that of {owner}, not of {stage}", stage_remedy(path.parent))


# How a process ends that follows a wrong pointer, or whose C library finds its memory overwritten.
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


def _crash(path: Path) -> str | None:
    """The signal that reading all of a file ends a child process with; None where it survives."""
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the C library's last words
            _read_all(path)
        finally:
            os._exit(0)  # whatever was raised is raised again in the parent
    _, status = os.waitpid(child, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return signal.Signals(ended_by).name if ended_by in _CRASHES else None


def _read_all(path: Path) -> None:
    with h5py.File(path, "r", locking="best-effort") as file:

        def read(_name: str, item: h5py.Group | h5py.Dataset) -> None:
            with contextlib.suppress(*UNREADABLE):
                dict(item.attrs)
                if isinstance(item, h5py.Dataset):
                    item[()]

        read("/", file)
        file.visititems(read)


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
