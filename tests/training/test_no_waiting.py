"""Nothing between two log lines asks a tensor for its value: on a GPU that would wait for it.

``tests/gpu`` has the same with CUDA's own watch; this one runs everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cad.envs.registry import env_config, task_family
from cad.evaluation.rollout import ActionSampler, Player
from cad.evaluation.stepping import DeviceStepping, Rollouts, start_stepping
from cad.models.registry import MODELS
from cad.schema import Config
from cad.training.engines import start_engine
from cad.training.learner import build_training

CPU = torch.device("cpu")
# A value on the host, or a shape that depends on values.
WAITING = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::equal",
}


class Watch(TorchDispatchMode):
    """Notes the operations that would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in WAITING:
            self.seen.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    with Watch() as watch:
        yield
    assert watch.seen == []


def test_the_watch_sees_what_waits():
    with pytest.raises(AssertionError, match="_local_scalar_dense"), no_waiting():
        float(torch.ones(()))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kind", MODELS)
def test_updates(kind, optimizer, tiny_config, toy_histories, tmp_path):
    config = tiny_config(kind, train={"optimizer": optimizer})
    training = build_training(config, toy_histories).training(tmp_path, run_id="run", device=CPU)
    engine = start_engine(training.settings, training.model, training.ranks, CPU)
    training.model.train()

    def update() -> None:
        batches = training.batches()
        training.add(engine.update(batches, training.objective, training.rate_factor), batches)

    update()  # makes what is made once
    with no_waiting():
        for _ in range(3):
            update()


@pytest.mark.parametrize("name", ["darkroom", "cued_darkroom", "random_mdp", "bandit"])
@pytest.mark.parametrize("kind", ["ad", "compressed_ad", "gru", "linear_attention"])
def test_steps_of_roll_outs(kind, name, loud_model):
    family = task_family(env_config({"name": name, "horizon": 20}))
    model = {"kind": kind, "n_embd": 16, "n_layer": 1}
    fields = MODELS[kind].config_class.model_fields
    model |= {key: value for key, value in {"n_transit": 8, "n_head": 2}.items() if key in fields}
    config = Config(env=family.config, source={"steps_per_stream": 200}, model=model)
    worlds = start_stepping(Rollouts(family, family.task_ids[:4], 2, 2, 0, CPU))
    assert isinstance(worlds, DeviceStepping)
    sampler = ActionSampler([(t, r) for t in range(4) for r in range(2)], 0, 1.0, False, 20, CPU)
    sampler.start_episodes(worlds.episode)
    with torch.inference_mode():
        player = Player(loud_model(config), family.spaces, sampler, 8)
        player.take_in(worlds.step(player.choose(worlds.observation)))
        with no_waiting():
            for _ in range(18):
                player.take_in(worlds.step(player.choose(worlds.observation)))
