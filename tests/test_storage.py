"""Files are complete or absent: full and read-only disks, kills, locks, permissions."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cad import locks, storage
from cad.errors import CadError


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting a tmpfs needs root: {getattr(error, 'stderr', None) or error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB and few files."""
    yield from mounted(tmp_path / "small", "size=64k")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with ``old.json`` (``1``) that takes no writes; root obeys this, unlike permissions."""
    for folder in mounted(tmp_path / "fixed", "size=64k"):
        (folder / "old.json").write_text("1")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def child(code: str, *args: object) -> subprocess.Popen[str]:
    """A Python process that prints a line when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


# --- writing


def test_text_and_json_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    storage.write_json(path, {"b": [1, 2.5, None], "a": "é"})
    assert storage.read_json(path) == {"b": [1, 2.5, None], "a": "é"}
    assert path.read_text().index('"a"') < path.read_text().index('"b"')
    storage.write_text(path, "x\n")
    assert path.read_text() == "x\n" and names(path.parent) == ["a.json"]


def test_nan_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    storage.write_json(path, 1)
    with pytest.raises(ValueError):
        storage.write_json(path, float("nan"))
    assert storage.read_json(path) == 1 and names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(error), storage.atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["a"]


def test_an_exception_leaves_no_new_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), storage.atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == []


HALF = """
import sys, time
from pathlib import Path
from cad import locks, storage
with storage.{how}(Path(sys.argv[1])) as temporary:
    {write}
    print("ready", flush=True)
    time.sleep(600)
"""


def test_sigkill_in_a_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    process = child(HALF.format(how="atomic_path", write="temporary.write_text('half')"), path)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    assert path.read_text() == "old"
    storage.write_text(path, "new")  # what the killed process left does no harm
    assert path.read_text() == "new"


def test_sigkill_in_a_folder_write_leaves_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "d"
    process = child(HALF.format(how="atomic_dir", write="(temporary / 'f').write_text('half')"), path)
    process.kill()
    process.wait(30)
    assert not path.exists()
    with storage.atomic_dir(path) as temporary:
        (temporary / "g").write_text("whole")
    assert names(path) == ["g"]


def test_folders_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "d"
    for name in ("one", "two"):
        with storage.atomic_dir(path) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / name).write_text(name)
    assert names(path / "sub") == ["two"]
    with pytest.raises(RuntimeError), storage.atomic_dir(path) as temporary:
        (temporary / "three").write_text("half")
        raise RuntimeError
    assert names(path / "sub") == ["two"] and names(tmp_path) == ["d"]


STOPPED = """
import os, signal, sys
from pathlib import Path
from cad import storage
rename, calls = Path.rename, []
def renamed(self, target):
    calls.append(target)
    if len(calls) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = renamed
with storage.atomic_dir(Path(sys.argv[1])) as temporary:
    (temporary / "new").write_text("new")
"""


@pytest.mark.parametrize("at", [1, 2])
def test_sigkill_while_a_folder_is_replaced_loses_nothing(tmp_path: Path, at: int) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").write_text("old")
    done = subprocess.run([sys.executable, "-c", STOPPED.format(at=at), str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(RuntimeError), storage.atomic_dir(path):
        raise RuntimeError
    assert names(path) == ["old"]  # back in its place
    with storage.atomic_dir(path) as temporary:
        (temporary / "newer").write_text("newer")
    assert names(path) == ["newer"]
    assert not list(tmp_path.glob(".*.before"))


@pytest.mark.parametrize("there", [False, True])
def test_another_folders_only_copy_is_left_alone(tmp_path: Path, there: bool) -> None:
    """``v0.2.1``, whose replacement was killed, is none of ``v0.2``'s."""
    other = tmp_path / "v0.2.1"
    other.mkdir()
    (other / "old").write_text("old")
    subprocess.run([sys.executable, "-c", STOPPED.format(at=2), str(other)], check=False)
    if there:
        (tmp_path / "v0.2").mkdir()
    with storage.atomic_dir(tmp_path / "v0.2") as temporary:
        (temporary / "new").write_text("new")
    assert names(tmp_path / "v0.2") == ["new"] and not other.exists()
    with pytest.raises(RuntimeError), storage.atomic_dir(other):
        raise RuntimeError
    assert names(other) == ["old"]


def test_what_is_no_folder_is_not_replaced_by_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("file", "link"):
        with (
            pytest.raises(CadError, match=f"cannot write {tmp_path / name}"),
            storage.atomic_dir(tmp_path / name),
        ):
            pass
    assert (tmp_path / "file").read_text() == "mine" and (tmp_path / "link").is_symlink()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("mask", "file_mode", "dir_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_modes_follow_the_umask(tmp_path: Path, mask: int, file_mode: int, dir_mode: int) -> None:
    program = (
        f"import os; os.umask({mask})\n"
        "import sys, pathlib; from cad import storage; here = pathlib.Path(sys.argv[1])\n"
        "storage.write_text(here / 'a', 'x')\n"
        "with storage.atomic_dir(here / 'd'): pass\n"
        f"assert os.umask({mask}) == {mask}  # reading it did not change it\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == file_mode
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == dir_mode


# --- disks that take no more


def test_a_full_disk_says_so_and_keeps_the_old_file(small_disk: Path) -> None:
    path = small_disk / "a"
    storage.write_text(path, "old")
    with pytest.raises(CadError, match=re.escape(f"cannot write {path}: the disk is full; free some space")):
        storage.write_text(path, "x" * 100_000)
    assert path.read_text() == "old" and names(small_disk) == ["a"]
    storage.write_text(path, "new")
    assert path.read_text() == "new"


def test_a_full_disk_while_writing_a_folder(small_disk: Path) -> None:
    path = small_disk / "d"
    with pytest.raises(CadError, match="the disk is full"), storage.atomic_dir(path) as temporary:
        (temporary / "f").write_bytes(b"x" * 100_000)
    assert names(small_disk) == []


def test_a_lock_on_a_full_disk(small_disk: Path) -> None:
    (small_disk / "run").mkdir()
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "fill").write_bytes(b"x" * 100_000)
    with (
        pytest.raises(CadError, match="the disk is full"),
        locks.folder_lock(small_disk / "run", "the run"),
    ):
        pass


def test_a_read_only_disk(read_only_disk: Path) -> None:
    says = "the file system is read-only; choose another folder"
    for path in (read_only_disk / "old.json", read_only_disk / "new", read_only_disk / "sub" / "new"):
        with pytest.raises(CadError, match=says):
            storage.write_json(path, 2)
    with pytest.raises(CadError, match=says), storage.atomic_dir(read_only_disk / "d"):
        pytest.fail("the body ran")
    with pytest.raises(CadError, match=says), locks.folder_lock(read_only_disk, "the run"):
        pytest.fail("the body ran")
    assert storage.read_json(read_only_disk / "old.json") == 1 and names(read_only_disk) == ["old.json"]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(CadError, match=re.escape(str(tmp_path / "a"))):
        storage.write_text(tmp_path / "a" / "b", "y")
    with pytest.raises(CadError, match=re.escape(str(tmp_path / "a"))):
        storage.make_dirs(tmp_path / "a")
    (tmp_path / "d").mkdir()
    with pytest.raises(CadError, match="a folder of this name exists"):
        storage.write_text(tmp_path / "d", "y")
    assert names(tmp_path) == ["a", "d"]


# --- reading


def test_missing_and_damaged_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(CadError, match=re.escape(f"{path} is missing")):
        storage.read_json(path)
    for content in (b'{"a": 1', b"", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(CadError, match=re.escape(f"{path} is damaged")):
            storage.read_json(path)
    with pytest.raises(CadError, match=re.escape(str(tmp_path))):
        storage.read_json(tmp_path)


def test_checksums(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert storage.sha256_file(tmp_path / "a") == known
    assert storage.sha256_json({"a": 1, "b": [2]}) == storage.sha256_json(json.loads('{"b": [2], "a": 1}'))
    assert storage.sha256_json({"a": 1}) != storage.sha256_json({"a": 1.5})


# --- locks

HOLD = """
import sys
from pathlib import Path
from cad import locks, storage
with locks.folder_lock(Path(sys.argv[1]), "the run"):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    process = child(HOLD, tmp_path)
    try:
        says = f"the run is in use by process {process.pid} on .*wait for it"
        with pytest.raises(CadError, match=says), locks.folder_lock(tmp_path, "the run"):
            pytest.fail("the body ran")
    finally:
        process.communicate("", timeout=30)
    assert process.returncode == 0
    with locks.folder_lock(tmp_path, "the run"):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    process = child(HOLD, tmp_path)
    process.kill()
    process.wait(30)
    with locks.folder_lock(tmp_path, "the run"):
        owner = (tmp_path / ".lock").read_text()
    assert owner.startswith(f"process {os.getpid()} on ") and str(process.pid) not in owner


def test_a_lock_is_free_after_an_exception_and_taken_inside(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locks.folder_lock(tmp_path, "the run"):
        with pytest.raises(CadError, match="in use"), locks.folder_lock(tmp_path, "the run"):
            pytest.fail("the body ran")
        raise RuntimeError
    with locks.folder_lock(tmp_path, "the run"):
        pass


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(OSError, match="it is a pipe or a device, not a file"):
            storage.sha256_file(path)
    with pytest.raises(IsADirectoryError):
        storage.sha256_file(tmp_path)


def test_whether_folders_could_be_made_is_known_without_making_any(tmp_path, read_only_disk):
    for impossible in (read_only_disk / "new" / "deep", read_only_disk / "old.json" / "new"):
        with pytest.raises(CadError) as said:
            storage.require_dirs_can_be_made(impossible)
        with pytest.raises(CadError) as failed:
            storage.make_dirs(impossible)
        assert str(said.value) == str(failed.value)
    for possible in (tmp_path, tmp_path / "new" / "deep", read_only_disk):
        storage.require_dirs_can_be_made(possible)
    assert names(tmp_path) == ["fixed"]
