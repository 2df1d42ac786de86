"""What a model has compressed is replaced, and only that."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cad.envs.registry import task_family
from cad.evaluation.knock_out import knock_out
from cad.evaluation.rollout import roll_out
from cad.experiments.run.trained_model import evaluate
from cad.histories.batch import Steps
from cad.interrupt import StopFlag
from cad.models.registry import new_memory

LATENTS = {"on_compress": "latents", "n_latent": 3, "max_compression_depth": 1, "encoder_n_layer": 1}
KINDS = {
    "compressed_ad": {},
    "region_ad": LATENTS,
    "gru": {"n_unroll": 20},
    "linear_attention": {"n_unroll": 20},
}


def memory_of(tiny_config, loud_model, kind, steps=30):
    """A memory of two roll-outs after some steps, and what makes it see further ones."""
    config = tiny_config(kind, model=KINDS[kind])
    memory = new_memory(loud_model(config), 2)
    rng = torch.Generator().manual_seed(1)

    def see(n, alike=False):
        logits = []
        for _ in range(n):
            rows = 1 if alike else 2
            drawn = [torch.randint(high, (rows, 1), generator=rng) for high in (5, 5, 5, 2, 2)]
            row, column, action, reward, first = (part.expand(2, 1) for part in drawn)
            step = Steps(torch.stack([row, column], dim=-1), action, reward, first)
            logits.append(memory.observe(step))
        return torch.stack(logits)

    with torch.inference_mode():
        see(steps)
    return memory, see


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_memory_that_is_put_back_goes_on_as_if_nothing_had_been(kind, tiny_config, loud_model):
    _, see = memory_of(tiny_config, loud_model, kind)
    other, see_other = memory_of(tiny_config, loud_model, kind)
    own = other.compressed.clone()
    other.compressed = own.flip(0)
    other.compressed = own
    torch.testing.assert_close(see_other(20), see(20), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gru", "linear_attention"])
@torch.inference_mode()
def test_with_another_state_a_recurrent_net_is_the_other_roll_out(kind, tiny_config, loud_model):
    _, see = memory_of(tiny_config, loud_model, kind)
    other, see_other = memory_of(tiny_config, loud_model, kind)
    other.compressed = other.compressed.flip(0)
    torch.testing.assert_close(see_other(10, alike=True), see(10, alike=True).flip(1))


@pytest.mark.parametrize("kind", ["compressed_ad", "region_ad"])
@torch.inference_mode()
def test_other_latents_change_what_follows(kind, tiny_config, loud_model):
    memory, see = memory_of(tiny_config, loud_model, kind)
    other, see_other = memory_of(tiny_config, loud_model, kind)
    assert not torch.equal(memory.compressed[0], memory.compressed[1])
    other.compressed = other.compressed.flip(0)
    assert (see_other(1) - see(1)).abs().max() > 0.01


@pytest.mark.parametrize("how", ["other", "noise"])
def test_an_evaluation_is_the_intact_one_until_the_episode(how, tiny_config, loud_model):
    intact = tiny_config(evaluation={"n_episodes": 12, "n_rollouts": 4})
    model = loud_model(intact)
    config = intact.with_overrides({"evaluation.knock_out": how, "evaluation.knock_out_episode": 7}, "test")
    before, after = (evaluate(model, each, StopFlag()).actions for each in (intact, config))
    horizon = intact.env.steps_per_episode
    np.testing.assert_array_equal(before[:, :, : 6 * horizon], after[:, :, : 6 * horizon])
    assert (before[:, :, 6 * horizon :] != after[:, :, 6 * horizon :]).any()
    again = evaluate(model, config, StopFlag()).actions
    np.testing.assert_array_equal(again, after)


@pytest.mark.parametrize(
    ("kind", "least"), [("compressed_ad", 3), ("gru", 2), ("linear_attention", 2), ("region_ad", 2)]
)
def test_an_episode_before_anything_is_compressed_is_refused(kind, least, tiny_config):
    """Episodes have 5 steps, and a window 8: the third begins after ten."""
    settings = {"n_episodes": 12, "knock_out": "other", "knock_out_episode": least}
    tiny_config(kind, model=KINDS[kind], evaluation=settings)
    if least > 2:
        with pytest.raises(
            ValueError, match=f"begins after 5 steps at most.*with step 9; set it to at least {least}"
        ):
            tiny_config(kind, evaluation={**settings, "knock_out_episode": least - 1})


@pytest.mark.parametrize("horizon", [4, 5, 8, 9, 20])
def test_from_the_first_episode_that_is_allowed_latents_are_changed(horizon, tiny_config, loud_model):
    least = 8 // horizon + 2
    how = {"n_episodes": least, "n_rollouts": 2, "knock_out": "other", "knock_out_episode": least}
    config = tiny_config(env={"horizon": horizon}, source={"steps_per_stream": 10 * horizon}, evaluation=how)
    assert config.spec.steps_uncompressed(config.model) == 8
    changes = []
    replace = knock_out(config.evaluation, 2)

    def watch(episode, begins, memory):
        before = memory.compressed.clone()
        replace(episode, begins, memory)
        changes.append(float((memory.compressed - before).abs().max()))

    roll_out(
        loud_model(config), task_family(config.env), [0, 5], n_rollouts=2, n_episodes=least, seed=0,
        before_episodes=watch,
    )  # fmt: skip
    assert changes[-1] > 1e-3 and not any(changes[:-1])


class Numbers:
    def __init__(self, compressed):
        self.compressed = compressed


def everywhere(n, episode):
    return np.full(n, episode), np.ones(n, dtype=bool)


def test_the_other_roll_out_is_of_another_task(tiny_config):
    settings = tiny_config(evaluation={"knock_out": "other", "knock_out_episode": 3}).evaluation
    replace = knock_out(settings, n_rollouts=2)
    memory = Numbers(torch.arange(6.0)[:, None])
    replace(*everywhere(6, 1), memory)
    assert memory.compressed[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    # Where episodes end at different times: two have begun that episode now, one before.
    replace(np.array([2, 2, 2, 1, 1, 3]), np.array([1, 0, 1, 1, 1, 1], dtype=bool), memory)
    assert memory.compressed[:, 0].tolist() == [4, 1, 0, 3, 4, 5]
    memory.compressed = torch.arange(6.0)[:, None]
    replace(*everywhere(6, 2), memory)
    assert memory.compressed[:, 0].tolist() == [4, 5, 0, 1, 2, 3]  # (tasks, roll-outs) next to each other


def test_noise_has_the_mean_and_the_spread_of_what_it_replaces(tiny_config):
    settings = tiny_config(evaluation={"knock_out": "noise", "knock_out_episode": 3}).evaluation
    before = torch.randn(4000, 2) * torch.tensor([1.0, 5.0]) + torch.tensor([3.0, -2.0])
    memory = Numbers(before)
    knock_out(settings, n_rollouts=1)(*everywhere(4000, 2), memory)
    torch.testing.assert_close(memory.compressed.mean(0), torch.tensor([3.0, -2.0]), atol=0.4, rtol=0)
    torch.testing.assert_close(memory.compressed.std(0), torch.tensor([1.0, 5.0]), atol=0.4, rtol=0)
    assert (memory.compressed != before).all()
