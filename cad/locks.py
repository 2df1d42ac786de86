"""Locks of folders: one process works in a folder at a time, also on network file systems.

Where the file system has ``flock``, the system drops a lock when its process and the processes it forked
have ended.  Where it has none, a folder is the lock: to make one is atomic everywhere.  It says who made
it and is touched while it is held, so that what a killed process left is noticed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cad.errors import CadError
from cad.storage import disk_error, make_dirs

_LOCK = ".lock"
_HELD = ".lock.held"  # the folder that is the lock where there is no flock
_OWNER = "owner.json"
_TAKEOVER = ".lock.takeover"
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_TOUCH_SECONDS, _STALE_SECONDS, _POLL_SECONDS = 20.0, 600.0, 0.5


class BusyError(CadError):
    """Another process, the ``owner``, holds the lock of a folder."""

    def __init__(self, folder: Path, what: str, owner: str) -> None:
        super().__init__(f"{what} is in use by {owner} ({folder}); wait for it or stop it first")
        self.owner = owner


@contextlib.contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[None]:
    """Lock ``folder`` for this process; ``what`` is its name in messages.

    Raises :class:`BusyError` when another process holds it, and :class:`CadError` where the system
    refuses.
    """
    make_dirs(folder)
    path = folder / _LOCK
    try:
        # Unbuffered: on closing, a buffered file would repeat the write that a full disk refused.
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise disk_error(error, path) from error
    with file, contextlib.ExitStack() as held:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().decode(errors="replace").strip() or "another process"
            raise BusyError(folder, what, owner) from error
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise disk_error(error, path, "lock") from error
            held.enter_context(_held_folder(folder, what))
        else:
            # Another machine may have mounted the same file system without flock.
            if _is_held(folder):
                raise BusyError(folder, what, _owner(folder))
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        except OSError as error:
            raise disk_error(error, path) from error
        yield


@contextlib.contextmanager
def folder_lock_in_turn(folder: Path, what: str, tell: Callable[[str], None]) -> Iterator[None]:
    """:func:`folder_lock`, after the process that holds it now; ``tell`` hears once who that is."""
    told = False
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(folder_lock(folder, what))
                break
            except BusyError as error:
                if not told:
                    tell(error.owner)
                told = True
                time.sleep(_POLL_SECONDS)
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine holds ``folder`` (:func:`folder_lock`)."""
    try:
        with (folder / _LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return _is_held(folder)


def has_flock(folder: Path) -> bool:
    """Whether the file system of ``folder`` has ``flock``; :class:`CadError` where it cannot be tried."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return False
        raise disk_error(error, folder, "lock a file in") from error
    return True


# A folder as a lock --------------------------------------------------------------------------


@contextlib.contextmanager
def _held_folder(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder that is the lock; one whose owner is gone is taken over."""
    place = folder / _HELD
    while not _make(place):
        if not _is_stale(folder):
            raise BusyError(folder, what, _owner(folder))
        _take_away(folder)
    note = place / _OWNER
    owner = {
        "pid": os.getpid(), "host": socket.gethostname(), "machine": _machine(), "began": _began(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
    }  # fmt: skip
    released = threading.Event()
    try:
        try:
            note.write_text(json.dumps(owner), encoding="utf-8")
        except OSError as error:
            raise disk_error(error, note) from error
        threading.Thread(target=_keep_touching, args=(note, released), daemon=True).start()
        yield
    finally:
        released.set()
        shutil.rmtree(place, ignore_errors=True)


def _keep_touching(note: Path, released: threading.Event) -> None:
    while not released.wait(_TOUCH_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(note)


def _make(place: Path) -> bool:
    """Make a folder; False where it is there already."""
    try:
        place.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise disk_error(error, place, "lock") from error
    return True


def _take_away(folder: Path) -> None:
    """Remove a stale lock; a second folder sees to it that only one process does, and looks again first."""
    takeover = folder / _TAKEOVER
    if not _make(takeover):
        if _age(folder, takeover) > _STALE_SECONDS:  # left by a process that was killed right here
            with contextlib.suppress(OSError):
                takeover.rmdir()
        return
    try:
        if _is_stale(folder):
            away = folder / f".{_HELD}.{uuid.uuid4().hex}.tmp"
            (folder / _HELD).rename(away)
            shutil.rmtree(away, ignore_errors=True)
    except FileNotFoundError:
        pass  # released in this moment
    except OSError as error:
        raise disk_error(error, folder / _HELD, "lock") from error
    finally:
        with contextlib.suppress(OSError):
            takeover.rmdir()


def _is_held(folder: Path) -> bool:
    return (folder / _HELD).exists() and not _is_stale(folder)


def _is_stale(folder: Path) -> bool:
    """Whether the owner of the lock is gone: its process, or its touch for ten minutes."""
    note = folder / _HELD / _OWNER
    owner = _read_owner(folder)
    if owner.get("machine") == _machine():
        return _began(int(owner.get("pid", 0))) != owner.get("began")
    return _age(folder, note if note.exists() else note.parent) > _STALE_SECONDS


def _age(folder: Path, path: Path) -> float:
    """Seconds since ``path`` was touched, by the clock of its file system; 0 where that is unknown."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".tmp") as now:
            os.utime(now.name)
            return Path(now.name).stat().st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0


def _owner(folder: Path) -> str:
    owner = _read_owner(folder)
    if not owner:
        return "another process"
    job = f", job {owner['job']}" if owner.get("job") else ""
    return f"process {owner.get('pid')} on {owner.get('host')}{job}"


def _read_owner(folder: Path) -> dict[str, Any]:
    try:
        owner = json.loads((folder / _HELD / _OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _machine() -> str:
    """Names what process numbers belong to: two containers may share a host's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"unknown {uuid.uuid4().hex}"  # equals no other: only its age tells


def _began(process: int) -> str | None:
    """When a process began, in the system's ticks; None when it is gone."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if stat[0] == "Z" else stat[19]
