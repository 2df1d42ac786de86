"""Batched, cached RegionAD roll-outs against one at a time that computes everything anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cad.envs.registry import task_family
from cad.evaluation.rollout import roll_out
from cad.histories.batch import Steps
from cad.models.region_ad.network import END, START, TRANSITION, RegionAD
from cad.models.registry import new_memory

N_ACTIONS = 5

FIELDS = ("observation", "previous_action", "previous_reward", "first")


class OneUncached:
    """One roll-out, as the documentation tells it: no cache, no batch, every step from scratch."""

    def __init__(self, model: RegionAD) -> None:
        self.model = model
        self.latents = model.initial_latents(1)
        self.regions: list[list[Tensor]] = [[]]  # embedded steps (n_embd,); the last one is open
        self.close = False
        self.compressions = self.chosen = 0
        self.compression_steps: list[tuple[int, bool]] = []
        self.seen = 0

    def observe(self, step: Steps) -> Tensor:
        config = self.model.config
        if self.close:
            self.compressions += 1
            self.chosen += self.asked
            self.compression_steps.append((self.seen, self.asked))
            if len(self.regions) == config.n_regions:
                oldest = self.regions.pop(0)
                if config.on_compress == "latents":
                    self.latents = self.model.encoder(self.latents, torch.stack(oldest)[None])
            self.regions.append([])
        self.regions[-1].append(self.model.embed(step)[0, 0])
        self.seen += 1
        elements, types, places = [], [], []
        nothing = torch.zeros(config.n_embd)
        for slot, region in enumerate(self.regions):
            kinds = [START, *[TRANSITION] * len(region), *([END] if slot < len(self.regions) - 1 else [])]
            elements += [nothing, *region] + [nothing] * (len(kinds) - 1 - len(region))
            types += kinds
            places += range(slot * config.region_room, slot * config.region_room + len(kinds))
        out = self.model.decoder(
            torch.stack(elements)[None], torch.tensor(types)[None], torch.tensor(places)[None], self.latents
        )[:, -1]
        next_type = self.model.decoder.type_head(out)[0]
        self.asked = bool(next_type[END] > next_type[TRANSITION])
        self.close = self.asked or len(self.regions[-1]) == config.region_room - 2
        return self.model.decoder.head(out)


class Uncached:
    """A batch of them, for roll_out."""

    state_bytes = 0

    def __init__(self, model: RegionAD, batch: int) -> None:
        self.rows = [OneUncached(model) for _ in range(batch)]

    def observe(self, step: Steps) -> Tensor:
        return torch.cat(
            [
                row.observe(Steps(*(getattr(step, f)[i : i + 1] for f in FIELDS)))
                for i, row in enumerate(self.rows)
            ]
        )

    @property
    def compressions(self) -> np.ndarray:
        return np.array([row.compressions for row in self.rows])

    @property
    def chosen(self) -> np.ndarray:
        return np.array([row.chosen for row in self.rows])


CASES: list[dict[str, Any]] = [
    {},
    {"n_layer": 1},
    {"n_regions": 3, "n_transit": 33},
    {"n_regions": 4, "n_transit": 41},
    {"on_compress": "latents"},
    {"on_compress": "latents", "n_latent": 1, "encoder_n_layer": 1},
    {"on_compress": "latents", "n_regions": 3, "n_transit": 33},
]


@pytest.fixture(params=CASES, ids=str)
def model(request, tiny_config, loud_model) -> RegionAD:
    model = loud_model(tiny_config("region_ad", model=request.param))
    with torch.no_grad():
        # Regions of many lengths: what is seen decides, not the bias; one step in five or so ends one.
        head = model.decoder.type_head
        head.weight *= 4
        head.bias.zero_()
        memory = new_memory(model, 6)
        margins = []
        hook = head.register_forward_hook(
            lambda _m, _i, out: margins.append(out[:, END] - out[:, TRANSITION])
        )
        logits_of(memory, random_steps(6, 30))
        hook.remove()
        head.bias[END] = -torch.cat(margins).quantile(0.8)
    return model


def random_steps(batch: int, n: int) -> list[Steps]:
    rng = torch.Generator().manual_seed(1)

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (batch, 1, *shape), generator=rng)

    return [Steps(draw(5, 2), draw(N_ACTIONS + 1), draw(2), draw(2)) for _ in range(n)]


def logits_of(memory: Any, steps: list[Steps]) -> Tensor:
    with torch.inference_mode():
        return torch.stack([memory.observe(step) for step in steps])


def test_batched_and_cached_equals_one_at_a_time_without_cache(model):
    steps = random_steps(6, 80)
    cached, uncached = new_memory(model, 6), Uncached(model, 6)
    expected = logits_of(uncached, steps)
    assert expected.std(dim=0).mean() > 0.1  # not all alike, or the comparison would show nothing
    torch.testing.assert_close(logits_of(cached, steps), expected, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(cached.compressions, uncached.compressions)
    np.testing.assert_array_equal(cached.chosen, uncached.chosen)
    compression_steps = [tuple(row.compression_steps) for row in uncached.rows]
    assert len(set(compression_steps)) > 3  # they do compress at different steps
    assert min(map(len, compression_steps)) > 4


def test_regions_are_closed_when_the_model_says_so_and_when_their_room_is_full(tiny_config, loud_model):
    model = loud_model(tiny_config("region_ad"))
    memory = new_memory(model, 6)
    logits_of(memory, random_steps(6, 80))
    assert memory.chosen.sum() > 6
    with torch.no_grad():
        model.decoder.type_head.bias[END] = -1e4
    memory = new_memory(model, 2)
    logits_of(memory, random_steps(2, 31))
    # A region has room for 12 - 2 steps.
    assert memory.compressions.tolist() == [3, 3]
    assert memory.chosen.tolist() == [0, 0]


@pytest.mark.parametrize("on_compress", ["drop", "latents"])
def test_training_and_roll_out_give_the_same_logits(on_compress, tiny_config, loud_model, random_batch):
    # Room for a region of the training's length, and a model that asks for nothing.
    model = loud_model(tiny_config("region_ad", model={"n_transit": 20, "on_compress": on_compress}))
    with torch.no_grad():
        model.decoder.type_head.bias[END] = -1e4
    T = 8 * model.config.n_depths
    batch = random_batch(3, T, 8)
    steps = [Steps(*(getattr(batch.steps, f)[:, t : t + 1] for f in FIELDS)) for t in range(T)]
    with torch.no_grad():
        trained = model(batch)[0].flatten(1, 2)
    rolled = logits_of(new_memory(model, 3), steps).transpose(0, 1)
    torch.testing.assert_close(rolled, trained, rtol=0, atol=2e-5)


def test_dropped_regions_are_forgotten_and_folded_ones_are_not(tiny_config, loud_model):
    for on_compress in ("drop", "latents"):
        model = loud_model(tiny_config("region_ad", model={"on_compress": on_compress}))
        with torch.no_grad():
            model.decoder.type_head.bias[END] = -1e4  # else the first step moves the compressions
        steps = random_steps(1, 45)
        other = [random_steps(1, len(steps) + 1)[-1], *steps[1:]]
        assert not torch.equal(steps[0].observation, other[0].observation)
        a, b = (logits_of(new_memory(model, 1), s)[-1] for s in (steps, other))
        assert torch.equal(a, b) == (on_compress == "drop")


def test_memory_does_not_grow(model):
    memory = new_memory(model, 2)
    at_first = memory.state_bytes
    logits_of(memory, random_steps(2, 120))
    assert memory.state_bytes == at_first
    assert new_memory(model, 7).state_bytes == at_first


@pytest.mark.parametrize("demonstrated", [0, 3])
def test_sampled_returns_and_moments_do_not_depend_on_cache_or_batch(model, tiny_config, demonstrated):
    family = task_family(tiny_config().env)
    settings: dict[str, Any] = {"n_rollouts": 3, "n_episodes": 6, "seed": 5, "temperature": 1.5}
    settings["demonstrated"] = demonstrated
    cached = roll_out(model, family, [0, 7, 12], **settings)
    uncached = roll_out(model, family, [0, 7, 12], memory=Uncached, **settings)
    assert len(np.unique(cached.returns)) > 1
    assert cached.chosen.any()
    for name in ("returns", "compressions", "compression_steps", "chosen"):
        np.testing.assert_array_equal(getattr(cached, name), getattr(uncached, name))
    alone = roll_out(model, family, [7], **settings)
    np.testing.assert_array_equal(alone.returns, cached.returns[1:2])
    actual = cached.compression_steps[1:2]
    np.testing.assert_array_equal(alone.compression_steps, actual[..., : alone.compression_steps.shape[2]])
