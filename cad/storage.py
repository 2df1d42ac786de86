"""Files that are complete or absent: atomic writes, checksums, locks.

Every write goes to a temporary name in the same folder, is flushed to the disk and then renamed.
So a killed process or a full disk never leaves half a file under the real name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cad.errors import CadError


class BusyError(CadError):
    """Another process holds the lock of a folder."""


_DISK_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "your disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another path",
    errno.EISDIR: "a folder of this name exists; remove it or choose another path",
}


def disk_error(error: OSError, path: Path, doing: str = "write") -> CadError:
    """An operating-system error as a message that says what to do."""
    advice = _DISK_ADVICE.get(error.errno or 0, error.strerror or str(error))
    return CadError(f"cannot {doing} {path}: {advice}")


def make_dirs(path: Path) -> Path:
    """Create a folder and its parents.  Raises :class:`CadError` where that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path, "create folder") from error
    return path


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


# Read once: reading the umask means setting it, which other threads would notice.
_UMASK = _read_umask()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it is renamed to ``path`` on success, else removed.

    Raises :class:`CadError` where the disk is full, read-only or not writable for this user.
    """
    make_dirs(path.parent)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        # mkstemp makes files private; these follow the user's umask like any other output.
        Path(name).chmod(0o666 & ~_UMASK)
    except OSError as error:
        raise disk_error(error, path) from error
    temporary = Path(name)
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it replaces ``path`` on success, else it is removed."""
    make_dirs(path.parent)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        temporary.chmod(0o777 & ~_UMASK)
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _fsync(file)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
        _fsync(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.  Raises :class:`CadError` if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CadError(f"{path} is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CadError(f"{path} is damaged (not JSON: {error})") from error
    except OSError as error:
        raise disk_error(error, path, "read") from error


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """Hexadecimal SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


_LOCK = ".lock"


@contextlib.contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[None]:
    """Lock ``folder`` for this process.  Raises :class:`BusyError` when another one holds it.

    The system drops an advisory ``flock`` when its process and the processes it forked have ended, so
    a killed run leaves no stale lock.
    """
    make_dirs(folder)
    path = folder / _LOCK
    try:
        # Unbuffered: on closing, a buffered file would repeat the write that a full disk refused.
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise disk_error(error, path) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().decode(errors="replace").strip() or "another process"
            raise BusyError(
                f"{what} is in use by {owner} ({folder}); wait for it or stop it first"
            ) from error
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        except OSError as error:
            raise disk_error(error, path) from error
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine holds ``folder`` (:func:`folder_lock`)."""
    try:
        with (folder / _LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed processes left in ``folder``; the caller holds its lock."""
    for leftover in folder.glob(".*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
