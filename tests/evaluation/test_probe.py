"""The probe of latents against independent computations and planted answers."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from cad.envs import task_family
from cad.errors import CadError
from cad.evaluation import probe
from cad.evaluation.attention import attention_weights, latent_shares, uniform_share
from cad.evaluation.paths import follow
from cad.evaluation.probe_result import load_probe, save_probe
from cad.evaluation.ridge import PENALTIES, fit_ridge
from cad.evaluation.rollout import roll_out
from cad.models.memory import CompressedMemory


def samples(n_tasks, each, width, seed=0):
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(n_tasks), each)
    return rng, task, rng.normal(size=(n_tasks * each, width))


@pytest.mark.parametrize("width", [3, 200])
def test_ridge_solves_the_normal_equations(width):
    rng, task, x = samples(12, 5, width)
    y = x[:, :2] @ np.array([[1.0, -2.0], [0.5, 3.0]]) + rng.normal(size=(60, 2)) + 7
    fitted = fit_ridge(x, y, task)
    centred = x - x.mean(axis=0)
    penalty = fitted.penalty * (centred**2).sum() / len(x)
    expected = np.linalg.solve(
        centred.T @ centred + penalty * np.eye(width), centred.T @ (y - y.mean(axis=0))
    )
    np.testing.assert_allclose(fitted.weights, expected, atol=1e-8)
    np.testing.assert_allclose(fitted(x).mean(axis=0), y.mean(axis=0))
    assert fitted.penalty in PENALTIES


def test_ridge_finds_a_planted_map_and_nothing_where_there_is_nothing():
    rng, task, x = samples(40, 5, 30)
    y = x @ rng.normal(size=(30, 2))
    assert np.abs(fit_ridge(x, y, task)(x) - y).max() < 0.01
    # What only tells one task from another does not help on tasks that were left out.
    names = rng.normal(size=(40, 300))[task]
    goals = rng.normal(size=(40, 2))[task]
    assert fit_ridge(names, goals, task).penalty == PENALTIES[-1]
    same = fit_ridge(np.ones((200, 4)), goals, task)
    np.testing.assert_allclose(same(np.ones((1, 4)))[0], goals.mean(axis=0))


@pytest.fixture(scope="module")
def config(tiny_config):
    return tiny_config("compressed_ad", env={"n_heldout": 4}, evaluation={"n_episodes": 8, "n_rollouts": 2})


@pytest.fixture(scope="module")
def model(config, loud_model):
    return loud_model(config)


def lived(config, model, tasks, n_rollouts=2, **options):
    family = task_family(config.env)
    result = roll_out(model, family, tasks, n_rollouts=n_rollouts, n_episodes=8, seed=0, **options)
    return follow(family, np.repeat(tasks, n_rollouts), result.actions.reshape(len(tasks) * n_rollouts, -1))


def test_probed_latents_are_those_of_the_roll_out(config, model):
    kept = []

    class Memory(CompressedMemory):
        def _take(self, latents):
            kept.append(latents.clone())
            super()._take(latents)

    paths = lived(config, model, (1, 2, 3), memory=Memory)
    # Windows of 8 in 40 steps: 4 compressions, the last window is not compressed.
    assert probe.probed_counts(config) == (1, 2, 3, 4)
    with torch.inference_mode():
        found = probe.latents_behind(model, probe.as_steps(paths), (1, 2, 4))
    expected = torch.stack([kept[k].flatten(1) for k in (1, 2, 4)]).double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_attention_weights_are_the_layers_own(model):
    """Weights times values, through the output layer, are what the fused attention gives."""
    torch.manual_seed(0)
    steps, latents = torch.randn(3, 6, 16), torch.randn(3, 3, 16)
    attention, heard = model.decoder.blocks.layers[0].attention, {}
    attention.qkv.register_forward_hook(lambda _m, _i, out: heard.update(qkv=out))
    attention.register_forward_hook(lambda _m, _i, out: heard.update(y=out))
    with torch.inference_mode():
        shares = latent_shares(model, steps, latents)
        weights = attention_weights(attention, heard["qkv"], model.decoder.mask[:9, :9])
        values = heard["qkv"].view(3, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)[2]
        y = attention.out((weights @ values).transpose(1, 2).reshape(3, 9, 16))
    torch.testing.assert_close(y, heard["y"])
    assert shares.shape == (2, 3, 2, 6)
    torch.testing.assert_close(shares[0], weights[:, :, 3:, :3].sum(-1))
    attention.qkv._forward_hooks.clear()
    attention._forward_hooks.clear()


def test_indifferent_attention_gives_the_uniform_share(config, loud_model):
    model = loud_model(config)
    for layer in model.decoder.blocks.layers:
        torch.nn.init.zeros_(layer.attention.qkv.weight)
        torch.nn.init.zeros_(layer.attention.qkv.bias)
    with torch.inference_mode():
        shares = latent_shares(model, torch.randn(2, 8, 16), torch.randn(2, 3, 16))
    assert shares.mean().item() == pytest.approx(uniform_share(3, 8))
    assert uniform_share(3, 2) == pytest.approx((3 / 4 + 3 / 5) / 2)
    assert not any(layer.attention.qkv._forward_hooks for layer in model.decoder.blocks.layers)


def test_a_planted_goal_is_read_out_and_chance_is_chance(config, model):
    train, test = lived(config, model, tuple(range(20)), 4), lived(config, model, (20, 22, 24), 4)
    rng = np.random.default_rng(0)

    def latents(paths, planted):
        goals = paths.family.goals(paths.task_ids)
        noise = rng.normal(size=(2, len(goals), 12))
        return noise + planted * 50 * np.pad(goals, ((0, 0), (0, 10)))

    def planted(strength):
        return latents(train, strength), latents(test, strength)

    found = probe._target("goal", slice(0, 2), train, test, planted(1), [planted(0), planted(0)])
    assert np.mean(found.trained) < 0.1
    assert min(found.r2) > 0.99
    # Tasks 20, 22, 24: (4, 0), (4, 2), (4, 4); the mean of tasks 0 to 19 is (1.5, 2).
    assert found.chance == pytest.approx((4.5, 2.5, 4.5))
    assert np.mean(found.untrained) == pytest.approx(np.mean(found.chance), abs=0.6)
    assert max(found.r2_untrained) < 0.15


def test_the_whole_probe_is_repeatable_and_survives_its_file(config, model, tmp_path):
    train, test = lived(config, model, tuple(range(12))), lived(config, model, (20, 21, 22))
    random_state = torch.get_rng_state()
    found = probe.probe_latents(config, model, train, test)
    assert torch.equal(random_state, torch.get_rng_state())
    assert found == probe.probe_latents(config, model, train, test)
    assert (found.task_ids, found.counts) == ((20, 21, 22), (1, 2, 3, 4))
    assert (found.fit_tasks, found.fit_rollouts) == (12, 2)
    assert np.shape(found.attention) == (2, 5)
    assert np.shape(found.targets[0].trained) == (4, 3) == np.shape(found.found)
    save_probe(tmp_path / "probe.json", found)
    loaded = load_probe(tmp_path / "probe.json")
    assert loaded.targets[0].trained == tuple(
        tuple(round(x, 6) for x in row) for row in found.targets[0].trained
    )
    assert dataclasses.replace(loaded, targets=(), attention=(), uniform=0) == dataclasses.replace(
        found, targets=(), attention=(), uniform=0
    )


def test_a_probe_of_another_version_or_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "probe.json"
    for text, message in (
        (json.dumps({"version": 99, "targets": []}), "written by another version of cad"),
        (json.dumps({"version": 1, "targets": []}), "damaged"),
        ("[]", "damaged"),
        ("{", "damaged"),
    ):
        path.write_text(text)
        with pytest.raises(CadError, match=message):
            load_probe(path)


def test_what_has_nothing_to_probe(tiny_config):
    assert probe.why_no_probe(tiny_config("ad")) == "no latents"
    assert probe.why_no_probe(tiny_config(model={"max_compression_depth": 0})) == "no latents"
    assert "region_ad" in (probe.why_no_probe(tiny_config("region_ad")) or "")
    short = tiny_config(evaluation={"n_episodes": 3})
    assert "3 episodes never decode a whole window" in (probe.why_no_probe(short) or "")
    assert probe.why_no_probe(tiny_config(evaluation={"n_episodes": 4})) is None


@pytest.mark.parametrize(
    ("name", "names"), [("dark_key_to_door", ["key", "door"]), ("darkroom_permuted", [])]
)
def test_other_families(name, names, tiny_config, loud_model):
    config = tiny_config(
        env={"name": name, "n_tasks": 40, "n_heldout": 4}, evaluation={"n_episodes": 8, "n_rollouts": 2}
    )
    model, tasks = loud_model(config), task_family(config.env).task_ids
    found = probe.probe_latents(
        config, model, lived(config, model, tasks[:9]), lived(config, model, tasks[9:12])
    )
    assert [target.name for target in found.targets] == names
    assert len(found.attention) == 2
