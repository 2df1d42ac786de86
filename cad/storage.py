"""Files that are complete or absent: atomic writes, checksums.

Every write goes to a temporary name in the same folder, is flushed to the disk and then renamed.
So a killed process or a full disk never leaves half a file under the real name.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cad.errors import CadError, UsageError, printable

_DISK_WIDE = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "your disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another folder",
}
_DISK_ADVICE = {
    **_DISK_WIDE,
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another path",
    errno.EISDIR: "a folder of this name exists; remove it or choose another path",
}


_READ_ADVICE = {
    errno.EACCES: "ask its owner for the permission to read it",
    errno.EPERM: "ask its owner for the permission to read it",
    errno.ELOOP: "its links lead in a circle",
    errno.EISDIR: "give the path of a file",
    errno.EINVAL: "give the path of a file",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
}
_TRY_AGAIN = "run the same command again, and ask who runs the file system if it stays"


class UnreadableError(CadError):
    """The system did not let a file be read, which says nothing about its content."""


def disk_error(error: OSError, path: Path, doing: str = "write") -> CadError:
    """An operating-system error as a message that says what the system said and what to do.

    ``doing`` is "reach" where it is not known what was tried.
    """
    number = error.errno or 0
    said = error.strerror or str(error)
    if doing in ("read", "lock", "reach"):
        if isinstance(error, FileNotFoundError):
            return UnreadableError(f"{path} is missing")
        advice = _READ_ADVICE.get(number, f"nothing was changed; {_TRY_AGAIN}")
        if doing == "reach":
            advice = (_READ_ADVICE | _DISK_WIDE).get(number, _TRY_AGAIN)
        return UnreadableError(f"cannot {doing} {path}: {said} (errno {number}); {advice}")
    return CadError(f"cannot {doing} {path}: {_DISK_ADVICE.get(number, said)}")


def user_path(text: str) -> Path:
    """A path as a user writes it: ``~`` and ``~NAME`` are homes; ``$VARIABLES`` are not replaced.

    Raises :class:`UsageError` for a home that there is not.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{printable(text)}: no home is known for {text.partition('/')[0]!r}") from error


def given_path(argument: str, value: object) -> Path:
    """A path that a script gives as text or as a path; :class:`UsageError` names the argument for others."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or "\0" in text:
        raise UsageError(
            f"{argument}={printable(repr(value), 80)}: give a path, as text or as a pathlib.Path"
        )
    return Path(text)


def require_dirs_can_be_made(path: Path) -> None:
    """Raise :class:`CadError` where :func:`make_dirs` would fail, without making anything: for dry runs."""
    there = path.absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise disk_error(NotADirectoryError(errno.ENOTDIR, ""), path, "create folder")
    if there == path.absolute():
        return
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        raise disk_error(OSError(errno.EROFS, ""), path, "create folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise disk_error(PermissionError(errno.EACCES, ""), path, "create folder")


VARIABLES_ADVICE = "$VARIABLES are not replaced in a config; write the path out"


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
    """Yield a temporary folder beside ``path``; it replaces ``path`` on success, else it is removed.

    A folder that was there is kept until the new one is in its place: where a process was killed between
    the two, the next one here puts it back first.
    """
    make_dirs(path.parent)
    try:
        _put_back(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        temporary.chmod(0o777 & ~_UMASK)
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _fsync(file)
        _exchange(temporary, path)
        _fsync(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


_BEFORE = ".before"  # ends the name of what a folder replaces, while it does
_RANDOM = 8  # characters between the name and that, as tempfile draws them


def _exchange(temporary: Path, path: Path) -> None:
    """Put a folder in the place of another one, and remove that."""
    before = temporary.with_suffix(_BEFORE)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    while True:
        with contextlib.suppress(FileNotFoundError):
            path.rename(before)
        try:
            temporary.rename(path)
            break
        except OSError as error:
            # Another process has put its own there since.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with contextlib.suppress(OSError):
                    before.rename(path)
                raise
            shutil.rmtree(before, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)


def _put_back(path: Path) -> None:
    """Give a folder its place again that a killed process had moved away."""
    for before in sorted(path.parent.glob(f".{glob.escape(path.name)}.{'?' * _RANDOM}{_BEFORE}")):
        if path.exists():
            shutil.rmtree(before, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                before.rename(path)


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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CadError(f"{path} is damaged (not JSON: {error})") from error
    except OSError as error:
        raise disk_error(error, path, "read") from error


def open_file(path: Path) -> io.FileIO:
    """Open a file for reading.  A pipe, which would be waited for, or a device is an :class:`OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return io.FileIO(descriptor)
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """Hexadecimal SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed processes left in ``folder``; the caller holds its lock."""
    for leftover in folder.glob(".*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
