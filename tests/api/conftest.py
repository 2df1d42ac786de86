"""The example's experiment, run once from Python: what the interface and its doctests look at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import cad

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def ran(shared: Path, one_at_a_time: Callable[[str], AbstractContextManager[None]]) -> Path:
    """A folder with ``small.yaml``, its ``runs``, and its CompressedAD as ``model.safetensors``."""
    folder = shared / "api"
    with one_at_a_time("api"):
        if not (folder / "model.safetensors").exists():
            folder.mkdir(exist_ok=True)
            shutil.copy(ROOT / "examples/small.yaml", folder)
            results = cad.run(
                folder / "small.yaml", root=folder / "runs", workers=2, progress=False, report=False
            )
            shutil.copy(results.cells[1].training / "model.safetensors", folder)
    return folder


@pytest.fixture
def here(ran: Path) -> Iterator[Path]:
    """:func:`ran`, as the current folder."""
    before = Path.cwd()
    os.chdir(ran)
    yield ran
    os.chdir(before)
