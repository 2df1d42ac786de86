"""Gymnasium and stable-baselines3 faces against the batched core."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import cad.envs.gymnasium_env  # noqa: F401
from cad.envs.batched import BatchedEnv
from cad.envs.registry import env_config, task_family
from cad.envs.vec_env import StreamVecEnv

FACES: list[tuple[str, str]] = [
    ("cad/Darkroom-v0", "darkroom"),
    ("cad/DarkroomPermuted-v0", "darkroom_permuted"),
    ("cad/DarkKeyToDoor-v0", "dark_key_to_door"),
]
# Which fact an episode needs is random, in single environments from their own seed.
CUED = "cad/CuedDarkroom-v0"


@pytest.mark.parametrize("env_id", [*(env_id for env_id, _ in FACES), CUED])
def test_gymnasium_accepts_the_face(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, task_id=3).unwrapped)
    face = gym.make(env_id, task_id=3, size=5, horizon=7)
    assert face.observation_space == gym.spaces.MultiDiscrete([5, 5] + [4] * (env_id == CUED))
    face.reset(seed=0)
    flags = [face.step(4)[2:4] for _ in range(7)]
    assert flags == [(False, False)] * 6 + [(False, True)]


@pytest.mark.parametrize(("env_id", "name"), FACES)
def test_batched_env_equals_single_environments(env_id: str, name: str) -> None:
    family = task_family(env_config({"name": name, "size": 4, "horizon": 25}))
    tasks = (0, 1, 5, 7, 10, 15)
    batch = BatchedEnv(family, tasks)
    singles = [gym.make(env_id, task_id=task, size=4, horizon=25) for task in tasks]
    rng = np.random.default_rng(5)
    total = 0.0
    for _ in range(3):
        observations = batch.reset()
        assert observations.tolist() == [single.reset()[0].tolist() for single in singles]
        done = False
        while not done:
            actions = rng.integers(5, size=len(tasks))
            observations, rewards, done = batch.step(actions)
            steps = [single.step(action) for single, action in zip(singles, actions, strict=True)]
            assert observations.tolist() == [step[0].tolist() for step in steps]
            assert rewards.tolist() == [step[1] for step in steps]
            assert [done] * len(steps) == [step[3] for step in steps]
            total += float(rewards.sum())
    assert total > 0


def test_wrong_actions_and_steps_after_the_end_are_refused() -> None:
    face = gym.make("cad/Darkroom-v0", render_mode=None).unwrapped
    face.reset()
    with pytest.raises(ValueError, match=r"not an integer in 0\.\.4"):
        face.step(5)
    batch = BatchedEnv(task_family(env_config({"horizon": 1})), [0])
    batch.step(np.array([0]))
    with pytest.raises(RuntimeError, match="call reset"):
        batch.step(np.array([0]))


def test_earlier_observations_are_not_overwritten() -> None:
    batch = BatchedEnv(task_family(env_config({})), [0, 1])
    first = batch.reset()
    second, _, _ = batch.step(np.array([0, 2]))
    batch.step(np.array([0, 2]))
    assert first.tolist() == [[4, 4], [4, 4]]
    assert second.tolist() == [[5, 4], [4, 5]]


@pytest.mark.parametrize("name", [name for _, name in FACES])
def test_vec_env_records_true_transitions_and_tells_terminal_observations(name: str) -> None:
    family = task_family(env_config({"name": name, "size": 4, "horizon": 5}))
    env = StreamVecEnv(family, [3, 9], record_steps=10)
    reference = BatchedEnv(family, [3, 9])
    rng = np.random.default_rng(0)
    observations = env.reset()
    states = reference.reset()
    for step in range(10):
        actions = rng.integers(5, size=2)
        after, rewards, done = reference.step(actions)
        observations, vec_rewards, dones, infos = env.step(actions)
        assert vec_rewards.tolist() == rewards.tolist()
        assert dones.tolist() == [done, done]
        shown = np.array([info["terminal_observation"] for info in infos]) if done else observations
        assert shown[:, :4].argmax(axis=1).tolist() == after[:, 0].tolist()
        assert shown[:, 4:8].argmax(axis=1).tolist() == after[:, 1].tolist()
        kept = env.transitions()
        assert kept.states[:, step].tolist() == states.tolist()
        assert kept.next_states[:, step].tolist() == after.tolist()
        assert kept.rewards[:, step].tolist() == rewards.tolist()
        assert kept.actions[:, step].tolist() == actions.tolist()
        assert kept.episode_ends[:, step].tolist() == [done, done]
        states = reference.reset() if done else after
        if done:
            assert env.observation_space.contains(observations[0])
            assert observations[:, :4].argmax(axis=1).tolist() == states[:, 0].tolist()
    assert env.full
    env.step(np.zeros(2, dtype=np.int64))
    assert env.transitions().actions.shape == (2, 10)


def test_key_to_door_source_sees_what_was_found() -> None:
    family = task_family(env_config({"name": "dark_key_to_door", "size": 3, "horizon": 5}))
    on_start = ((1 * 3 + 1) * 3 + 1) * 3 + 1  # key and door where the episode starts
    env = StreamVecEnv(family, [on_start])
    seen = [env.reset()[0, 6:].tolist()]
    seen += [env.step(np.array([4]))[0][0, 6:].tolist() for _ in range(2)]
    assert seen == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
