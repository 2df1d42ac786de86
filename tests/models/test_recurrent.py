"""GRU and linear attention: the recurrence itself, what training sees of it, and how it begins."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cad.histories.sampler import WindowSampler
from cad.models.linear_attention.config import CHUNK
from cad.models.linear_attention.delta_rule import delta_rule
from cad.models.spec import HistoryShape
from cad.schema import Config
from cad.training.learner import build_model

KINDS = ("gru", "linear_attention")


def made_up(T: int, dtype: torch.dtype, decay: float = 0.1) -> tuple[Tensor, ...]:
    """Arguments of :func:`delta_rule` with B = 2 and three heads of width 4."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)

    q, k = (torch.nn.functional.normalize(normal(2, 3, T, 4), dim=-1) for _ in range(2))
    log_decay, strength = -decay * normal(2, 3, T).abs(), normal(2, 3, T).sigmoid()
    return q, k, normal(2, 3, T, 4), log_decay, strength, normal(2, 3, 4, 4)


def step_by_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, strength: Tensor, state: Tensor):
    """The recurrence as equation 10 of arXiv:2412.06464 has it: S (a (1 - b k k^T)) + b v k^T."""
    outputs, S = [], state.mT  # (values, keys)
    for t in range(k.shape[2]):
        a, b = log_decay[:, :, t, None, None].exp(), strength[:, :, t, None, None]
        key, value = k[:, :, t, :, None], v[:, :, t, :, None]
        S = S @ (a * (torch.eye(4, dtype=S.dtype) - b * key @ key.mT)) + b * value @ key.mT
        outputs.append((S @ q[:, :, t, :, None])[..., 0])
    return torch.stack(outputs, dim=2), S.mT


@pytest.mark.parametrize("T", [1, 5, CHUNK, 2 * CHUNK + 7])
def test_chunks_are_the_recurrence(T):
    arguments = made_up(T, torch.float64)
    for ours, right in zip(delta_rule(*arguments), step_by_step(*arguments), strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 1e-3, 5.0])
def test_long_histories_stay_exact_in_float32(decay):
    """Without decay, and with one that float32 cannot hold over a chunk: exp(-5 x 32)."""
    *steps, state = made_up(3000, torch.float32, decay)
    steps[4] = torch.full_like(steps[4], 0.999)
    ours, _ = delta_rule(*steps, state)
    right, _ = step_by_step(*(x.double() for x in steps), state.double())
    assert ours.isfinite().all() and right.abs().max() > 1
    torch.testing.assert_close(ours.double(), right, rtol=0, atol=1e-4)


def test_gradients_of_chunks_are_those_of_the_recurrence():
    arguments = [x.requires_grad_() for x in made_up(CHUNK + 3, torch.float64)]
    ours, right = (
        torch.autograd.grad(rule(*arguments)[0].square().sum(), arguments)
        for rule in (delta_rule, step_by_step)
    )
    for a, b in zip(ours, right, strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_what_is_stored_under_a_key_is_replaced():
    key = torch.eye(4)[None, None, :1]  # (1, 1, 1, 4)
    one, two = torch.tensor([1.0, 2, 3, 4]), torch.tensor([9.0, 8, 7, 6])
    state, kept, full = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    for value in (one, two):
        read, state = delta_rule(key, key, value.expand(1, 1, 1, 4), kept, full, state)
        assert read.flatten().tolist() == value.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_sees_a_later_one_and_all_see_the_first(kind, tiny_config, random_batch):
    torch.manual_seed(0)
    model, batch = build_model(tiny_config(kind)).eval(), random_batch(2, 40)
    changed = {f: getattr(batch.steps, f).clone() for f in ("observation", "previous_action")}
    with torch.no_grad():
        right = model(batch)
        for t in (0, 25):
            steps = {name: values.clone() for name, values in changed.items()}
            for values in steps.values():
                values[:, t] = (values[:, t] + 1) % 5
            other = dataclasses.replace(batch, steps=dataclasses.replace(batch.steps, **steps))
            moved = (model(other) - right).abs().amax(dim=(0, 1, 3))
            assert (moved[:t] < 1e-6).all()
            assert (moved[t:] > 1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
def test_windows_begin_with_an_episode_and_without_a_past(kind, tiny_config, toy_histories):
    config = tiny_config(kind, model={"n_unroll": 23})
    _, _, steps = toy_histories.actions.shape
    windows = config.spec.windows(config.model, config.train, HistoryShape(steps, toy_histories.horizon))
    batch = WindowSampler(toy_histories, windows, seed=0, batch_size=16).batch(0)
    assert batch.actions.shape == (16, 23) == (16, config.spec.training_window(config.model))
    assert batch.steps.first[:, 0].all()
    assert (batch.steps.previous_action[:, 0] == toy_histories.n_actions).all()
    assert not batch.steps.previous_reward[:, 0].any()


def test_a_fresh_linear_attention_forgets_half_over_16_to_1024_steps(tiny_config):
    model = build_model(tiny_config("linear_attention", model={"n_embd": 48, "n_head": 4}))
    rates = model.decoder.blocks[0].recurrent.rate.exp() * math.log(2)  # of a gate of zero
    np.testing.assert_allclose((math.log(2) / rates).tolist(), [16, 64, 256, 1024], rtol=1e-4)


def test_fresh_gru_units_forget_over_2_steps_to_a_whole_window(tiny_config):
    model = build_model(tiny_config("gru", model={"n_unroll": 60, "n_hidden": 400}))
    kept = model.decoder.blocks[0].recurrent.units.bias_hh_l0.chunk(3)[1].sigmoid()
    steps = 1 / (1 - kept)  # a unit's time constant
    assert 2 <= steps.min() < 5 and 55 < steps.max() <= 60


@pytest.mark.parametrize("kind", KINDS)
def test_an_arm_of_another_base_is_unrolled_as_far_as_the_default_compressed_ad(kind):
    """Neither a window nor heads are inherited."""
    base = Config().with_overrides({"model.n_transit": 40, "model.n_embd": 48, "model.n_head": 3}, "test")
    assert base.spec.training_window(base.model) == 160
    model = base.with_overrides({"model.kind": kind}, "test").model
    assert (model.n_unroll, model.n_embd, hasattr(model, "n_transit")) == (160, 48, False)
