"""T-maze: what is seen where, that a lost step is lost, and corridors of any length."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from cad.envs.batched import BatchedEnv
from cad.envs.family import AnyFamily
from cad.envs.noise import noise_keys
from cad.envs.registry import env_config, task_family
from cad.errors import UsageError
from cad.schema import Config

LEFT_RIGHT = 0b01  # cue 0 means left, cue 1 right


def family(corridor: int = 3, n_cues: int = 2, **settings: object) -> AnyFamily:
    split = {"n_heldout": 1, "n_validation": 0}
    return task_family(
        env_config({"name": "t_maze", "corridor": corridor, "n_cues": n_cues, **split, **settings})
    )


def walk(rules: AnyFamily, cue: int, actions: list[int]) -> tuple[list[list[int]], list[float]]:
    goals = rules.goals([LEFT_RIGHT])
    states, hidden = rules.begin(goals, np.array([cue]))
    seen, rewards = [states[0].tolist()], []
    for action in actions:
        states, reward, hidden = rules.transition(goals, states, hidden, np.array([action]))
        seen.append(states[0].tolist())
        rewards.append(float(reward[0]))
    return seen, rewards


def test_the_cue_is_seen_in_the_first_cell_alone() -> None:
    seen, rewards = walk(family(), 1, [0, 0, 0, 2])
    assert seen == [[0, 1], [0, 2], [0, 2], [1, 2], [2, 2]]
    assert rewards == [0, 0, 0, 1]
    assert walk(family(), 1, [0, 0, 0, 1])[1] == [0, 0, 0, 0]
    assert walk(family(), 0, [0, 0, 0, 1])[1] == [0, 0, 0, 1]


def test_turns_in_the_corridor_and_steps_at_its_ends_do_nothing() -> None:
    slack = family(horizon=9)
    seen, rewards = walk(slack, 0, [1, 0, 2, 0, 0, 0, 0, 1, 1])
    assert seen == [[0, 0], [0, 0], [0, 2], [0, 2], [0, 2], [1, 2], [1, 2], [1, 2], [2, 2], [2, 2]]
    assert rewards == [0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert family().horizon == 4  # no step to lose
    with pytest.raises(ValidationError, match="the choice take 4"):
        family(horizon=3)


def test_ids_are_sides_as_binary_digits() -> None:
    rules = family(n_cues=3)
    assert rules.task_ids == tuple(range(8))
    assert rules.goal(0b011) == (0, 1, 1)
    assert rules.describe(0b011) == "cues mean left right right"
    assert (rules.bits_to_remember, rules.steps_between_uses) == (3, 12)


def test_signs_mean_the_same_in_every_task() -> None:
    rules = family(n_cues=3, sides="signs")
    goals = [rules.goal(task) for task in rules.task_ids]
    assert {goal[:3] for goal in goals} == {(0, 1, 0)} and len(set(goals)) == 64
    assert rules.describe(5) == "cues mean left right left, order 5"
    assert (rules.bits_to_remember, rules.steps_between_uses) == (1, 3)
    for cue, side in enumerate((0, 1, 0)):
        assert walk(rules, cue, [0, 0, 0, 1 + side])[1][-1] == 1
        assert walk(rules, cue, [0, 0, 0, 2 - side])[1][-1] == 0


def test_the_learner_knows_signs() -> None:
    rules, n = family(5, 4, sides="signs"), 50
    env = BatchedEnv(rules, np.arange(n), noise_keys("test", 0, np.zeros(n), np.arange(n)))
    learner, states = rules.new_learner(None, n, 0.0, np.random.default_rng(0)), env.reset()
    for _ in range(rules.horizon):
        states, rewards, _ = env.step(learner.act(states))
    assert set(rewards) == {1}


def test_corridors_are_drawn_episode_by_episode() -> None:
    rules = family(5, 2, shortest=3, sides="signs")
    assert (rules.n_facts, rules.spaces.field_sizes, rules.steps_between_uses) == (6, (3, 3), 4)
    for fact in range(6):
        length, cue = 5 - fact // 2, fact % 2
        seen, rewards = walk(rules, fact, [1, *[0] * length, 1 + cue, 0])
        # The cue is seen as long as the agent stays in the first cell.
        assert [cell for _, cell in seen] == [cue, cue, *[2] * (length + 2)]
        assert rewards == [*[0] * (length + 1), 1, 0]
    n = 400
    env = BatchedEnv(rules, np.arange(n) % 64, noise_keys("test", 0, np.zeros(n), np.arange(n)))
    env.reset()
    assert np.bincount(env.facts, minlength=6).min() > 40
    assert rules.remembered(env.facts) is None
    learned = family(5, 2, shortest=3)
    assert learned.remembered(np.arange(6)).tolist() == [0, 1, 0, 1, 0, 1]
    with pytest.raises(ValidationError, match="shortest=6 is above corridor=5"):
        family(5, shortest=6)
    with pytest.raises(ValidationError, match="more than 32767 kinds of episodes"):
        family(100_000, shortest=2)


def test_a_corridor_of_a_hundred_thousand_steps_shows_nothing_new() -> None:
    short, long = family(3), family(100_000)
    assert long.spaces == short.spaces
    goals = long.goals([LEFT_RIGHT])
    states, hidden = long.begin(goals, np.array([1]))
    for _ in range(2):
        states, _, hidden = long.transition(goals, states, hidden, np.array([0]))
    assert states.tolist() == [[0, 2]]
    states, _, hidden = long.transition(goals, states, hidden + 99_997, np.array([0]))
    assert states.tolist() == [[1, 2]]
    assert long.transition(goals, states, hidden, np.array([2]))[1] == [1]


def test_the_learner_needs_one_choice_a_cue() -> None:
    rules, n = family(5, 4), 200
    env = BatchedEnv(rules, np.arange(n) % 16, noise_keys("test", 0, np.zeros(n), np.arange(n)))
    learner = rules.new_learner(None, n, 0.0, np.random.default_rng(0))
    met = np.zeros((n, 4), dtype=bool)
    first, later = [], []
    for _ in range(20):
        states, again = env.reset(), met[np.arange(n), env.facts].copy()
        met[np.arange(n), env.facts] = True
        for _ in range(rules.horizon):
            after, rewards, _ = env.step(learner.act(states))
            learner.learn(states, rewards, after)
            states = after
        first += rewards[~again].tolist()
        later += rewards[again].tolist()
    assert set(later) == {1}
    assert 0.4 < np.mean(first) < 0.6


def test_ppo_is_not_shown_a_long_corridor() -> None:
    with pytest.raises(UsageError, match=r"source.kind=ppo sees which of 30006 hidden states"):
        Config().with_overrides(
            {"env": {"name": "t_maze", "corridor": 4999}, "source.steps_per_stream": 5000}, "test"
        )
