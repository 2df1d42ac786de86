"""Cued Darkroom: rules, ids, optima, which cue an episode shows, and its scripted learner."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest

from cad.config import LearnerConfig
from cad.envs.batched import BatchedEnv
from cad.envs.noise import noise_keys, permutations, uniform
from cad.envs.registry import env_config, task_family
from cad.envs.split import split_tasks
from cad.histories.audit import audit
from cad.histories.collect import collect
from cad.histories.file import open_histories


def family(n_cues=4, size=5, horizon=10, n_tasks=20):
    settings = {"size": size, "horizon": horizon, "n_cues": n_cues, "n_tasks": n_tasks}
    return task_family(env_config({"name": "cued_darkroom", **settings}))


def test_ids_are_digits_and_beyond_2_to_53_drawn():
    small = family(1, size=3, n_tasks=None)
    assert [small.goal(task) for task in small.task_ids] == [(r, c) for r in range(3) for c in range(3)]
    assert family(2, size=3).goal(1 * 9 + 5) == (0, 1, 1, 2)
    large = family(16, size=9)
    goals = [large.goal(task) for task in large.task_ids]
    assert len(set(goals)) == len(goals) == 20
    assert all(len(goal) == 32 and set(goal) <= set(range(9)) for goal in goals)
    assert large.bits_to_remember == pytest.approx(16 * math.log2(81))
    # Recorded: ids name tasks for good.
    assert large.goal(7)[:8] == (6, 0, 6, 7, 4, 5, 7, 6)
    assert len(family(16, size=9, n_tasks=None).task_ids) == 640
    with pytest.raises(ValueError, match="set n_tasks"):
        family(16, size=9, n_tasks=200_000)


def test_only_the_goal_of_the_cue_is_rewarded():
    rules = family(2, size=3)
    goals = np.array([[0, 1, 2, 1]] * 2)
    states, hidden = rules.begin(goals, np.array([0, 1]))
    assert states.tolist() == [[1, 1, 0], [1, 1, 1]]
    after, rewards, _ = rules.transition(goals, states, hidden, np.array([1, 1]))
    assert after.tolist() == [[0, 1, 0], [0, 1, 1]]
    assert rewards.tolist() == [1, 0]


def test_the_optimum_of_an_episode_is_that_of_its_cue():
    rules = family(3, size=5, horizon=10)
    for task in rules.task_ids:
        goals = rules.goals([task] * 3)
        optima = rules.episode_optimum(goals, np.arange(3))
        for cue in range(3):
            row, column = goals[0, 2 * cue : 2 * cue + 2]
            assert optima[cue] == 11 - max(1, abs(row - 2) + abs(column - 2))
        assert rules.optimal_return(task) == pytest.approx(optima.mean())


def test_cues_are_uniform_and_depend_on_nothing_but_the_key():
    keys = noise_keys("test", 3, np.zeros(200, dtype=np.int64), np.arange(200))
    env = BatchedEnv(family(4), np.zeros(200), keys)
    alone = BatchedEnv(family(4), [0], keys[17:18])
    seen = []
    for _ in range(100):
        seen.append(env.reset()[:, 2])
        assert alone.reset()[0, 2] == seen[-1][17]
        for one in (env, alone):
            one.step(np.full(len(one), 4))
    share = np.bincount(np.ravel(seen)) / np.size(seen)
    assert share == pytest.approx([0.25] * 4, abs=0.01)


def test_a_load_limits_the_cues_that_a_stream_meets():
    keys = noise_keys("test", 0, np.zeros(300, dtype=np.int64), np.arange(300))
    env = BatchedEnv(family(8), np.zeros(300), keys, loads=[1, 2, 8])
    met = [set() for _ in range(300)]
    for _ in range(80):
        for cues, cue in zip(met, env.reset()[:, 2], strict=True):
            cues.add(int(cue))
        env.step(np.full(300, 4))
    sizes = np.bincount([len(cues) for cues in met], minlength=9)
    assert sizes[[1, 2, 8]].sum() == 300
    assert all(sizes[[1, 2, 8]] > 70)
    assert len(set.union(*(cues for cues in met if len(cues) == 1))) == 8


def test_noise_is_what_it_was():
    """Recorded: histories are audited and roll-outs replayed with the same numbers in later versions."""
    keys = noise_keys("history", 5, [3, 3, 4], [0, 1, 0])
    assert [int(key) for key in keys] == [16683524399827065506, 2179873033544815256, 197043458391002226]
    many = uniform(noise_keys("x", 0, np.zeros(20000, dtype=np.int64), np.arange(20000)), 0)
    assert many.min() >= 0 and many.max() < 1
    assert np.histogram(many, 10, (0, 1))[0] == pytest.approx([2000] * 10, rel=0.1)
    assert all(sorted(row) == list(range(6)) for row in permutations(keys, 6).tolist())


@pytest.mark.parametrize("loads", [None, [1, 4]])
def test_the_learner_learns_and_its_histories_pass_the_audit(loads, tmp_path):
    env = env_config(
        {"name": "cued_darkroom", "size": 5, "horizon": 10, "n_cues": 4, "n_tasks": 6, "n_heldout": 2,
         "n_validation": 1}
    )  # fmt: skip
    source = LearnerConfig(kind="learner", n_streams=8, steps_per_stream=600, loads=loads)
    collect(env, source, tmp_path / "a.h5", workers=1)
    report = audit(tmp_path / "a.h5", env=env)
    assert report.ok, report.problems
    rules = task_family(env)
    with open_histories(tmp_path / "a.h5") as file:
        assert file.provenance.source == source
        for task in split_tasks(env).train:
            history = file.task(task)
            cues = history.states[:, ::10, 2].astype(np.int64)
            optima = rules.episode_optimum(rules.goals([task] * cues.size), cues.ravel()).reshape(cues.shape)
            shares = history.rewards.reshape(8, 60, 10).sum(axis=2) / optima
            assert shares[:, -20:].mean() > 0.8
            assert shares[:, :4].mean() < 0.6
            met = {len(set(row)) for row in cues.tolist()}
            assert met <= {1, 4} if loads else met == {4}


def test_a_history_with_another_cue_fails_the_audit(tmp_path):
    env = env_config(
        {"name": "cued_darkroom", "size": 3, "horizon": 5, "n_cues": 2, "n_tasks": 3, "n_heldout": 1,
         "n_validation": 0}
    )  # fmt: skip
    source = LearnerConfig(kind="learner", n_streams=4, steps_per_stream=100)
    collect(env, source, tmp_path / "a.h5", workers=1)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        group = file[next(name for name in file if name.startswith("task"))]
        cue = 1 - group["states"][1, 5, 2]
        for name in ("states", "next_states"):
            data = group[name][()]
            data[1, 5:10, 2] = cue
            group[name][...] = data
    report = audit(tmp_path / "a.h5", env=env)
    assert any("stream 1, step 5: state is" in problem for problem in report.problems), report.problems
