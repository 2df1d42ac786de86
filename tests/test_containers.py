"""What the images are made of; that they build and run is checked where they are built (.ci/run)."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def lock():
    return runpy.run_path(str(REPOSITORY / "containers" / "lock.py"))["lock"]


def test_the_lock_file_is_that_of_the_constraints(lock):
    expected = lock((REPOSITORY / "constraints.txt").read_text())
    actual = (REPOSITORY / "containers" / "requirements.lock").read_text()
    assert actual == expected, "run: .venv/bin/python containers/lock.py"
    assert "torch==" in actual and "pytest==" not in actual


def test_a_package_without_a_version_is_refused(lock):
    constraints = (REPOSITORY / "constraints.txt").read_text()
    with pytest.raises(SystemExit, match=r"cloudpickle, which (submitit|gymnasium|stable.baselines3) needs"):
        lock("\n".join(line for line in constraints.splitlines() if "cloudpickle" not in line))


def test_both_images_take_in_what_the_other_does():
    """What the definitions copy, and what Docker's builder may see, are one list."""
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    docker = {line[1:] for line in ignored if line.startswith("!")}
    definition = (REPOSITORY / "Apptainer.def").read_text()
    files = definition.partition("%files\n")[2].partition("\n\n")[0]
    assert docker == {line.split()[0] for line in files.splitlines()}
    assert all((REPOSITORY / name).exists() for name in docker)
