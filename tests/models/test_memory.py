"""Cached roll-outs against straightforward ones that keep every step and compute everything anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cad.envs.registry import task_family
from cad.evaluation.rollout import roll_out
from cad.histories.batch import Steps
from cad.models.ad.network import AD
from cad.models.blocks.recurrent.network import RecurrentModel
from cad.models.compressed_ad.network import CompressedAD
from cad.models.network import SequenceModel
from cad.models.registry import new_memory

N_ACTIONS = 5

WINDOW = 8
FIELDS = ("observation", "previous_action", "previous_reward", "first")


class Uncached:
    """The documented policy of each model, recomputed from scratch at every step."""

    state_bytes = 0
    chosen = 0

    def __init__(self, model: SequenceModel, _batch: int) -> None:
        self.model = model
        self.history: list[Steps] = []
        self.dropped = 0
        self.compressions = 0

    def _embed(self, start: int, end: int) -> Tensor:
        part = self.history[start:end]
        return self.model.embed(Steps(*(torch.cat([getattr(s, f) for s in part], dim=1) for f in FIELDS)))

    def observe(self, step: Steps) -> Tensor:
        self.history.append(step)
        now = len(self.history)
        if isinstance(self.model, AD):
            if now - self.dropped > WINDOW:
                self.dropped += self.model.config.steps_dropped
            whole, sinks = self._embed(0, now), self.model.config.n_sink
            window = torch.cat([whole[:, :sinks], whole[:, sinks + self.dropped :]], dim=1)
            return self.model.decoder(window)[:, -1]
        if isinstance(self.model, RecurrentModel):
            states = self.model.decoder.new_states(step.first.shape[0])
            return self.model.decoder(self._embed(0, now), states)[0][:, -1]
        self.compressions = (now - 1) // WINDOW
        latents = self.model.initial_latents(step.first.shape[0])
        for k in range(self.compressions):
            latents = self.model.encoder(latents, self._embed(k * WINDOW, (k + 1) * WINDOW))
        return self.model.decoder(self._embed(self.compressions * WINDOW, now), latents)[:, -1]


def random_steps(batch: int, n: int) -> list[Steps]:
    rng = torch.Generator().manual_seed(1)

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (batch, 1, *shape), generator=rng)

    return [Steps(draw(5, 2), draw(N_ACTIONS + 1), draw(2), draw(2)) for _ in range(n)]


def logits_of(memory: Any, steps: list[Steps]) -> Tensor:
    with torch.inference_mode():
        return torch.stack([memory.observe(step) for step in steps])


CASES = [
    *(("ad", {"drop_block": drop}) for drop in (1, 2, 3, 5, WINDOW)),
    *(("ad", {"drop_block": drop, "n_sink": k}) for drop, k in ((1, 1), (3, 5))),
    *(("compressed_ad", {"n_latent": n}) for n in (1, 3, 10)),
    ("compressed_ad", {"encoder_n_layer": 1, "n_layer": 1}),
    ("compressed_ad", {"latent_update": "gated"}),
    ("gru", {"n_hidden": 11}),
    ("gru", {"norm": "post"}),
    ("linear_attention", {"head_width": 5}),
    ("linear_attention", {"norm": "post"}),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def model(request, tiny_config, loud_model) -> SequenceModel:
    kind, settings = request.param
    return loud_model(tiny_config(kind, model=settings))


def test_cached_logits_are_the_uncached_ones(model):
    steps = random_steps(3, 6 * WINDOW + 3)
    cached, uncached = new_memory(model, 3), Uncached(model, 3)
    expected = logits_of(uncached, steps)
    assert expected.std(dim=0).mean() > 0.1  # not all alike, or the comparison would show nothing
    # Training's chunks and the roll-out's steps multiply in another order, over the whole history.
    tolerance = 1e-4 if isinstance(model, RecurrentModel) else 1e-5
    torch.testing.assert_close(logits_of(cached, steps), expected, rtol=0, atol=tolerance)
    assert cached.compressions == uncached.compressions
    assert cached.compressions == (6 if isinstance(model, CompressedAD) else 0)


def test_only_ad_forgets_and_not_its_sinks(model):
    steps = random_steps(1, 4 * WINDOW)
    other = [random_steps(1, len(steps) + 1)[-1], *steps[1:]]
    assert not torch.equal(steps[0].observation, other[0].observation)
    a, b = (logits_of(new_memory(model, 1), s)[-1] for s in (steps, other))
    assert torch.equal(a, b) == (isinstance(model, AD) and not model.config.n_sink)


def test_drop_block_1_is_the_exact_sliding_window(tiny_config, loud_model):
    model = loud_model(tiny_config("ad", model={"drop_block": 1}))
    steps = random_steps(2, 3 * WINDOW)
    cached = logits_of(new_memory(model, 2), steps)
    for t in (0, 6, 7, 8, 9, 15, 23):
        recent = steps[max(0, t + 1 - WINDOW) : t + 1]
        window = Steps(*(torch.cat([getattr(s, f) for s in recent], dim=1) for f in FIELDS))
        with torch.no_grad():
            expected = model.decoder(model.embed(window))[:, -1]
        torch.testing.assert_close(cached[t], expected, rtol=0, atol=1e-5)


def test_training_and_roll_out_give_the_same_logits(tiny_config, loud_model, random_batch):
    # Segments as long as the window: the unrolled forward pass is the roll-out.
    model = loud_model(tiny_config())
    batch = random_batch(2, 3 * WINDOW, WINDOW)
    steps = [Steps(*(getattr(batch.steps, f)[:, t : t + 1] for f in FIELDS)) for t in range(3 * WINDOW)]
    with torch.no_grad():
        trained = model(batch)[0].flatten(1, 2)
    rolled = logits_of(new_memory(model, 2), steps).transpose(0, 1)
    torch.testing.assert_close(rolled, trained, rtol=0, atol=1e-5)


def test_memory_does_not_grow(model):
    memory = new_memory(model, 2)
    at_first = memory.state_bytes
    logits_of(memory, random_steps(2, 5 * WINDOW))
    assert memory.state_bytes == at_first
    logits_of(memory, random_steps(2, 12 * WINDOW))
    assert memory.state_bytes == at_first
    assert new_memory(model, 7).state_bytes == at_first  # of one roll-out, whatever the batch


def test_state_bytes_count_every_buffer(tiny_config, loud_model):
    width = 4 * 16  # bytes of one vector in fp32
    ad = new_memory(loud_model(tiny_config("ad")), 2)
    assert ad.state_bytes == width * (2 * 2 * WINDOW + WINDOW)
    compressed = new_memory(loud_model(tiny_config()), 2)
    assert compressed.state_bytes == width * (2 * 2 * (WINDOW + 3) + WINDOW + 3)


def test_state_bytes_of_5_and_50_episodes_are_equal(tiny_config, loud_model):
    for kind in ("ad", "compressed_ad"):
        config = tiny_config(kind)
        model, family = loud_model(config), task_family(config.env)
        results = [roll_out(model, family, [3], n_rollouts=1, n_episodes=n, seed=0) for n in (5, 50)]
        assert results[0].state_bytes == results[1].state_bytes > 0
        assert results[1].returns.shape == (1, 1, 50)


@pytest.mark.parametrize("demonstrated", [0, 3])
def test_sampled_returns_do_not_depend_on_the_cache(model, tiny_config, demonstrated):
    family = task_family(tiny_config().env)
    settings: dict[str, Any] = {"n_rollouts": 3, "n_episodes": 6, "seed": 5, "temperature": 1.5}
    settings["demonstrated"] = demonstrated
    cached = roll_out(model, family, [0, 7, 12], **settings)
    uncached = roll_out(model, family, [0, 7, 12], memory=Uncached, **settings)
    assert len(np.unique(cached.returns)) > 2
    np.testing.assert_array_equal(cached.returns, uncached.returns)
    np.testing.assert_array_equal(cached.compressions, uncached.compressions)
