"""`--ranks`: one training in several processes from the command line, stopped, resumed, exported."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors

from cad.evaluation.results import load_results

pytestmark = pytest.mark.timeout(1500)

# Environment and source are those of the small experiment, whose histories are there already.
CELL = """
env: {size: 5, horizon: 10, n_tasks: 12, n_heldout: 3, n_validation: 2}
source: {n_streams: 10, steps_per_stream: 300, n_steps: 20, batch_size: 100, n_epochs: 5,
         learning_rate: 0.006}
model: {n_embd: 16, n_layer: 1, n_head: 2, encoder_n_layer: 1, n_transit: 20, n_latent: 2, dropout: 0.1,
        max_compression_depth: 2}
train: {n_updates: 80, batch_size: 8, num_warmup_steps: 5, log_every: 5, checkpoint_every: 50,
        validate_every: 50, validation_episodes: 4, validation_rollouts: 2, max_episode_gap: 3,
        watchdog_share: 1.0, optimizer: adamw, learning_rate: 0.01, engine: deepspeed, zero_stage: 2}
evaluation: {n_episodes: 6, n_rollouts: 2}
"""


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    file = tmp_path / "cell.yaml"
    file.write_text(CELL)
    return file


def stage(root: Path, kind: str) -> Path:
    (actual,) = (root / "stages").glob(f"{kind}-*")
    return actual


def steps_in(root: Path) -> int:
    files = list((root / "stages").glob("train-*/progress.json"))
    return json.loads(files[0].read_text())["done"] if files else 0


def test_two_ranks_are_stopped_resumed_and_exported(cad, cell, collected, tmp_path):
    stopped, whole = collected, tmp_path / "whole"
    words = ["train", str(cell), "--ranks", "2", "--device", "cpu", "--root", str(stopped)]
    process = subprocess.Popen(
        [sys.executable, "-m", "cad.cli", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 600
    while steps_in(stopped) < 10:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    (checkpoint,) = [p for p in (stage(stopped, "train") / "checkpoints").iterdir() if int(p.name) % 50]
    assert not (stage(stopped, "train") / "DONE").exists()
    assert not list(stage(stopped, "train").glob(".ranks-*"))

    done = cad(*words)
    assert done.returncode == 0, done.stderr
    assert f"resuming at update {int(checkpoint.name)}" in done.stderr
    shutil.copytree(stage(stopped, "histories"), whole / "stages" / stage(stopped, "histories").name)
    words[-1] = str(whole)
    assert cad(*words).returncode == 0
    models = [(stage(root, "train") / "model.safetensors").read_bytes() for root in (stopped, whole)]
    assert models[0] == models[1]
    facts = json.loads((stage(whole, "train") / "DONE").read_text())
    assert (facts["engine"], facts["ranks"]) == ("deepspeed", 2)

    # On a laptop, where the engines are not installed
    exported = tmp_path / "out" / "model.safetensors"
    done = cad("export", stage(whole, "train").name, "--root", whole, "--out", exported)
    assert done.returncode == 0, done.stderr
    with safetensors.safe_open(exported, framework="np") as file:
        provenance = json.loads(file.metadata()["provenance"])
    assert (provenance["step"], provenance["engine"], provenance["ranks"]) == (80, "deepspeed", 2)
    for name in ("deepspeed", "accelerate"):
        (tmp_path / "absent" / name).mkdir(parents=True)
        (tmp_path / "absent" / name / "__init__.py").write_text("raise ModuleNotFoundError(name=__name__)")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from cad.cli import main; main()"
    words = ["evaluate", "--model", exported, "--device", "cpu", "--out", tmp_path / "returns.h5", "--trace"]
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "absent", *words],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "return / optimum: " in done.stdout
    assert cad("evaluate", cell, "--device", "cpu", "--root", whole).returncode == 0
    staged = load_results(stage(whole, "evaluate") / "returns.h5")
    assert np.array_equal(load_results(tmp_path / "returns.h5").returns, staged.returns)
    assert done.stdout.count("compress") >= staged.compressions.max() > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ranks", "3"], "train.batch_size=8 cannot be divided evenly: 3 ranks"),
        (
            ["--ranks", "2", "train.engine=plain", "train.zero_stage=null"],
            "train.engine=plain is one process",
        ),
    ],
)
def test_ranks_that_do_not_fit_are_refused_before_anything_runs(words, message, cad, cell, tmp_path):
    done = cad("train", cell, *words, "--root", tmp_path / "runs")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_only_trainings_are_exported(cad, tmp_path):
    for name, message in (("evaluate-1", "is not a training"), ("train-1", "holds no sound checkpoint")):
        done = cad("export", name, "--root", tmp_path, "--out", tmp_path / "x.safetensors")
        assert done.returncode in (1, 2)
        assert message in done.stderr
