"""``train.compile``: the compiled model learns what the plain one does."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from cad.interrupt import StopFlag
from cad.training.learner import build_training
from cad.training.metrics import read_metrics

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
)


def test_compiled_training_has_the_same_losses(tiny_config, toy_histories, tmp_path):
    # One action always: the loss leaves chance level, where the watchdog waits, at once.
    arrays = dataclasses.replace(toy_histories, actions=np.zeros_like(toy_histories.actions))
    losses, norms = [], []
    for compiled in (False, True):
        settings = {"n_updates": 3, "log_every": 1, "checkpoint_every": 3, "watchdog_share": 1}
        # The smallest model: compiling takes most of this test.
        config = tiny_config("ad", model={"n_layer": 1}, train={**settings, "compile": compiled})
        folder = tmp_path / str(compiled)
        learner = build_training(config, arrays)
        learner.fit(folder, run_id="run", device=torch.device("cpu"), stop=StopFlag())
        lines = read_metrics(folder / "metrics.jsonl")[1:]
        losses.append([line["loss"] for line in lines])
        norms.append([line["gradient_norm"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
