"""A small but complete experiment: real PPO, real training, real evaluation."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import yaml
from forked import run_cli

from cad.evaluation.results import load_results
from cad.storage import write_text

SMALL = """
name: small
base:
  env: {size: 5, horizon: 10, n_tasks: 12, n_heldout: 3, n_validation: 2}
  source: {n_streams: 10, steps_per_stream: 300, n_steps: 20, batch_size: 100, n_epochs: 5,
           learning_rate: 0.006}
  model: {n_embd: 16, n_layer: 1, n_head: 2, encoder_n_layer: 1, n_transit: 20, n_latent: 2}
  train: {n_updates: 120, batch_size: 8, num_warmup_steps: 5, log_every: 5, checkpoint_every: 10,
          validate_every: 60, validation_episodes: 4, validation_rollouts: 2, max_episode_gap: 3,
          watchdog_share: 1.0}
  evaluation: {n_episodes: 6, n_rollouts: 2}
arms:
  - name: AD
    set: {model.kind: ad, train.learning_rate: 0.01}
  - name: CompressedAD
    set: {model.kind: compressed_ad, train.learning_rate: 0.01}
    grid: {model.max_compression_depth: [0, 2]}
"""

Cad = Callable[..., "subprocess.CompletedProcess[str]"]
Lock = Callable[[str], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def cad() -> Cad:
    """Run the command line in a process of its own."""

    def call(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return run_cli([str(word) for word in words], cwd)

    return call


@pytest.fixture(scope="session")
def small(shared: Path) -> Path:
    """The experiment file."""
    path = shared / "small.yaml"
    write_text(path, SMALL)
    return path


@pytest.fixture(scope="session")
def finished(cad: Cad, small: Path, shared: Path, one_at_a_time: Lock) -> Path:
    """The root folder of a run of the small experiment that nobody disturbed: to look at only."""
    root = shared / "runs"
    with one_at_a_time("small"):
        # The worker that comes second finds it done.
        if not (root / "small/report/report.json").exists():
            done = cad("run", small, "--root", root)
            assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture(scope="session")
def one(small: Path, shared: Path) -> Path:
    """The last cell of the small experiment alone: what is stopped and started again needs no more."""
    settings = yaml.safe_load(small.read_text(encoding="utf-8"))
    settings["arms"] = settings["arms"][1:]
    settings["arms"][0]["grid"] = {"model.max_compression_depth": [2]}
    path = shared / "one.yaml"
    write_text(path, yaml.safe_dump(settings | {"name": "one"}))
    return path


def _same_results(root: Path, finished: Path) -> None:
    evaluations = list((root / "stages").glob("evaluate-*"))
    assert evaluations
    for folder in evaluations:
        other = finished / "stages" / folder.name
        ours, theirs = (load_results(path / "returns.h5") for path in (folder, other))
        assert np.array_equal(ours.returns, theirs.returns)
        assert np.array_equal(ours.compressions, theirs.compressions)
    for folder in (root / "stages").glob("train-*"):
        model = "model.safetensors"
        assert (folder / model).read_bytes() == (finished / "stages" / folder.name / model).read_bytes()


@pytest.fixture(scope="session")
def same_results() -> Callable[[Path, Path], None]:
    """``same_results(root, finished)``: models and returns under ``root`` are those of an undisturbed run."""
    return _same_results


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished run that a test may change."""
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def with_histories(finished: Path) -> Callable[[Path], Path]:
    """``with_histories(root)``: a folder of runs with the small experiment's histories alone."""

    def copy_to(root: Path) -> Path:
        for histories in (finished / "stages").glob("histories-*"):
            shutil.copytree(histories, root / "stages" / histories.name)
        return root

    return copy_to


@pytest.fixture
def collected(with_histories: Callable[[Path], Path], tmp_path: Path) -> Path:
    """Such a folder for one test."""
    return with_histories(tmp_path / "collected")
