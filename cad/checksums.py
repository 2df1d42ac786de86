"""Checksums of files: what was read whole and differs from its checksum is damaged, nothing else is.

An error of the operating system says nothing about a file's content.  Damaged files are moved aside,
never removed.
"""

from __future__ import annotations

import contextlib
import json
import stat
import time
from pathlib import Path
from typing import Any, NamedTuple

from cad.errors import CadError
from cad.storage import disk_error, open_file, sha256_file, sha256_json, write_json

SET_ASIDE = "set-aside"
"""Folder of a stage for files that are not what was written."""
_SEAL = "seal"
# Younger files are hashed again at every reading: within a tick of the file system's clock a file can
# change without a change of its times.
_SETTLED_NS = 2_000_000_000


class DamagedFileError(CadError):
    """A file was read whole and is not what was written; ``why`` says how that is known.

    ``key`` is the setting that names the file, if one does.
    """

    def __init__(self, path: Path, why: str, remedy: str, key: str = "") -> None:
        super().__init__(f"{key}{': ' if key else ''}{path} is damaged ({why}); {remedy}")
        self.path = path
        self.why = why


def stage_remedy(folder: Path) -> str:
    """What to do about a damaged file in a stage's directory, for messages."""
    return f"'cad repair {folder}' sets it aside, and the next run makes it again"


class _Stamp(NamedTuple):
    """What changes when a file does."""

    path: Path
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


_known: dict[_Stamp, str] = {}


def file_checksum(path: Path) -> str:
    """SHA-256 of a file; within a process an unchanged file is read once.

    Raises :class:`CadError` for what the system says, such as "permission denied".
    """
    try:
        stamp = _stamp(path)
        if stamp not in _known:
            checksum = sha256_file(path)
            if _stamp(path) != stamp or time.time_ns() - max(stamp.mtime_ns, stamp.ctime_ns) < _SETTLED_NS:
                return checksum
            _known[stamp] = checksum
        return _known[stamp]
    except OSError as error:
        raise disk_error(error, path, "read") from error


_compared: set[_Stamp] = set()


def trust(path: Path) -> None:
    """Note that a file, as it is now, was compared with the checksum that was recorded for it."""
    with contextlib.suppress(OSError):
        _compared.add(_stamp(path))


def is_trusted(path: Path) -> bool:
    """Whether :func:`trust` was called for a file in this process, and it has not changed since."""
    try:
        return _stamp(path) in _compared
    except OSError:
        return False


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return _Stamp(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def write_sealed(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON object with its own checksum, atomically."""
    write_json(path, {**record, _SEAL: sha256_json(record)})


def read_sealed(path: Path, remedy: str, *, always_sealed: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote.

    Files of earlier versions have no checksum; a record with a key of ``always_sealed`` is not one of them.
    Raises :class:`DamagedFileError`, with ``remedy``, for other content than was written, and
    :class:`CadError` where the file is missing or cannot be read.
    """
    require_file(path, remedy)
    try:
        record = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(path, f"not JSON: {error}", remedy) from error
    if not isinstance(record, dict):
        raise DamagedFileError(path, "not a JSON object", remedy)
    seal = record.pop(_SEAL, None)
    try:
        right = seal == sha256_json(record) if seal is not None else not set(always_sealed) & record.keys()
    except ValueError:  # NaN
        right = False
    if not right:
        raise DamagedFileError(path, "it differs from its own checksum", remedy)
    return record


def no_file(path: Path) -> str | None:
    """What is in the place of a file, in words; None for a file, or where nothing can be seen."""
    try:
        mode = path.stat().st_mode
    except OSError:  # who reads it tells
        return None
    if stat.S_ISREG(mode):
        return None
    return "a folder is in its place" if stat.S_ISDIR(mode) else "a pipe or a device is in its place"


def require_file(path: Path, remedy: str) -> None:
    """Raise :class:`DamagedFileError` where something else is in the place of a file that we wrote.

    That is for files that a stage or a checkpoint keeps: of others the user is told to name a file.
    """
    if (found := no_file(path)) is not None:
        raise DamagedFileError(path, found, remedy)


def is_missing(path: Path) -> bool:
    """Whether the system says that there is no such file; :class:`CadError` for whatever else it says."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise disk_error(error, path, "read") from error
    return False


def read_bytes(path: Path) -> bytes:
    """All bytes of a file; :class:`CadError` with what the system says where it cannot be read."""
    try:
        with open_file(path) as file:
            return file.readall()
    except OSError as error:
        raise disk_error(error, path, "read") from error


def set_aside(path: Path, folder: Path) -> Path:
    """Move a file or folder into ``folder``, beside what is there already; its new place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target, n = folder / path.name, 1
        while target.exists():
            n += 1
            target = folder / f"{path.name}.{n}"
        path.rename(target)
    except OSError as error:
        raise disk_error(error, path, "move") from error
    return target
