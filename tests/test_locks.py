"""Locks where the file system has no flock: the folder that is the lock, and who is gone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cad import locks
from cad.doctor import _locks
from cad.errors import CadError

HOLD = """
import errno, fcntl, os, sys
from pathlib import Path
from cad import locks
def refused(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = refused
with locks.folder_lock(Path(sys.argv[1]), "the run"):
    print("ready", flush=True)
    sys.stdin.read()
"""


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No file system without flock can be mounted here; what happens above the call is real."""

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    yield process
    with contextlib.suppress(OSError):
        process.communicate("", timeout=30)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_flock_a_folder_is_the_lock(number, tmp_path, monkeypatch):
    refuse(monkeypatch, number)
    with locks.folder_lock(tmp_path, "the run"):
        assert locks.is_locked(tmp_path)
        says = rf"the run is in use by process {os.getpid()} on .*wait for it or stop it first"
        with pytest.raises(locks.BusyError, match=says), locks.folder_lock(tmp_path, "the run"):
            pytest.fail("the body ran")
    assert not locks.is_locked(tmp_path)
    with locks.folder_lock(tmp_path, "the run"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_it_also_keeps_out_those_who_have_flock(holder, tmp_path):
    says = f"process {holder.pid} on "
    with pytest.raises(locks.BusyError, match=says), locks.folder_lock(tmp_path, "the run"):
        pytest.fail("the body ran")
    holder.communicate("", timeout=30)
    with locks.folder_lock(tmp_path, "the run"):
        pass


def test_the_lock_of_a_killed_process_of_this_machine_is_free_at_once(holder, tmp_path, monkeypatch):
    refuse(monkeypatch, errno.ENOLCK)
    holder.kill()
    holder.wait(30)
    assert (tmp_path / ".lock.held").exists() and not locks.is_locked(tmp_path)
    with locks.folder_lock(tmp_path, "the run"):
        assert json.loads((tmp_path / ".lock.held/owner.json").read_text())["pid"] == os.getpid()


def test_another_machines_lock_is_free_when_it_was_not_touched_for_long(tmp_path, monkeypatch):
    refuse(monkeypatch, errno.ENOSYS)
    held = tmp_path / ".lock.held"
    held.mkdir()
    owner = {"pid": 7, "host": "node9", "machine": "another", "began": "1", "job": "4711"}
    (held / "owner.json").write_text(json.dumps(owner))
    says = "process 7 on node9, job 4711"
    with pytest.raises(locks.BusyError, match=says), locks.folder_lock(tmp_path, "the run"):
        pytest.fail("the body ran")
    long_ago = time.time() - 601
    os.utime(held / "owner.json", (long_ago, long_ago))
    with locks.folder_lock(tmp_path, "the run"):
        assert locks.is_locked(tmp_path)


def test_a_held_lock_is_touched(tmp_path, monkeypatch):
    refuse(monkeypatch, errno.ENOLCK)
    monkeypatch.setattr(locks, "_TOUCH_SECONDS", 0.01)
    with locks.folder_lock(tmp_path, "the run"):
        note = tmp_path / ".lock.held/owner.json"
        os.utime(note, (0, 0))
        deadline = time.time() + 20
        while note.stat().st_mtime == 0 and time.time() < deadline:
            time.sleep(0.01)
        assert note.stat().st_mtime > 0


def test_other_errors_name_the_folder_and_say_what_to_do(tmp_path, monkeypatch):
    refuse(monkeypatch, errno.EIO)
    says = rf"cannot lock {tmp_path}/\.lock: Input/output error \(errno 5\); nothing was changed"
    with pytest.raises(CadError, match=says), locks.folder_lock(tmp_path, "the run"):
        pytest.fail("the body ran")


def test_the_doctor_tries_a_lock(tmp_path, monkeypatch):
    assert (_locks(tmp_path / "not/yet").state, _locks(tmp_path).detail) == (
        "ok",
        f"flock works in {tmp_path}",
    )
    refuse(monkeypatch, errno.ENOLCK)
    assert (_locks(tmp_path).state, _locks(tmp_path).detail.split(";")[0]) == (
        "missing", f"no flock in {tmp_path}",
    )  # fmt: skip
    refuse(monkeypatch, errno.EIO)
    assert _locks(tmp_path).state == "broken"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flock", [True, False])
def test_one_that_waits_is_told_once_who_has_it(flock, holder, tmp_path, monkeypatch):
    if not flock:
        refuse(monkeypatch, errno.ENOLCK)
    told: list[str] = []

    def tell(owner: str) -> None:
        told.append(owner)
        holder.communicate("", timeout=30)

    with locks.folder_lock_in_turn(tmp_path, "the run", tell):
        assert locks.is_locked(tmp_path)
    assert [owner.partition(" on ")[0] for owner in told] == [f"process {holder.pid}"]
