"""Trajectories replayed from actions alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cad.envs.registry import task_family
from cad.errors import CadError
from cad.evaluation.actions_file import load_actions, save_actions
from cad.evaluation.probes.latents import as_steps
from cad.evaluation.replay import replay_actions, rollout_keys
from cad.evaluation.results import load_results, save_results
from cad.evaluation.rollout import roll_out
from cad.models.registry import new_memory

SPLIT = {"n_tasks": 20, "n_heldout": 2, "n_validation": 1}
FAMILIES = {
    "darkroom": {"size": 5, "n_tasks": 25},
    "darkroom_permuted": {"size": 4, "n_tasks": 120},
    "dark_key_to_door": {"size": 5, "n_tasks": 625},
    "cued_darkroom": {"size": 5, **SPLIT},
    "bandit": SPLIT,
    "t_maze": {"n_cues": 5, **SPLIT},
    "random_mdp": {"rewards": "dense", **SPLIT},
    "frozen_lake": {"size": 4, "horizon": 12, **SPLIT},
}


class Seen:
    """A memory that records its inputs."""

    def __init__(self, model, batch):
        self._memory = new_memory(model, batch)
        self.steps = []

    def observe(self, step):
        self.steps.append(step)
        return self._memory.observe(step)

    def __getattr__(self, name):
        return getattr(self._memory, name)


@pytest.mark.parametrize("name", FAMILIES)
def test_actions_determine_returns_and_what_the_model_saw(name, tiny_config, loud_model):
    settings = {"name": name, "horizon": 6, "n_validation": 1, **FAMILIES[name]}
    if name == "t_maze":
        settings["corridor"] = 5
    config = tiny_config("compressed_ad").with_overrides({"env": settings}, "test")
    family, tasks = task_family(config.env), (3, 17)
    memories = []

    def memory(model, batch):
        memories.append(Seen(model, batch))
        return memories[-1]

    result = roll_out(loud_model(config), family, tasks, n_rollouts=3, n_episodes=4, seed=1, memory=memory)
    trajectories = replay_actions(
        family, np.repeat(tasks, 3), result.actions.reshape(6, -1), rollout_keys(1, tasks, 3)
    )
    np.testing.assert_array_equal(trajectories.returns.reshape(2, 3, 4), result.returns)
    steps = as_steps(trajectories)
    for field in ("observation", "previous_action", "previous_reward", "first"):
        seen = torch.cat([getattr(step, field) for step in memories[0].steps], dim=1)
        assert torch.equal(getattr(steps, field), seen), field
    # Within an episode every step begins where the previous one ended.
    states, after = trajectories.states, trajectories.after
    inside = np.arange(1, states.shape[1]) % family.horizon != 0
    np.testing.assert_array_equal(states[:, 1:][:, inside], after[:, :-1][:, inside])


def test_half_an_episode_is_refused(tiny_config):
    family = task_family(tiny_config().env)
    with pytest.raises(ValueError, match="7 steps are not a whole number of episodes of 5"):
        replay_actions(family, [0], np.zeros((1, 7), dtype=np.uint8), rollout_keys(0, [0], 1))


@pytest.fixture
def result(tiny_config, loud_model):
    config = tiny_config("ad")
    return roll_out(
        loud_model(config), task_family(config.env), (8, 3, 20), n_rollouts=2, n_episodes=3, seed=0
    )


def test_actions_round_trip_task_by_task(result, tmp_path):
    path = tmp_path / "actions.h5"
    save_actions(path, result)
    assert result.actions.dtype == np.uint8
    np.testing.assert_array_equal(load_actions(path, (20, 8)), result.actions[[2, 0]])
    with pytest.raises(CadError, match="has no task 7; it has 8, 3, 20"):
        load_actions(path, (8, 7))
    save_results(tmp_path / "returns.h5", result)
    with pytest.raises(ValueError, match="no actions"):
        save_actions(path, load_results(tmp_path / "returns.h5"))


def test_damaged_actions_are_named(result, tmp_path):
    path = tmp_path / "actions.h5"
    with pytest.raises(CadError, match=r"actions\.h5 is missing"):
        load_actions(path, (8,))
    save_actions(path, result)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(CadError, match=r"actions\.h5 is damaged"):
        load_actions(path, (8,))
