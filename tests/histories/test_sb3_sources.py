"""Algorithms of stable-baselines3 by their names as source agents."""

from __future__ import annotations

import numpy as np
import pytest

from cad.config import SB3Config
from cad.envs.registry import env_config, task_family
from cad.errors import UsageError
from cad.histories.audit import audit
from cad.histories.collect import collect
from cad.histories.episodes import whole_episodes
from cad.histories.file import open_histories
from cad.histories.source import learn
from cad.schema import Config

ENV = env_config({"size": 3, "horizon": 6, "n_tasks": 2, "n_heldout": 1, "n_validation": 0})
ARGUMENTS = {
    "A2C": {"learning_rate": 0.01, "gamma": 0.8, "n_steps": 5},
    "DQN": {"learning_rate": 0.01, "gamma": 0.8, "learning_starts": 50, "train_freq": 1, "gradient_steps": 2,
            "target_update_interval": 100, "exploration_fraction": 0.5, "buffer_size": 5000},
}  # fmt: skip


def source(algorithm: str, **more: object) -> SB3Config:
    arguments = {**ARGUMENTS[algorithm], **more}
    return SB3Config(kind="sb3", algorithm=algorithm, n_streams=10, steps_per_stream=180, arguments=arguments)


@pytest.mark.parametrize("algorithm", ARGUMENTS)
def test_it_learns_and_the_same_seed_gives_the_same(algorithm):
    family = task_family(ENV)
    task = family.task_ids[0]
    history = learn(family, task, source(algorithm))
    assert history.actions.shape == (10, 180)
    returns = whole_episodes(history.rewards, history.episode_ends).mean(axis=0) / family.optimal_return(task)
    assert returns[-5:].mean() > returns[:5].mean() + 0.3
    short = source(algorithm).model_copy(update={"steps_per_stream": 30})
    one, again, other = (learn(family, task, short.model_copy(update={"seed": seed})) for seed in (0, 0, 1))
    assert all(np.array_equal(getattr(one, name), getattr(again, name)) for name in ("states", "actions"))
    assert not np.array_equal(one.actions, other.actions)


def test_its_histories_are_collected_and_replayed(tmp_path):
    collect(ENV, source("A2C"), tmp_path / "a.h5", workers=1)
    report = audit(tmp_path / "a.h5")
    assert report.ok and report.transitions == 2 * 10 * 180 and not report.warnings, report
    with open_histories(tmp_path / "a.h5") as file:
        assert file.provenance.source == source("A2C")


def test_what_is_wrong_is_said():
    family = task_family(ENV)
    with pytest.raises(UsageError, match=r"source.arguments: A2C refuses them: .*unexpected keyword.*'x'"):
        learn(family, family.task_ids[0], source("A2C", x=1))
    with pytest.raises(UsageError, match=r"source.algorithm=A3C: stable-baselines3 has no such algorithm"):
        learn(family, family.task_ids[0], source("A2C").model_copy(update={"algorithm": "A3C"}))
    base = {"kind": "sb3", "algorithm": "SAC"}
    for settings, message in (
        (base, "source.algorithm=SAC takes continuous actions"),
        ({"kind": "sb3"}, "algorithm"),
        (
            {"kind": "sb3", "algorithm": "A2C", "arguments": {"seed": 1}},
            "source.arguments: seed cannot be set",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Config.model_validate({"source": settings})
