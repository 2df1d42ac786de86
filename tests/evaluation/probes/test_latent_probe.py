"""The probe of latents against independent computations and planted answers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cad.envs.registry import task_family
from cad.evaluation.probes.latent_probe import probe_latents, probe_place, share_met
from cad.evaluation.probes.latents import as_steps, latents_after
from cad.evaluation.probes.result import load_probe, save_probe
from cad.evaluation.probes.schedule import probed_counts
from cad.evaluation.replay import replay_actions, rollout_keys
from cad.evaluation.rollout import roll_out
from cad.models.compressed_ad.memory import CompressedMemory


def trajectories(config, model, tasks, n_rollouts=2, **options):
    family = task_family(config.env)
    result = roll_out(model, family, tasks, n_rollouts=n_rollouts, n_episodes=8, seed=0, **options)
    return replay_actions(
        family,
        np.repeat(tasks, n_rollouts),
        result.actions.reshape(len(tasks) * n_rollouts, -1),
        rollout_keys(0, tasks, n_rollouts),
    )


def test_probed_latents_are_those_of_the_roll_out(config, model):
    kept = []

    class Memory(CompressedMemory):
        def _take(self, latents):
            kept.append(latents.clone())
            super()._take(latents)

    recorded = trajectories(config, model, (1, 2, 3), memory=Memory)
    # Windows of 8 in 40 steps: 4 compressions, the last window is not compressed.
    assert probed_counts(config) == (1, 2, 3, 4)
    with torch.inference_mode():
        latents = latents_after(model, as_steps(recorded), (1, 2, 4))
    expected = torch.stack([kept[k].flatten(1) for k in (1, 2, 4)]).double().numpy()
    np.testing.assert_allclose(latents, expected, atol=1e-5)


def test_a_planted_goal_is_read_out_and_chance_is_chance(config, model):
    train, test = (
        trajectories(config, model, tuple(range(20)), 4),
        trajectories(config, model, (20, 22, 24), 4),
    )
    rng = np.random.default_rng(0)

    def latents(recorded, planted):
        goals = recorded.family.goals(recorded.task_ids)
        noise = rng.normal(size=(2, len(goals), 12))
        return noise + planted * 50 * np.pad(goals, ((0, 0), (0, 10)))

    def planted(strength):
        return latents(train, strength), latents(test, strength)

    probe = probe_place("goal", slice(0, 2), train, test, planted(1), [planted(0), planted(0)])
    assert np.mean(probe.trained) < 0.1
    assert min(probe.r2) > 0.99
    # Tasks 20, 22, 24: (4, 0), (4, 2), (4, 4); the mean of tasks 0 to 19 is (1.5, 2).
    assert probe.chance == pytest.approx((4.5, 2.5, 4.5))
    assert np.mean(probe.untrained) == pytest.approx(np.mean(probe.chance), abs=0.6)
    assert max(probe.r2_untrained) < 0.15


def test_the_whole_probe_is_repeatable_and_survives_its_file(config, model, tmp_path):
    train, test = trajectories(config, model, tuple(range(12))), trajectories(config, model, (20, 21, 22))
    random_state = torch.get_rng_state()
    probe = probe_latents(config, model, train, test)
    assert torch.equal(random_state, torch.get_rng_state())
    assert probe == probe_latents(config, model, train, test)
    assert (probe.task_ids, probe.counts) == ((20, 21, 22), (1, 2, 3, 4))
    assert (probe.fit_tasks, probe.fit_rollouts) == (12, 2)
    assert np.shape(probe.attention) == (2, 5)
    assert np.shape(probe.targets[0].trained) == (4, 3) == np.shape(probe.found)
    save_probe(tmp_path / "probe.json", probe)
    loaded = load_probe(tmp_path / "probe.json")
    assert loaded.targets[0].trained == tuple(
        tuple(round(x, 6) for x in row) for row in probe.targets[0].trained
    )
    assert dataclasses.replace(loaded, targets=(), attention=(), uniform=0) == dataclasses.replace(
        probe, targets=(), attention=(), uniform=0
    )


@pytest.mark.parametrize(
    ("name", "size", "names"), [("dark_key_to_door", 5, ["key", "door"]), ("darkroom_permuted", 3, [])]
)
def test_other_families(name, size, names, tiny_config, loud_model):
    config = tiny_config(
        env={"name": name, "size": size, "n_tasks": 40, "n_heldout": 4},
        evaluation={"n_episodes": 8, "n_rollouts": 2},
    )
    model, tasks = loud_model(config), task_family(config.env).task_ids
    probe = probe_latents(
        config, model, trajectories(config, model, tasks[:9]), trajectories(config, model, tasks[9:12])
    )
    assert [target.name for target in probe.targets] == names
    assert len(probe.attention) == 2


@pytest.fixture(scope="module")
def cued(tiny_config, loud_model):
    config = tiny_config(
        env={"name": "cued_darkroom", "size": 3, "n_cues": 3, "n_tasks": 40, "n_heldout": 4},
        evaluation={"n_episodes": 8, "n_rollouts": 2},
    )
    return config, loud_model(config), task_family(config.env).task_ids


def test_several_goals_are_one_target(cued):
    config, model, tasks = cued
    probe = probe_latents(
        config, model, trajectories(config, model, tasks[:9]), trajectories(config, model, tasks[9:12])
    )
    assert [target.name for target in probe.targets] == ["goals"]
    assert np.shape(probe.targets[0].trained) == (len(probe.counts), 3)
    assert np.diff(probe.found, axis=0).min() >= 0


def test_the_distance_of_several_goals_is_their_mean(cued):
    config, model, tasks = cued
    train, test = trajectories(config, model, tasks[:30], 4), trajectories(config, model, tasks[30:36], 4)
    rng = np.random.default_rng(0)

    def latents(recorded, planted):
        goals = recorded.family.goals(recorded.task_ids)
        return rng.normal(size=(1, len(goals), 6)) + planted * 50 * goals

    def planted(strength):
        return latents(train, strength), latents(test, strength)

    found = probe_place("goals", slice(0, 6), train, test, planted(1), [planted(0)])
    assert np.max(found.trained) < 0.1
    alone = [
        probe_place("goal", slice(2 * k, 2 * k + 2), train, test, planted(1), [planted(0)]) for k in range(3)
    ]
    assert (
        np.min([one.chance for one in alone]) < np.mean(found.chance) < np.max([one.chance for one in alone])
    )
    np.testing.assert_allclose(found.chance, np.mean([one.chance for one in alone], axis=0))


def test_the_share_of_goals_that_were_met(cued):
    config, model, tasks = cued
    recorded = trajectories(config, model, tasks[:6], 3)
    steps, expected = 17, []
    for states, rewards in zip(recorded.states[:, :steps], recorded.rewards[:, :steps], strict=True):
        expected.append(len({int(s[2]) for s, r in zip(states, rewards, strict=True) if r > 0}) / 3)
    assert 0 < np.mean(expected) < 1
    np.testing.assert_allclose(share_met(recorded, steps), expected)
