"""Environments on a device step as the NumPy core does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cad.envs.batched import BatchedEnv
from cad.envs.check import check_family
from cad.envs.families.random_mdp import RandomMDP
from cad.envs.noise import noise_keys, smallest_reaching
from cad.envs.registry import env_config, task_family
from cad.envs.tabled import TabledEnv, make_tables
from cad.evaluation import stepping
from cad.evaluation.rollout import roll_out
from cad.schema import Config

CPU = torch.device("cpu")
FAMILIES = {
    "darkroom": {"name": "darkroom", "size": 5, "horizon": 12},
    "permuted": {"name": "darkroom_permuted", "size": 5, "horizon": 12},
    "key to door": {"name": "dark_key_to_door", "size": 5, "horizon": 12},
    "cued": {"name": "cued_darkroom", "size": 5, "n_cues": 3, "horizon": 12},
    "bandit": {"name": "bandit", "n_arms": 4, "horizon": 12},
    "sparse": {"name": "random_mdp", "n_states": 6, "branching": 3, "horizon": 12},
    "dense": {"name": "random_mdp", "n_states": 6, "branching": 1, "rewards": "dense", "horizon": 12},
    "t-maze": {"name": "t_maze", "corridor": 5, "shortest": 2, "n_cues": 3, "horizon": 8},
    "frozen lake": {"name": "frozen_lake", "size": 4, "horizon": 12},
    "signs": {"name": "t_maze", "corridor": 5, "sides": "signs", "n_cues": 2},
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return task_family(env_config(FAMILIES[request.param]))


def test_steps_are_those_of_the_numpy_core(family):
    rng = np.random.default_rng(0)
    tasks = np.array(family.task_ids)[rng.integers(0, len(family.task_ids), 4)]
    if "arm" in family.in_a_line():
        tasks[0] = 99  # an arm that always pays
    tables = make_tables(family, tasks.tolist())
    assert tables is not None
    numbers = np.arange(4).repeat(40)
    goals, keys = family.goals(tasks[numbers]), noise_keys("test", 0, tasks[numbers], np.arange(160))
    ours = TabledEnv(family, tables, numbers, goals, keys, CPU)
    theirs = BatchedEnv(family, tasks[numbers], keys)
    paid = 0.0
    for episode in range(6):
        facts, observed = ours.begin(episode)
        np.testing.assert_array_equal(observed.numpy(), theirs.reset())
        np.testing.assert_array_equal(facts, theirs.facts)
        for _ in range(family.horizon):
            # Now and then what is best, so that the ends of mazes are reached.
            actions = rng.integers(0, family.spaces.n_actions, 160)
            actions = np.where(rng.random(160) < 0.7, theirs.optimal_actions(), actions)
            after, rewards = ours.step(torch.from_numpy(actions))
            expected, expected_rewards, _ = theirs.step(actions)
            np.testing.assert_array_equal(after.numpy(), expected)
            np.testing.assert_array_equal(rewards.numpy(), expected_rewards)
            paid += rewards.sum()
    assert paid > 0


def test_roll_outs_are_those_with_environments_on_the_host(family, loud_model, monkeypatch):
    model = {"kind": "compressed_ad", "n_embd": 16, "n_head": 2, "n_layer": 1, "n_transit": 8, "n_latent": 3}
    model = loud_model(
        Config(env=family.config, source={"steps_per_stream": 20 * family.horizon}, model=model)
    )
    tasks = family.task_ids[:3]

    def result():
        return roll_out(model, family, tasks, n_rollouts=3, n_episodes=4, seed=1)

    assert make_tables(family, tasks) is not None
    ours = result()
    monkeypatch.setattr(stepping, "make_tables", lambda *_: None)
    theirs = result()
    assert len(np.unique(ours.actions)) > 1
    for field in ("returns", "actions", "facts", "optima", "compressions", "lengths", "compression_steps"):
        a, b = getattr(ours, field), getattr(theirs, field)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_cuts_part_numbers_exactly():
    targets = np.arange(1001)
    for scale in (100, 1000):
        cuts = smallest_reaching(targets, scale)
        assert (cuts * scale >= targets).all() and (np.nextafter(cuts, -1) * scale < targets).all()


@pytest.mark.parametrize("fault", ["beside", "missing", "beside, after the start"])
def test_doctor_finds_cuts_that_are_not_exact(fault, monkeypatch):
    exact = RandomMDP.noise_cuts

    def cuts(self, goals, states, *rest):
        right = exact(self, goals, states, *rest)
        if fault == "missing":
            return right[:, :0]
        start = self.begin(goals, np.zeros(len(goals), dtype=np.int64))[0]
        kept = fault != "beside" and states == start
        return np.where(kept, right, np.nextafter(right, 0))

    def findings():
        return {found.promise: found for found in check_family(env_config(FAMILIES["sparse"]))}

    assert "transitions: roll-outs step on their model's device" in findings()["tables"].words
    monkeypatch.setattr(RandomMDP, "noise_cuts", cuts)
    found = findings()["tables"]
    assert not found.kept
    assert "noise between two of noise_cuts() makes a difference" in found.words


def test_transitions_that_leave_the_spaces_have_no_tables(monkeypatch):
    family = task_family(env_config(FAMILIES["darkroom"]))
    whole = type(family).transition

    def transition(self, *state):
        after, rewards, hidden = whole(self, *state)
        return after, rewards, hidden + 1

    monkeypatch.setattr(type(family), "transition", transition)
    assert make_tables(family, family.task_ids[:2]) is None


def test_first_states_that_are_outside_the_spaces_have_no_tables(monkeypatch):
    family = task_family(env_config(FAMILIES["darkroom"]))
    whole = type(family).begin

    def begin(self, *start):
        states, hidden = whole(self, *start)
        return states, hidden + 100

    monkeypatch.setattr(type(family), "begin", begin)
    assert make_tables(family, family.task_ids[:2]) is None


def test_models_take_the_numbers_of_reward_values(monkeypatch):
    """Not the rewards themselves, also where the family has rules."""
    family = task_family(env_config(FAMILIES["darkroom"]))
    spaces = replace(family.spaces, reward_values=(0.0, 2.5))
    monkeypatch.setattr(type(family), "spaces", property(lambda _: spaces))
    tasks = family.task_ids[:2]
    whole = type(family).transition

    def transition(self, *state):
        after, rewards, hidden = whole(self, *state)
        return after, rewards * np.float32(2.5), hidden

    monkeypatch.setattr(type(family), "transition", transition)
    worlds = stepping.start_stepping(stepping.Rollouts(family, tasks, 40, 1, 0, CPU))
    rng = np.random.default_rng(0)
    taken = torch.from_numpy(rng.integers(0, 5, (family.horizon, 80)))
    numbers = torch.cat([worlds.step(actions).reward for actions in taken], dim=1)
    assert numbers.dtype is torch.int64
    assert set(numbers.unique().tolist()) == {0, 1}
    np.testing.assert_array_equal(worlds.returns[0], 2.5 * numbers.sum(dim=1).numpy())


def test_goals_too_wide_to_be_copied_for_every_transition_have_no_tables():
    """Of 28 GB here, at once."""
    wide = {"name": "random_mdp", "n_states": 256, "n_actions": 16, "branching": 8, "n_tasks": 30}
    family = task_family(env_config(wide))
    assert make_tables(family, family.task_ids[:3]) is None


def test_who_overrides_transition_of_chance_says_again_where_noise_makes_a_difference():
    class Other(RandomMDP):
        def transition(self, goals, states, hidden, actions, noise=None):
            return super().transition(goals, states, hidden, actions, noise / 2)

    class Said(Other):
        def noise_cuts(self, *state):
            return super().noise_cuts(*state) * 2

    config = env_config(FAMILIES["sparse"])
    assert make_tables(Other(config, [0]), [0]) is None
    assert make_tables(Said(config, [0]), [0]) is not None


def test_what_has_no_tables(monkeypatch):
    long = task_family(env_config({"name": "t_maze", "corridor": 100_000}))
    assert make_tables(long, long.task_ids[:8]) is None
    chance = task_family(env_config(FAMILIES["sparse"]))
    assert make_tables(chance, chance.task_ids[:1]) is not None
    # A family of another package that does not say where noise makes a difference.
    monkeypatch.setattr(RandomMDP, "noise_cuts", lambda *_: None)
    assert make_tables(chance, chance.task_ids[:1]) is None
