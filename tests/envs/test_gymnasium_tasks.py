"""Gymnasium environments as task families: spaces, seeds, episodes, messages; trained and evaluated."""

from __future__ import annotations

import warnings
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch

from cad.config import load
from cad.envs.check import check_family
from cad.envs.config import EnvConfig
from cad.envs.noise import noise_keys
from cad.envs.registry import env_config, task_family
from cad.envs.split import split_tasks
from cad.envs.transitions import Transitions
from cad.errors import CadError, UsageError
from cad.evaluation.rollout import RolloutResult, roll_out
from cad.histories.audit import AuditReport, TaskRow, audit, check_learning
from cad.histories.episodes import source_returns
from cad.histories.file import Provenance, open_histories, write_root, write_task
from cad.histories.plot import histories_figure
from cad.histories.sampler import read_arrays
from cad.histories.source import learn
from cad.interrupt import StopFlag
from cad.models.blocks.step_embedding import StepEmbedding
from cad.reports.data import stated_optimum
from cad.schema import Config
from cad.training.learner import build_training

SPLIT = {"n_heldout": 1, "n_validation": 0}
MAPS = [["SFFF", "FHFF", "FFFF", "FFFG"], ["SFFF", "FFFF", "HHFF", "FFFG"], ["SFHF", "FFFF", "FFFF", "FFFG"],
        ["SFFF", "HFFF", "FFFF", "FFFG"]]  # fmt: skip
LAKE = {
    "name": "gymnasium",
    "id": "FrozenLake-v1",
    "horizon": 20,
    "kwargs": {"is_slippery": False},
    "tasks": [{"kwargs": {"desc": desc}} for desc in MAPS],
    "reward_values": [0, 1],
    "reference_return": 1,
    **SPLIT,
}
POLES = {
    "name": "gymnasium",
    "id": "CartPole-v1",
    "horizon": 30,
    "tasks": [{"seed": 1}, {"seed": 2}, {}, {"options": {"low": -0.01, "high": 0.01}}],
    **SPLIT,
}


def everything(**settings: object):
    base = {"name": "gymnasium", "id": "gym_tasks:test/Everything-v0", "horizon": 6, "bins": 3, **SPLIT}
    return env_config({**base, "tasks": [{"kwargs": {"target": i}} for i in range(3)], **settings})


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


# Spaces -------------------------------------------------------------------------------------


def test_all_spaces_become_numbers_and_back() -> None:
    family = task_family(everything())
    spaces = family.spaces
    assert spaces.field_names == ("a", "b.0.0", "b.0.1", "b.2.0", "b.2.1")
    assert spaces.field_sizes == (5, 3, 4, 2, 2)
    assert spaces.real_names == ("b.1.0", "b.1.1")
    assert (spaces.n_actions, spaces.n_rewards) == (9, 0)
    assert (spaces.observation_type, spaces.action_type, spaces.reward_type) == (
        "float32",
        "uint8",
        "float32",
    )
    assert hash(family.config) == hash(everything())
    env = task_family(everything(tasks=[{}, {"kwargs": {"target": 9}}])).environments([1])
    seen = env.reset()[0]
    assert seen.dtype == np.float32
    assert seen[1:5].tolist() == [1, 3, 0, 1]
    assert 0 <= seen[0] < 5 and 0 <= seen[5] < 1 and seen[6] == -0.5
    taken = env._envs[0].unwrapped.taken
    env.advance(np.array([0]))
    env.advance(np.array([5]))
    assert [action.tolist() for action in taken[:2]] == [[-1, 0], [0, 4]]
    discrete = task_family(everything(bins=None, kwargs={"actions": "discrete"}))
    assert (discrete.spaces.n_actions, discrete.spaces.action_type) == (300, "uint16")
    assert discrete.codec.table[299] == 292
    multi = task_family(everything(bins=None, kwargs={"actions": "multi"}))
    assert [multi.codec.table[i].tolist() for i in (0, 2, 3, 5)] == [[0, 0], [0, 2], [1, 0], [1, 2]]


def test_episodes_end_where_the_environment_says_and_at_the_horizon() -> None:
    env = task_family(everything(horizon=4)).environments([0, 1, 2])
    cells = env.reset()[:, 0].astype(int)
    lengths = np.zeros(3, dtype=int)
    for _ in range(30):
        outcome = env.advance(np.zeros(3, dtype=np.int64))
        lengths += 1
        cells = (cells + 1) % 5
        assert outcome.after[:, 0].tolist() == cells.tolist()
        assert outcome.rewards.tolist() == (cells * 0.25).tolist()
        assert outcome.terminated.tolist() == (cells == [0, 1, 2]).tolist()
        assert outcome.truncated.tolist() == ((lengths == 4) & (cells != [0, 1, 2])).tolist()
        ended = outcome.terminated | outcome.truncated
        assert (outcome.observed[~ended] == outcome.after[~ended]).all()
        lengths[ended], cells = 0, outcome.observed[:, 0].astype(int)


@pytest.mark.parametrize("settings", [LAKE, POLES], ids=["lake", "poles"])
def test_a_batch_is_its_single_environments_and_gymnasiums_own(settings: dict) -> None:
    family = task_family(env_config(settings))
    tasks = np.array([0, 1, 2, 3, 2])
    keys = noise_keys("test", 0, tasks, np.arange(5))
    rng, together = np.random.default_rng(0), family.environments(tasks, keys)
    alone = [family.environments(tasks[i : i + 1], keys[i : i + 1]) for i in range(5)]
    seen, singles = together.reset(), [env.reset() for env in alone]
    first = seen.copy()
    for _ in range(50):
        assert np.array_equal(seen, np.concatenate(singles))
        actions = rng.integers(0, family.spaces.n_actions, 5)
        outcome = together.advance(actions)
        others = [env.advance(actions[i : i + 1]) for i, env in enumerate(alone)]
        assert outcome.terminated.tolist() == [bool(other.terminated[0]) for other in others]
        assert outcome.rewards.tolist() == [float(other.rewards[0]) for other in others]
        seen, singles = outcome.observed, [other.observed for other in others]
    if settings is POLES:
        theirs = gym.make("CartPole-v1").reset(seed=1)[0]
        assert first[0].tolist() == theirs.tolist()
        assert not np.array_equal(first[2], first[4])  # one task, other chance
        assert np.abs(first[3]).max() <= 0.01


# Learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [LAKE, POLES], ids=["lake", "poles"])
def test_it_is_collected_audited_trained_and_rolled_out(settings: dict, tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "env": settings,
            "source": {"n_streams": 6, "steps_per_stream": 180, "n_steps": 20, "batch_size": 60,
                       "n_epochs": 2},
            "model": {"kind": "compressed_ad", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_transit": 8,
                      "max_compression_depth": 1, "n_latent": 2, "encoder_n_layer": 1},
            "train": {"n_updates": 4, "batch_size": 4, "log_every": 1, "checkpoint_every": 4,
                      "validate_every": 0, "num_warmup_steps": 0, "watchdog_share": None},
        }
    )  # fmt: skip
    family, split, path = task_family(config.env), split_tasks(config.env), tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        write_root(file, Provenance(config.env, config.source, split, {}, "test"))
        for task in family.task_ids:
            history = learn(family, task, config.source)
            write_task(file, task, family.goal(task), family.optimal_return(task), history)
    report = audit(path, env=config.env)
    assert [problem for problem in report.problems if "did not learn" not in problem] == []
    assert "no rules to derive transitions from" in report.warnings[0]
    with open_histories(path) as histories:
        assert histories.provenance.env == config.env
        arrays = read_arrays(histories, family, split.train)
    learner = build_training(config, arrays)
    learner.fit(tmp_path / "run", run_id="gym", device=torch.device("cpu"), stop=StopFlag())
    model = learner.model.eval()
    (embed,) = [module for module in model.modules() if isinstance(module, StepEmbedding)]
    if settings is POLES:
        floats = arrays.observations.reshape(-1, 4)
        assert embed.real_mean.numpy() == pytest.approx(floats.mean(axis=0), abs=1e-5)
        assert embed.real_deviation.numpy() == pytest.approx(floats.std(axis=0), rel=1e-4)
        assert "embed.real_mean" in model.state_dict()
    together = roll_out(model, family, [0, 1, 3], n_rollouts=2, n_episodes=4, seed=0)
    alone = roll_out(model, family, [1], n_rollouts=1, n_episodes=4, seed=0)
    assert alone.lengths[0, 0].tolist() == together.lengths[1, 0].tolist()
    assert alone.returns[0, 0].tolist() == together.returns[1, 0].tolist()
    if settings is POLES:  # a reward a step; nothing is known to divide it by
        assert together.returns.tolist() == together.lengths.tolist()
        assert together.shares(family).tolist() == together.returns.tolist()
    for name, value, words in (
        ("rewards", np.nan, "reward"), ("states", 99, "state"), ("actions", 99, "action is 99"),
        ("terminations", 1, "terminations"),
    ):  # fmt: skip
        with h5py.File(path, "r+") as file:
            data = file["task_00001"][name]
            place = (2, int(np.flatnonzero(file["task_00001/episode_ends"][2] == 0)[5]))
            before = data[place]
            if data.dtype.kind == "u" and name == "rewards":
                continue
            data[place] = value
        assert any(words in problem for problem in audit(path, env=config.env).problems), name
        with h5py.File(path, "r+") as file:
            file["task_00001"][name][place] = before


def test_the_source_agents_returns_are_those_of_the_rewards_that_were_given(tmp_path: Path) -> None:
    """Not of the numbers 0, 1, ... that models take of ``reward_values``."""
    env = env_config({**LAKE, "reward_values": [-0.5, 4.0], "n_validation": 1})
    config, family = Config(env=env), task_family(env)
    rewards = np.array([[-0.5, 4.0, -0.5, -0.5, 4.0], [4.0, 4.0, 4.0, -0.5, -0.5]], dtype=np.float32)
    ends = np.array([[0, 1, 0, 1, 0], [1, 0, 1, 0, 1]], dtype=np.uint8)
    none = np.zeros((2, 5), dtype=np.uint8)
    history = Transitions(none[..., None], none, rewards, none[..., None], ends, none)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        write_root(file, Provenance(env, config.source, split_tasks(env), {}, "test"))
        write_task(file, 2, family.goal(2), family.optimal_return(2), history)
    with open_histories(path) as histories:
        returns = source_returns(histories, family, [2])
    assert returns.tolist() == [[[3.5, -1.0], [4.0, 8.0]]]


def test_scores_lie_between_what_is_stated() -> None:
    settings = {**POLES, "reference_return": 30, "random_return": 10}
    family = task_family(env_config(settings))
    assert "30, both counted from a random_return of 10" in family.score_in_words
    result = RolloutResult(
        (0,), np.array([[[10.0, 20.0, 30.0]]], dtype=np.float32), np.zeros((1, 1), dtype=np.int64), 30, 1, 1.0
    )
    assert result.shares(family).tolist() == [[[0, 0.5, 1]]]
    assert "shown as they are" in task_family(env_config(POLES)).score_in_words


def written(path: Path, env: EnvConfig, rewards: list[list[float]]) -> Path:
    """Histories of task 2 in which every step ends an episode."""
    config, family = Config(env=env), task_family(env)
    steps = np.zeros((len(rewards), len(rewards[0])), dtype=np.uint8)
    seen = np.zeros((*steps.shape, family.spaces.n_fields), dtype=np.uint8)
    history = Transitions(seen, steps, np.array(rewards, dtype=np.float32), seen, steps + 1, steps)
    with h5py.File(path, "w") as file:
        write_root(file, Provenance(env, config.source, split_tasks(env), {}, "test"))
        write_task(file, 2, family.goal(2), family.optimal_return(2), history)
    return path


def test_what_was_learned_is_counted_from_the_random_return() -> None:
    # 0.40 to 0.42 of the reference alone; nothing to speak of between the two.
    family = task_family(
        env_config({**LAKE, "reward_values": None, "reference_return": 30, "random_return": 12})
    )
    report, found = AuditReport(Path("a.h5")), []
    report.table.append(TaskRow(2, "a lake", "train", 30, first_return=12, last_return=12.6))
    check_learning(report, family, found)
    assert found == [
        "the source agents did not learn: mean return 0.03 of a stated reference_return of 30, both counted "
        "from a random_return of 12 in the last episode, 0.00 in the first; collect with more steps or other "
        "source settings"
    ]
    assert report.warnings == [
        "task 2 (a lake): the last episode returns 12.60 of 30; its source agent learned little"
    ]


@pytest.mark.parametrize(
    ("reference", "label", "low", "high"),
    [(None, "return", -3, 5), (4.0, "return / reference return", -0.75, 1.25)],
)
def test_histories_are_plotted_as_reports_give_them(
    tmp_path: Path, reference: float | None, label: str, low: float, high: float
) -> None:
    env = env_config({**LAKE, "n_validation": 1, "reward_values": None, "reference_return": reference})
    figure = histories_figure(written(tmp_path / "a.h5", env, [[-3.0, 1.0, 5.0]]))
    single, scores = figure.axes
    assert scores.get_ylabel() == label
    for axes, (least, most) in ((single, (-3, 5)), (scores, (low, high))):
        bottom, top = axes.get_ylim()
        assert bottom <= least and top >= most
    assert [text.get_text() for text in scores.get_legend().get_texts()][2:] == ["reference return"] * (
        label != "return"
    )


# Messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "{id: X-v0, horizon: 5, tasks: [{seed: 1}, {seed: 2}, {seed: 1}]}",
            "tasks 0 and 2 are the same (seed 1)",
        ),
        (
            "{id: X-v0, horizon: 5, kwargs: {a: 1}, tasks: [{seed: 1}, {kwargs: {a: 1}, seed: 1}]}",
            "tasks 0 and 1 are the same (a=1, seed 1)",
        ),
        (
            "{id: X-v0, tasks: [{seed: 1}, {seed: 2}]}",
            "env.horizon: missing; it takes a whole number above 0",
        ),
        (
            "{id: X-v0, horizon: 5, bins: 1, tasks: [{}, {seed: 2}]}",
            "env.bins: expected a whole number at least 2",
        ),
        ("{id: X-v0, horizon: 5, tasks: [{sed: 1}, {}]}", "env.tasks[0].sed: unknown key; did you mean"),
        (
            "{id: X-v0, horizon: 5, tasks: [{}, {seed: 1}], random_return: 3}",
            "random_return needs reference_return",
        ),
        (
            "{id: X-v0, horizon: 5, tasks: [{}, {seed: 1}], random_return: 3, reference_return: 2}",
            "reference_return=2 is not above random_return=3",
        ),
        ("{id: X-v0, horizon: 5, tasks: [{}, {seed: 1}], reward_values: [1, 1]}", "lists a value twice"),
    ],
)
def test_settings_that_are_wrong_are_named_with_file_and_key(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"env: {{name: gymnasium, n_heldout: 1, n_validation: 0, {text[1:]}\n")
    with pytest.raises(UsageError) as caught:
        load(Config, [tmp_path / "a.yaml"], [])
    assert words in str(caught.value)
    assert str(tmp_path / "a.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"id": "Nowhere-v3"}, "env.id=Nowhere-v3: gymnasium.make fails for task 0 (target=0): NameNotFound"),
        ({"id": "no_module:X-v0"}, "ModuleNotFoundError: No module named 'no_module'"),
        ({"kwargs": {"colour": 1}}, "got an unexpected keyword argument 'colour'"),
        ({"bins": None}, "set env.bins, the number of values of each dimension"),
        ({"kwargs": {"actions": "multi"}}, "env.bins=3: the action space MultiDiscrete([2 3])"),
        ({"kwargs": {"actions": "text"}, "bins": None}, "the action space Text(1, 3"),
        ({"kwargs": {"actions": "unbounded"}}, "has no finite bounds to bin"),
        ({"kwargs": {"fault": "text"}}, "the observation space Text(1, 4"),
        (
            {"kwargs": {"actions": "whole"}, "bins": 5},
            "has fewer values between its bounds; use fewer env.bins",
        ),
        ({"bins": 300}, "300 x 300 combinations are 90000 actions, more than 65536"),
    ],
)
def test_environments_that_cannot_be_used_are_named(settings: dict, words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UsageError) as caught:
            task_family(everything(**settings)).spaces  # noqa: B018
    assert str(caught.value).startswith("env.")
    assert words in str(caught.value)


def test_what_only_shows_in_a_step_is_named() -> None:
    def play(**settings: object) -> None:
        family = task_family(everything(**settings))
        env = family.environments([2])
        env.reset()
        for _ in range(4):
            family.spaces.reward_codes(env.advance(np.array([0])).rewards)

    with pytest.raises(CadError, match=r"task 2 observes b\.1\.1=nan after step 2 of an episode"):
        play(kwargs={"fault": "nan"})
    with pytest.raises(CadError, match="task 2 gives a reward of inf"):
        play(kwargs={"fault": "infinite"})
    with pytest.raises(
        CadError, match=r"a reward is 0\.\d+, which is none of env\.reward_values=\[0\.0, 1\.0\]"
    ):
        play(reward_values=[0, 1])
    with pytest.raises(UsageError, match=r"env\.tasks\[2\]: its observation space is Discrete\(5\)"):
        task_family(everything(kwargs={"fault": "wide"})).environments([0, 2])
    with pytest.raises(UsageError, match="optimal policy of CartPole-v1 is unknown"):
        task_family(env_config(POLES)).environments([0]).optimal_actions()


@pytest.mark.parametrize("more", [{}, {"reference_return": 30}])
def test_nothing_can_be_demonstrated(more: dict[str, object]) -> None:
    shown = {
        "env": {**POLES, **more},
        "train": {"validate_every": 0},
        "evaluation": {"demonstrated_episodes": 2},
    }
    with pytest.raises(
        ValueError,
        match=r"evaluation\.demonstrated_episodes=2 takes the optimal actions, and those of "
        r"env\.name=gymnasium are not known",
    ):
        Config.model_validate(shown)


def test_bins_of_whole_numbers_and_of_a_value_that_is_fixed() -> None:
    codec = task_family(everything(kwargs={"actions": "whole"}, bins=3)).codec
    assert [action.tolist() for action in codec.table] == [[0, 7], [2, 7], [3, 7]]


def odd(fault: str, **settings: object):
    base = {"name": "gymnasium", "id": "gym_tasks:test/Odd-v0", "horizon": 6, "kwargs": {"fault": fault}}
    return env_config({**base, "tasks": [{"kwargs": {"task": i}} for i in range(3)], **SPLIT, **settings})


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("above", "observes state=7 after step 3 of an episode, which is not a whole number in 0..3"),
        ("below", "observes state=-1 after step 3 of an episode, which is not a whole number in 0..3"),
        ("between", "observes state=0.5 at the start of an episode, which is not a whole number in 0..3"),
        ("huge", "observes x.1=1e+300 after step 3 of an episode, which is not a finite number of 32 bits"),
        ("wide", "observes [0, 1], which is not in its observation space Discrete(4) (2 numbers"),
        ("text", "observes here, which is not in its observation space Discrete(4)"),
        ("reset", ": reset() gives 0, which is not (observation, info)"),
        ("step", ": step() gives (0, 0.0, False, {}), which is not (observation, reward, terminated"),
        ("reward", ": step() gives (0, [0.0], False, False, {}), which is not (observation, reward"),
        ("reset raises", "raises ValueError at the start of an episode: not today (gym_tasks.py, line "),
        ("raises", "raises RuntimeError in step 3 of an episode: broken (gym_tasks.py, line "),
        ("exits", "raises SystemExit in step 1 of an episode: 3 (gym_tasks.py, line "),
    ],
)
def test_an_environment_that_breaks_its_promises_is_named(fault: str, words: str) -> None:
    env = task_family(odd(fault)).environments([0, 2])
    with pytest.raises(CadError) as caught:
        for _ in range(4):
            env.reset()
            for _ in range(4):
                env.advance(np.zeros(2, dtype=np.int64))
    assert str(caught.value).startswith("env.id=gym_tasks:test/Odd-v0: task 0")
    assert words in str(caught.value)


def test_bounds_may_differ_from_task_to_task_of_what_is_observed_not_of_actions() -> None:
    """Bins lie between the bounds: one action would mean different things."""
    tasks = [{"kwargs": {"bound": 1.0}}, {"kwargs": {"bound": 2.0}}]
    seen = task_family(odd("bounds", tasks=tasks)).environments([0, 1])
    assert seen.reset().tolist() == [[0.0], [0.0]]
    family = task_family(odd("actions", tasks=tasks, bins=3))
    with pytest.raises(UsageError, match=r"env\.tasks\[1\]: its action space is Box\(-2"):
        family.environments([0, 1])


@pytest.mark.parametrize("settings", [LAKE, POLES, {}], ids=["lake", "poles", "everything"])
def test_doctor_checks_it(settings: dict) -> None:
    findings = list(check_family(env_config(settings) if settings else everything()))
    assert [f for f in findings if not f.kept] == []
    if settings is POLES:
        assert (
            findings[0].words
            == "x.0, x.1, x.2, x.3; 2 actions, rewards of any size, at most 30 steps an episode"
        )
    assert findings[-1].words.startswith("unknown; reports divide returns by ")
    faulty = {f.promise: f for f in check_family(everything(kwargs={"fault": "nan"}))}
    assert "observes b.1.1=nan after step 2" in faulty["steps"].words


def test_reports_say_what_returns_are_divided_by() -> None:
    def words(settings: dict) -> str | None:
        return stated_optimum(Config.model_validate({"env": {**settings, "n_validation": 1}}))

    assert words({"name": "darkroom"}) is None
    assert "returns are divided by a stated reference_return of 1." in str(words(LAKE))
    assert "The optimum is not known: returns are divided by 1, that is, shown as they are" in str(
        words(POLES)
    )
