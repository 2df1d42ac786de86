"""Windows of several trainings are gathered together as each one's sampler gathers its own."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from cad.envs.registry import task_family
from cad.histories.batch import Batch
from cad.histories.made_up import made_up_histories
from cad.histories.together import WindowsTogether
from cad.models.registry import MODELS
from cad.training.learner import training_sampler

CPU = torch.device("cpu")


def together(samplers, updates) -> tuple[Batch, list[int], bool]:
    windows = WindowsTogether(samplers, CPU)
    draws = windows.draw(updates)
    assert draws is not None
    numbers, lengths, absent = map(torch.from_numpy, (draws.numbers, draws.lengths, draws.absent))
    batch = windows.gather(numbers, lengths, absent, draws.widest, draws.padded)
    return batch, draws.lengths.tolist(), draws.padded


def assert_holds(batch: Batch, model: int, length: int, own: Batch) -> None:
    """A training's rows of ``batch``, without the padding of its segments, are ``own``."""
    segments = batch.actions.shape[2] // batch.segment_length
    assert own.segment_length == length and own.last_length == length
    absent = batch.burn_in - own.burn_in
    there = torch.arange(batch.actions.shape[2]).view(segments, -1)[absent:, :length].flatten()
    if batch.burn_in:
        assert batch.absent is not None and batch.absent[model] == absent
    for field in fields(batch.steps):
        ours, theirs = (getattr(steps, field.name) for steps in (batch.steps, own.steps))
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours[model][:, there], theirs), field.name
    assert torch.equal(batch.actions[model][:, there], own.actions)
    if batch.valid is not None:
        assert batch.valid[model].sum() == length and batch.valid[model][:length].all()
    else:
        assert length == batch.segment_length


@pytest.mark.parametrize(
    ("kind", "model", "train"),
    [
        *((kind, {}, {}) for kind in MODELS),
        ("ad", {"n_sink": 2}, {}),
        ("region_ad", {"on_compress": "latents"}, {}),
        ("compressed_ad", {}, {"burn_in": 2}),
        ("linear_attention", {}, {"burn_in": 2}),
        ("linear_attention", {}, {"burn_in": 1000}),
        ("compressed_ad", {}, {"burn_in": 1000}),  # more than histories have room for
    ],
)
def test_windows_are_those_of_each_sampler(kind, model, train, tiny_config):
    configs = [
        tiny_config(kind, seed=seed, model=model, train={"max_episode_gap": gap, **train})
        for seed, gap in enumerate((1, 3, 10))
    ]
    arrays = [
        made_up_histories(task_family(config.env), config.source.steps_per_stream) for config in configs
    ]
    # The second and third share theirs.
    arrays[1] = arrays[2]
    rng = np.random.default_rng(0)
    for own in arrays[1:]:  # others than the first one's
        own.actions[:] = rng.integers(0, own.n_actions, own.actions.shape)
        own.rewards[:] = rng.integers(0, 2, own.rewards.shape)
    samplers = [training_sampler(*pair) for pair in zip(configs, arrays, strict=True)]
    assert WindowsTogether.fits(samplers)
    seen = set()
    for update in range(20):
        updates = [update, update + 3, update]  # trainings need not be at the same one
        batch, lengths, padded = together(samplers, updates)
        seen.add(padded)
        for model_, (sampler, own, length) in enumerate(zip(samplers, updates, lengths, strict=True)):
            assert_holds(batch, model_, length, sampler.batch(own))
    assert True in seen if kind == "compressed_ad" else seen == {False}


def test_burn_ins_may_differ(tiny_config):
    configs = [tiny_config(seed=seed, train={"burn_in": n}) for seed, n in enumerate((2, 0, 5))]
    arrays = made_up_histories(task_family(configs[0].env), configs[0].source.steps_per_stream)
    samplers = [training_sampler(config, arrays) for config in configs]
    for update in range(10):
        batch, lengths, _ = together(samplers, [update] * 3)
        assert batch.burn_in == 5
        for model, (sampler, length) in enumerate(zip(samplers, lengths, strict=True)):
            assert_holds(batch, model, length, sampler.batch(update))


def test_what_does_not_fit_together(tiny_config):
    config = tiny_config("compressed_ad")
    arrays = made_up_histories(task_family(config.env), config.source.steps_per_stream)
    one = training_sampler(config, arrays)
    assert not WindowsTogether.fits([one, training_sampler(tiny_config("ad"), arrays)])
    assert not WindowsTogether.fits([one, training_sampler(tiny_config(train={"batch_size": 4}), arrays)])
    last = {"min_uncompressed_length": 1, "max_uncompressed_length": 8}
    for model in ({"max_compression_depth": 1}, last):
        other = training_sampler(tiny_config(model=model), arrays)
        assert WindowsTogether([one, other], CPU).draw([0, 0]) is None
    deepening = training_sampler(tiny_config(train={"depth_curriculum": 0.9, "n_updates": 10}), arrays)
    windows = WindowsTogether([deepening, deepening], CPU)
    assert windows.draw([0, 0]) is not None and windows.draw([0, 9]) is None
