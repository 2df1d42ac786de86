"""What only a GPU shows: the same batches, losses and returns as on a CPU.

One script does the measurements: benchmarks/gpu.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.evaluation.rollout import roll_out
from cad.histories.made_up import made_up_histories
from cad.interrupt import StopFlag
from cad.models.registry import MODELS
from cad.training.learner import build_model, build_training
from cad.training.loop import train
from cad.training.metrics import read_metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch finds no GPU: run it on a machine that has one"
    ),
]
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


def losses(config, folder, device):
    learner = build_training(
        config, made_up_histories(task_family(config.env), config.source.steps_per_stream)
    )
    learner.trained.to(device)
    folder.mkdir()
    train(learner.training(folder, run_id="run", device=device), StopFlag())
    return [record["loss"] for record in read_metrics(folder / "metrics.jsonl") if "loss" in record]


def test_batches_are_the_same(tiny_config):
    config = tiny_config()
    arrays = made_up_histories(task_family(config.env), config.source.steps_per_stream)
    sampler = build_training(config, arrays).sampler
    for update in range(3):
        ours, theirs = sampler.batch(update, device=GPU), sampler.batch(update)
        assert ours.actions.device.type == "cuda"
        for a, b in (
            (ours.actions, theirs.actions),
            *zip(vars(ours.steps).values(), vars(theirs.steps).values(), strict=True),
        ):
            assert torch.equal(a.cpu(), b)


@pytest.mark.parametrize("kind", MODELS)
def test_losses_are_those_of_a_cpu(tiny_config, tmp_path, kind):
    config = tiny_config(
        kind, model={"dropout": 0.0}, train={"n_updates": 30, "log_every": 10, "loggers": []}
    )
    ours, theirs = losses(config, tmp_path / "gpu", GPU), losses(config, tmp_path / "cpu", CPU)
    assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("kind", MODELS)
def test_returns_are_those_of_a_cpu(tiny_config, kind):
    config = tiny_config(kind)
    returns = []
    for device in (GPU, CPU):
        torch.manual_seed(0)
        model = build_model(config).to(device).eval()
        tasks = split_tasks(config.env).heldout
        result = roll_out(model, task_family(config.env), tasks, n_rollouts=4, n_episodes=5, seed=0)
        returns.append(result.returns)
    # A draw that falls between two roundings may go the other way.
    assert (returns[0] == returns[1]).mean() > 0.95
    assert np.isfinite(returns[0]).all()
