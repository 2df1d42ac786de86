"""Returns on disk."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import h5py
import numpy as np
import pytest

from cad.errors import CadError
from cad.evaluation.results import load_results, save_results
from cad.evaluation.rollout import RolloutResult


@pytest.fixture
def result() -> RolloutResult:
    rng = np.random.default_rng(0)
    return RolloutResult(
        task_ids=(40, 3, 6560),
        returns=rng.integers(0, 18, (3, 4, 500)).astype(np.float32),
        compressions=np.full((3, 4), 7, dtype=np.int64),
        horizon=20,
        state_bytes=12_345,
        seconds=2.5,
        compression_steps=np.arange(24, dtype=np.int32).reshape(3, 4, 2),
        chosen=rng.random((3, 4, 2)) < 0.5,
    )


def test_round_trip(result, tmp_path):
    path = tmp_path / "new" / "returns.h5"
    save_results(path, result)
    loaded = load_results(path)
    for field in dataclasses.fields(result):
        expected, value = getattr(result, field.name), getattr(loaded, field.name)
        np.testing.assert_array_equal(value, expected)
        assert getattr(value, "dtype", None) == getattr(expected, "dtype", None)
    assert loaded.task_ids == (40, 3, 6560)
    assert loaded.steps_per_second == pytest.approx(3 * 4 * 500 * 20 / 2.5)
    assert [p.name for p in path.parent.iterdir()] == ["returns.h5"]


def test_results_without_moments_or_without_compressions(result, tmp_path):
    for compression_steps in (None, np.zeros((3, 4, 0), dtype=np.int32)):
        chosen = None if compression_steps is None else compression_steps.astype(bool)
        old = dataclasses.replace(result, compression_steps=compression_steps, chosen=chosen)
        save_results(tmp_path / "returns.h5", old)
        loaded = load_results(tmp_path / "returns.h5")
        np.testing.assert_array_equal(loaded.compression_steps, compression_steps)
        np.testing.assert_array_equal(loaded.chosen, chosen)


def test_plain_h5py_reads_it(result, tmp_path):
    save_results(tmp_path / "returns.h5", result)
    with h5py.File(tmp_path / "returns.h5", "r") as file:
        assert file["returns"].shape == (3, 4, 500)
        assert list(file["task_ids"]) == [40, 3, 6560]
        assert file.attrs["state_bytes"] == 12_345


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(share, result, tmp_path):
    path = tmp_path / "returns.h5"
    save_results(path, result)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CadError, match=r"returns\.h5 is damaged"):
        load_results(path)


def test_a_file_that_is_something_else_is_named(tmp_path):
    path = tmp_path / "returns.h5"
    path.write_text("not HDF5\n")
    with pytest.raises(CadError, match=r"returns\.h5 is damaged"):
        load_results(path)


@pytest.mark.parametrize("part", ["returns", "compressions", "task_ids", "state_bytes"])
def test_a_missing_part_is_named(part, result, tmp_path):
    path = tmp_path / "returns.h5"
    save_results(path, result)
    with h5py.File(path, "a") as file:
        del (file.attrs if part in file.attrs else file)[part]
    with pytest.raises(CadError, match=rf"returns\.h5 is damaged.*{part}"):
        load_results(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CadError, match=r"returns\.h5 is missing"):
        load_results(tmp_path / "returns.h5")


def test_a_newer_format_is_refused(result, tmp_path):
    path = tmp_path / "returns.h5"
    save_results(path, result)
    with h5py.File(path, "a") as file:
        file.attrs["format"] = 999
        del file["compressions"]  # whatever else is different there
    with pytest.raises(CadError, match="newer version"):
        load_results(path)


# In its own process: h5py aborts the process when the disk is full.
WRITE_WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
import numpy as np
from cad.errors import CadError
from cad.evaluation.results import RolloutResult, save_results
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
returns = np.random.default_rng(0).random((1, 8, 5000), dtype=np.float32)
try:
    counts = np.zeros((1, 8), dtype=np.int64)
    save_results(Path(sys.argv[1]), RolloutResult((1,), returns, counts, 20, 1, 1.0))
except CadError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_named(tmp_path):
    command = [sys.executable, "-c", WRITE_WITHOUT_ROOM, str(tmp_path / "returns.h5")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout
    assert "returns.h5" in done.stdout
    assert list(tmp_path.iterdir()) == []
