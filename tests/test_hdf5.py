"""HDF5 files that cannot be read are not damaged ones."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest

from cad import hdf5
from cad.checksums import DamagedFileError, trust
from cad.errors import CadError
from cad.hdf5 import open_hdf5, unreadable
from cad.storage import UnreadableError

HOLD = """
import sys, h5py
with h5py.File(sys.argv[1], "r+") as file:
    print("ready", flush=True)
    sys.stdin.read()
"""
READ = """
import sys
from pathlib import Path
from cad.hdf5 import open_hdf5
print(open_hdf5(Path(sys.argv[1]), "").attrs["a"])
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as new:
        new.attrs["a"] = 7
    return path


@pytest.fixture
def writer(file: Path) -> Iterator[int]:
    """The number of a process that has the file open for writing."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process.pid
    process.communicate("", timeout=30)


def test_a_file_that_crashes_hdf5_is_damaged_and_this_process_lives(file, monkeypatch):
    """Which bytes crash HDF5 depends on its version, so a real crash of another cause stands for it."""
    monkeypatch.setattr(hdf5, "_read_all", lambda _: ctypes.string_at(0))
    with pytest.raises(
        DamagedFileError, match=r"a\.h5 is damaged \(HDF5 crashes when it reads it: SIGSEGV\); mend"
    ):
        open_hdf5(file, "mend it")
    trust(file)  # as after a comparison with its checksum: nothing is tried
    assert open_hdf5(file, "").attrs["a"] == 7


def test_a_file_that_is_open_for_writing_is_named_with_its_writer_and_what_helps(file, writer):
    with pytest.raises(CadError, match=rf"cannot read {file}: process {writer} \(") as caught:
        open_hdf5(file, "")
    assert not isinstance(caught.value, DamagedFileError)
    name, _, value = str(caught.value).rpartition("set ")[2].partition("=")
    assert name == "HDF5_USE_FILE_LOCKING"
    done = subprocess.run(
        [sys.executable, "-c", READ, str(file)], capture_output=True, text=True, check=False,
        env={**os.environ, name: value}, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.stdout == "7\n", done.stderr


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOLCK])
def test_the_systems_words_are_passed_on(number, file, monkeypatch):
    """Such errors cannot be had from a real disk here."""

    def refuse(*_args, **_settings):
        raise OSError(number, f"[Errno {number}] Unable to synchronously open file")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(CadError, match=rf"cannot read {file}: .*\(errno {number}\); ") as caught:
        open_hdf5(file, "")
    assert not isinstance(caught.value, DamagedFileError)


@pytest.mark.parametrize("error", [KeyError, RuntimeError, OSError])
def test_the_systems_words_are_found_in_the_text_of_any_error(error, file):
    """As seen where a read failed in the middle of a file: only the text has the number then."""
    text = (
        "Unable to synchronously open object (file read failed: time = Sat Nov 28 21:38:13 2026\n, "
        "filename = 'a.h5', file descriptor = 3, errno = NUMBER, error message = 'x', offset = 0)"
    )
    said = unreadable(error(text.replace("NUMBER", "116")), file, "do this")
    assert isinstance(said, UnreadableError)
    assert str(said).startswith(f"cannot read {file}: Stale file handle (errno 116); nothing was changed;")
    # What damaged bytes made HDF5 ask for is no fault of the disk.
    damaged = unreadable(error(text.replace("NUMBER", "22")), file, "do this")
    assert isinstance(damaged, DamagedFileError) and "do this" in str(damaged)


def test_a_mistake_of_the_program_is_no_damage(file, monkeypatch):
    for wrong in (3, None):
        with pytest.raises(TypeError):
            open_hdf5(wrong, "mend it")

    def mistaken(_):
        raise AttributeError("no such name")

    monkeypatch.setattr(hdf5, "is_trusted", mistaken)
    with pytest.raises(AttributeError, match="no such name"):
        open_hdf5(file, "mend it")


def test_what_cannot_be_opened_is_told_as_such(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(UnreadableError, match="it is a pipe or a device, not a file"):
        open_hdf5(tmp_path / "pipe.h5", "mend it")


def test_what_was_read_and_is_not_hdf5_is_damaged(file):
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DamagedFileError, match=r"a\.h5 is damaged \(truncated, or not HDF5: .*\); do this"):
        open_hdf5(file, "do this")
    with pytest.raises(CadError, match=r"none\.h5 is missing"):
        open_hdf5(file.with_name("none.h5"), "")
