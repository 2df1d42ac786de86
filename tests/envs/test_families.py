"""What holds for every family: its optimum is reached, a batch is its single environments, sources learn."""

from __future__ import annotations

import warnings
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import cad.envs.gymnasium_env  # noqa: F401
from cad.config import LearnerConfig, NoiseDistillationConfig, SourceConfig
from cad.envs.batched import BatchedEnv
from cad.envs.config import EnvConfig
from cad.envs.family import AnyFamily
from cad.envs.noise import noise_keys
from cad.envs.registry import FAMILIES, env_config, task_family
from cad.envs.split import split_tasks
from cad.histories.audit import audit
from cad.histories.file import Provenance, task_name, write_root, write_task
from cad.histories.source import learn, learn_tasks

SPLIT = {"n_heldout": 1, "n_validation": 0}
# Small tasks of each family, by what distinguishes them.
SETTINGS: dict[str, dict[str, object]] = {
    "darkroom": {"name": "darkroom", "size": 5, "horizon": 10},
    "darkroom_permuted": {"name": "darkroom_permuted", "size": 4, "horizon": 10},
    "dark_key_to_door": {"name": "dark_key_to_door", "size": 3, "horizon": 10},
    "cued_darkroom": {"name": "cued_darkroom", "size": 5, "horizon": 10, "n_cues": 3},
    "bandit": {"name": "bandit", "horizon": 10},
    "bandit of many arms": {"name": "bandit", "n_arms": 20, "horizon": 20},
    "t_maze": {"name": "t_maze", "corridor": 4, "n_cues": 3},
    "t_maze with signs": {"name": "t_maze", "corridor": 4, "n_cues": 2, "sides": "signs"},
    "t_maze of several lengths": {"name": "t_maze", "corridor": 6, "n_cues": 2, "shortest": 3},
    "t_maze with slack": {"name": "t_maze", "corridor": 4, "n_cues": 3, "horizon": 9},
    "frozen_lake": {"name": "frozen_lake", "size": 4, "horizon": 15},
    "large frozen_lake": {"name": "frozen_lake", "size": 7, "horizon": 30},
    "random_mdp": {"name": "random_mdp", "n_states": 6, "n_actions": 3, "horizon": 12},
    "dense random_mdp": {
        "name": "random_mdp",
        "n_states": 5,
        "n_actions": 2,
        "branching": 3,
        "rewards": "dense",
        "horizon": 8,
    },
}
WITH_RULES = [name for name, family in FAMILIES.items() if family.has_rules]
NAMES = pytest.mark.parametrize("name", SETTINGS)


def rules(name: str, n_tasks: int = 4) -> AnyFamily:
    return task_family(env_config({**SETTINGS[name], **SPLIT, "n_tasks": n_tasks}))


def keys(n: int) -> np.ndarray:
    return noise_keys("test", 1, np.zeros(n, dtype=np.int64), np.arange(n))


def test_every_family_is_tested_here() -> None:
    assert {str(settings["name"]) for settings in SETTINGS.values()} == set(WITH_RULES)


@pytest.mark.parametrize("name", WITH_RULES)
def test_gymnasium_accepts_it(name: str) -> None:
    settings = {key: value for key, value in SETTINGS[name].items() if key != "name"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(FAMILIES[name].gymnasium_id, task_id=1, **settings).unwrapped)


@NAMES
def test_optimal_actions_reach_the_optimum(name: str) -> None:
    family = rules(name)
    n = 4000 if family.is_random else 40
    for task in family.task_ids:
        env = BatchedEnv(family, np.full(n, task), keys(n))
        env.reset()
        optima = np.full(n, family.optimal_return(task))
        if family.n_facts > 1:
            optima = family.episode_optimum(env.goals, env.facts)
        returns = np.zeros(n)
        for _ in range(family.horizon):
            actions = env.optimal_actions()
            assert set(actions.tolist()) <= set(range(family.spaces.n_actions))
            returns += env.step(actions)[1]
        if family.is_random:
            error = max(float(returns.std()) / n**0.5, 1e-9)
            assert abs(returns.mean() - optima[0]) < 4 * error
        else:
            assert returns.tolist() == optima.tolist()


@NAMES
def test_a_batch_is_its_single_environments(name: str) -> None:
    family, n, rng = rules(name), 6, np.random.default_rng(0)
    tasks = np.resize(family.task_ids, n)
    batch = BatchedEnv(family, tasks, keys(n))
    singles = [BatchedEnv(family, tasks[i : i + 1], keys(n)[i : i + 1]) for i in range(n)]
    sizes = np.array(family.spaces.field_sizes)
    for _ in range(3):
        seen, alone = batch.reset(), [single.reset()[0] for single in singles]
        for step in range(family.horizon):
            assert np.array_equal(seen, alone)
            assert (seen >= 0).all() and (seen < sizes).all()
            assert (batch.hidden < family.n_hidden_states).all()
            # Half of them optimal: most steps matter.
            actions = np.where(
                rng.random(n) < 0.5, batch.optimal_actions(), rng.integers(0, family.spaces.n_actions, n)
            )
            seen, rewards, done = batch.step(actions)
            steps = [single.step(actions[i : i + 1]) for i, single in enumerate(singles)]
            alone = [states[0] for states, _, _ in steps]
            assert rewards.tolist() == [reward[0] for _, reward, _ in steps]
            assert set(rewards.tolist()) <= set(range(family.spaces.n_rewards))
            assert done == (step == family.horizon - 1)


def sources() -> list[tuple[str, LearnerConfig | NoiseDistillationConfig]]:
    made: list[tuple[str, LearnerConfig | NoiseDistillationConfig]] = []
    for name, settings in SETTINGS.items():
        steps = 60 * rules(name).horizon
        shape = {"n_streams": 6, "steps_per_stream": steps}
        made.append((name, NoiseDistillationConfig(kind="noise_distillation", **shape)))
        made += [
            (name, LearnerConfig(kind="learner", learner=learner, **shape))
            for learner in FAMILIES[str(settings["name"])].scripted_learners
        ]
    return made


def collected(env: EnvConfig, source: SourceConfig, path: Path) -> None:
    """What collect() does, in this process."""
    family = task_family(env)
    with h5py.File(path, "w") as file:
        write_root(file, Provenance(env, source, split_tasks(env), {}, "test"))
        histories = learn_tasks(family, family.task_ids, source)
        for task, history in zip(family.task_ids, histories, strict=True):
            write_task(file, task, family.goal(task), family.optimal_return(task), history)


@pytest.mark.parametrize(
    ("name", "source"),
    sources(),
    ids=lambda value: value if isinstance(value, str) else getattr(value, "learner", value.kind),
)
def test_sources_improve_and_their_histories_pass_the_audit(name, source, tmp_path) -> None:
    env = env_config({**SETTINGS[name], **SPLIT, "n_tasks": 3})
    collected(env, source, tmp_path / "a.h5")
    report = audit(tmp_path / "a.h5", env=env)
    assert report.ok, report.problems
    assert report.transitions == 3 * 6 * source.steps_per_stream
    last = np.mean([row.last_return / row.optimal_return for row in report.table])
    assert last > 0.8, last
    again = audit(tmp_path / "a.h5", env=env.model_copy(update={"split_seed": 1}))
    assert not again.ok


@pytest.mark.parametrize(
    ("name", "source"),
    sources(),
    ids=lambda value: value if isinstance(value, str) else getattr(value, "learner", value.kind),
)
def test_what_a_task_s_agents_do_does_not_depend_on_the_tasks_beside_it(name, source) -> None:
    family = task_family(env_config({**SETTINGS[name], **SPLIT, "n_tasks": 3}))
    short = source.model_copy(update={"steps_per_stream": 8 * family.horizon})
    together = learn_tasks(family, family.task_ids, short)
    for task, history in zip(family.task_ids, together, strict=True):
        alone = learn(family, task, short)
        for part in ("states", "actions", "rewards", "next_states", "episode_ends"):
            np.testing.assert_array_equal(getattr(history, part), getattr(alone, part))
    assert (together[0].actions != together[1].actions).any()


@pytest.mark.parametrize(("name", "what"), [("bandit", "rewards"), ("random_mdp", "next_states")])
def test_another_chance_fails_the_audit(name: str, what: str, tmp_path) -> None:
    """What chance decided is derived again: a history with better luck is found out."""
    env = env_config({**SETTINGS[name], **SPLIT, "n_tasks": 2})
    shape = {"n_streams": 3, "steps_per_stream": 20 * env.steps_per_episode}
    collected(env, NoiseDistillationConfig(kind="noise_distillation", **shape), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        data = file[task_name(task_family(env).task_ids[1])][what]
        place = (1, 7) if what == "rewards" else (1, 7, 0)
        data[place] = (data[place] + 1) % 2
    named = {"rewards": "reward", "next_states": "next state"}[what]
    problems = audit(tmp_path / "a.h5", env=env).problems
    assert any(f"stream 1, step 7: {named} is" in problem for problem in problems), problems
