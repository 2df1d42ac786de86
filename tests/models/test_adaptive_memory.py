"""Roll-outs that compress before their window is full: batched and cached, and one at a time from scratch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cad.config import EvaluationConfig
from cad.envs.registry import task_family
from cad.evaluation.rollout import roll_out
from cad.histories.batch import Steps
from cad.models.compressed_ad.moments import Surprises
from cad.models.compressed_ad.network import CompressedAD
from cad.models.registry import memory_of, new_memory

N_ACTIONS = 5
FIELDS = ("observation", "previous_action", "previous_reward", "first")

ENDS = EvaluationConfig(compress_at="episode_end")
SURPRISE = EvaluationConfig(compress_at="surprise")
CASES: list[tuple[EvaluationConfig, dict[str, Any]]] = [
    (ENDS, {}),
    (ENDS, {"n_latent": 1, "min_compress_length": 1, "max_compress_length": 3}),
    (SURPRISE, {}),
    (SURPRISE, {"n_latent": 1, "n_layer": 1, "min_compress_length": 1}),
    (SURPRISE, {"min_compress_length": 3, "max_compress_length": 6}),
    (SURPRISE, {"n_latent": 5, "kept_steps": 3}),
    (SURPRISE, {"latent_update": "gated"}),
    (SURPRISE, {"n_latent": 7, "latent_groups": [4, 2, 1], "max_compression_depth": 4}),
    (EvaluationConfig(compress_at="surprise", surprise_threshold=0), {"norm": "post"}),
]


class OneUncached:
    """One roll-out, as the documentation tells it: no cache, no batch, every step from scratch."""

    def __init__(self, model: CompressedAD, settings: EvaluationConfig) -> None:
        self.model, self.settings = model, settings
        self.latents = model.initial_latents(1)
        self.window: list[Steps] = []
        self.surprises: list[float] = []
        self.moments: list[tuple[int, bool]] = []
        self.seen = 0

    def asks(self, step: Steps) -> bool:
        if self.settings.compress_at == "episode_end":
            return bool(step.first[0, 0])
        action = int(step.previous_action[0, 0])
        p = 1.0 if action == N_ACTIONS else float(self.logits.double().softmax(-1)[0, action])
        self.surprises.append(-np.log(p))
        limit = np.mean(self.surprises) + self.settings.surprise_threshold * np.std(self.surprises)
        return self.surprises[-1] > limit + 1e-3

    def observe(self, step: Steps) -> Tensor:
        shortest, longest = self.model.config.compress_lengths
        asked = bool(self.window) and self.asks(step) and len(self.window) >= shortest
        if asked or len(self.window) == longest:
            self.latents = self.model.encoder(self.latents, self.embedded())
            self.window, self.surprises = [], []
            self.moments.append((self.seen, asked))
        self.window.append(step)
        self.seen += 1
        self.logits = self.model.decoder(self.embedded(), self.latents)[:, -1]
        return self.logits

    def embedded(self) -> Tensor:
        whole = (torch.cat([getattr(step, f) for step in self.window], dim=1) for f in FIELDS)
        return self.model.embed(Steps(*whole))


class Uncached:
    """A batch of them, for roll_out."""

    state_bytes = 0

    def __init__(self, model: CompressedAD, batch: int, settings: EvaluationConfig) -> None:
        self.rows = [OneUncached(model, settings) for _ in range(batch)]

    def observe(self, step: Steps) -> Tensor:
        each = (Steps(*(getattr(step, f)[i : i + 1] for f in FIELDS)) for i in range(len(self.rows)))
        return torch.cat([row.observe(one) for row, one in zip(self.rows, each, strict=True)])

    @property
    def compressions(self) -> np.ndarray:
        return np.array([len(row.moments) for row in self.rows])

    @property
    def chosen(self) -> np.ndarray:
        return np.array([sum(asked for _, asked in row.moments) for row in self.rows])


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].compress_at}-{case[1]}")
def case(request, tiny_config, loud_model) -> tuple[CompressedAD, EvaluationConfig]:
    settings, model = request.param
    return loud_model(tiny_config(model=model)), settings


def random_steps(batch: int, n: int) -> list[Steps]:
    rng = torch.Generator().manual_seed(1)

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (batch, 1, *shape), generator=rng)

    return [Steps(draw(5, 2), draw(N_ACTIONS + 1), draw(2), draw(6) // 5) for _ in range(n)]


def logits_of(memory: Any, steps: list[Steps]) -> Tensor:
    with torch.inference_mode():
        return torch.stack([memory.observe(step) for step in steps])


def test_batched_and_cached_equals_one_at_a_time_without_cache(case):
    model, settings = case
    steps = random_steps(6, 80)
    cached, uncached = memory_of(settings)(model, 6), Uncached(model, 6, settings)
    at_first = cached.state_bytes
    expected = logits_of(uncached, steps)
    assert expected.std(dim=0).mean() > 0.1  # not all alike, or the comparison would show nothing
    torch.testing.assert_close(logits_of(cached, steps), expected, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(cached.compressions, uncached.compressions)
    np.testing.assert_array_equal(cached.chosen, uncached.chosen)
    moments = [tuple(row.moments) for row in uncached.rows]
    assert len(set(moments)) > 3  # they do compress at different steps
    assert {asked for row in moments for _, asked in row} == {False, True}
    shortest, longest = model.config.compress_lengths
    lengths = np.concatenate([np.diff([0, *(step for step, _ in row)]) for row in moments])
    assert shortest <= lengths.min() < lengths.max() <= longest
    assert cached.state_bytes == at_first == memory_of(settings)(model, 1).state_bytes


def test_sampled_returns_and_moments_do_not_depend_on_cache_or_batch(case, tiny_config):
    model, settings = case
    family = task_family(tiny_config().env)
    how: dict[str, Any] = {"n_rollouts": 3, "n_episodes": 8, "seed": 5, "temperature": 1.5}
    cached = roll_out(model, family, [0, 7, 12], memory=memory_of(settings), **how)
    uncached = roll_out(
        model, family, [0, 7, 12], memory=lambda model, batch: Uncached(model, batch, settings), **how
    )
    assert cached.chosen.any() and len(np.unique(cached.returns)) > 1
    for name in ("actions", "returns", "compressions", "compression_steps", "chosen"):
        np.testing.assert_array_equal(getattr(cached, name), getattr(uncached, name))
    alone = roll_out(model, family, [7], memory=memory_of(settings), **how)
    np.testing.assert_array_equal(alone.actions, cached.actions[1:2])
    actual = cached.compression_steps[1:2]
    np.testing.assert_array_equal(alone.compression_steps, actual[..., : alone.compression_steps.shape[2]])
    if settings.compress_at == "episode_end":  # of 5 steps
        assert (cached.compression_steps[cached.chosen] % 5 == 0).all()


def test_latents_are_replaced_in_the_middle_of_windows_of_any_length(case):
    model, settings = case
    steps = random_steps(6, 57)
    left, replaced = (memory_of(settings)(model, 6) for _ in range(2))
    for memory in (left, replaced):
        logits_of(memory, steps[:27])
    own = replaced.compressed.clone()
    with torch.inference_mode():
        replaced.compressed = own.flip(0)
        replaced.compressed = own
    torch.testing.assert_close(logits_of(replaced, steps[27:]), logits_of(left, steps[27:]))
    np.testing.assert_array_equal(replaced.compressions, left.compressions)
    with torch.inference_mode():
        replaced.compressed = left.compressed.flip(0)
    assert (logits_of(replaced, steps[:1]) - logits_of(left, steps[:1])).abs().max() > 0.01


def test_where_all_windows_are_full_at_once_it_is_the_memory_in_lock_step(tiny_config, loud_model):
    """Nothing but a full window ends one: no episode ends, and no action is more likely than another."""
    model, level = (loud_model(tiny_config(model={"min_compress_length": 1})) for _ in range(2))
    with torch.no_grad():
        level.decoder.head.weight.zero_()
        level.decoder.head.bias.zero_()
    steps = [
        Steps(s.observation, s.previous_action.clamp(max=4), s.previous_reward, torch.zeros_like(s.first))
        for s in random_steps(3, 60)
    ]
    for settings, each in ((ENDS, model), (SURPRISE, level)):
        adaptive, lock_step = memory_of(settings)(each, 3), new_memory(each, 3)
        assert torch.equal(logits_of(adaptive, steps), logits_of(lock_step, steps))
        assert adaptive.compressions.tolist() == 3 * [lock_step.compressions]
        assert not adaptive.chosen.any()
        # A surprise takes the latest logits and three numbers more.
        extra = 4 * N_ACTIONS + 3 * 8 if settings is SURPRISE else 0
        assert adaptive.state_bytes == lock_step.state_bytes + extra
    assert type(memory_of(EvaluationConfig())(model, 3)) is type(lock_step)


def test_a_surprise_is_an_action_far_less_likely_than_the_others_of_its_window():
    moments = Surprises(1, 2, threshold=1.0, device=torch.device("cpu"))

    def asks(probability: float) -> bool:
        moments.take_in(torch.tensor([[probability, 1 - probability]]).log())
        one = torch.zeros((1, 1), dtype=torch.int64)
        return bool(moments.ask(Steps(torch.zeros((1, 1, 2)), one, one, one)))

    assert [asks(p) for p in (0.9, 0.9, 0.9, 0.95, 0.2)] == [False, False, False, False, True]
    # Surprises of 0.11 four times, 0.05 and 1.61, and 1.61 again: 1.61 < 0.53 + 1 * 0.70 no more often.
    assert asks(0.2) and not asks(0.3) and not asks(0.9)
    moments.forget(torch.tensor([0]))
    assert not asks(0.2) and not asks(0.1)  # alone, or one of two, nothing is far from the mean
