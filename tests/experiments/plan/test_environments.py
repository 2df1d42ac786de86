"""Whether environments can be made is tried before anything runs, and once for what is alike."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from cad.envs.families.gymnasium_tasks import GymnasiumTasks
from cad.envs.registry import FAMILIES
from cad.errors import UsageError
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.environments import require_environments
from cad.experiments.plan.stage import Stage
from cad.schema import Config


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "envs"))


def stages(**settings: object) -> tuple[Stage, ...]:
    env = {"name": "gymnasium", "id": "gym_tasks:test/Everything-v0", "horizon": 5, "bins": 3, "n_heldout": 1,
           "n_validation": 0, "tasks": [{"kwargs": {"target": i}} for i in range(4)]}  # fmt: skip
    data = {"env": env | settings, "train": {"validate_every": 0}, "evaluation": {"env": {"horizon": 9}}}
    return Cell("", "", Config.model_validate(data)).stages


def test_one_task_stands_for_those_with_the_same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = GymnasiumTasks.make
    monkeypatch.setattr(GymnasiumTasks, "make", lambda self, task: (made.append(task), make(self, task))[1])
    require_environments(stages())
    assert set(made) == {0}
    made.clear()
    tasks = [{}, {"kwargs": {"target": 1}}, {"kwargs": {"target": 2}}, {"options": {"a": 1}}, {"seed": 3}]
    require_environments(stages(tasks=tasks))
    assert set(made) == {0, 1, 3}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kwargs": {"fault": "text"}}, "the observation space Text"),
        ({"kwargs": {"actions": "text"}, "bins": None}, "the action space Text"),
        ({"bins": None}, "set env.bins"),
        ({"kwargs": {"fault": "reset"}}, "raises KeyError at the start of an episode: no map"),
    ],
)
def test_what_cannot_be_used_is_one_message(settings: dict, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_environments(stages(**settings), "a.yaml")
    assert str(caught.value).startswith("a.yaml: env.")
    assert words in str(caught.value)


def test_a_family_of_others_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "examples"))
    wanted = Cell("", "", Config.model_validate({"env": {"name": "ring:Ring"}})).stages
    monkeypatch.setattr(FAMILIES["ring:Ring"], "goal", lambda _self, _task: 1 // 0)
    with pytest.raises(
        UsageError, match=r"env\.name=ring:Ring: .* ZeroDivisionError.*'cad doctor FILE\.yaml'"
    ):
        require_environments(wanted)
    FAMILIES._loaded.pop("ring:Ring", None)
    sys.modules.pop("ring", None)


def test_a_package_that_only_the_image_has_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        require_environments(stages(id="no_module:X-v0"), "a.yaml", elsewhere=True)
    assert "No module named 'no_module'" in caplog.text and "image" in caplog.text
    with pytest.raises(UsageError, match="no_module"):
        require_environments(stages(id="no_module:X-v0"), "a.yaml")
    with pytest.raises(UsageError, match="doesn't exist"):
        require_environments(stages(id="Nowhere-v3"), "a.yaml", elsewhere=True)


def test_corridors_of_roll_outs_may_be_longer_than_the_horizon_of_histories() -> None:
    env = {"name": "t_maze", "corridor": 5, "n_heldout": 3}
    source = {"kind": "learner", "steps_per_stream": 300}
    config = {"env": env, "source": source, "evaluation": {"env": {"corridor": 20}}}
    require_environments(Cell("", "", Config.model_validate(config)).stages)
