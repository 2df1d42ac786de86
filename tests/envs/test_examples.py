"""The experiments in examples/ on Gymnasium's environments: what their comments say holds, and they run."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.evaluation.results import load_results
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.run.local_run import run_cell
from cad.schema import Config

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("frozen_lake_maps", "poles", "popgym_bandit")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))


def crossing(desc: list[str]) -> int:
    """Steps from S to G, by breadth-first search."""
    waiting, seen = deque([((0, 0), 0)]), {(0, 0)}
    while waiting:
        (row, column), steps = waiting.popleft()
        if desc[row][column] == "G":
            return steps
        for place in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            on_map = min(place) >= 0 and max(place) < len(desc)
            if on_map and place not in seen and desc[place[0]][place[1]] != "H":
                seen.add(place)
                waiting.append((place, steps + 1))
    return -1


def test_all_maps_can_be_crossed_and_the_held_out_ones_are_unseen():
    config = open_experiment(EXAMPLES / "frozen_lake_maps.yaml", [], Path("runs")).cells[0].config
    maps = [tuple(task.kwargs["desc"]) for task in config.env.tasks]
    assert len(maps) == 48 and {crossing(list(each)) for each in maps} == {6}
    assert min(sum(row.count("H") for row in each) for each in maps) >= 3
    split = split_tasks(config.env)
    assert len(split.heldout) == 8 and not {maps[i] for i in split.heldout} & {maps[i] for i in split.train}


def test_poles_differ_in_what_they_say():
    config = open_experiment(EXAMPLES / "poles.yaml", [], Path("runs")).cells[0].config
    family = task_family(config.env)
    assert len(family.task_ids) == 24 and family.spaces.n_actions == 2 and family.spaces.n_reals == 4
    one, swapped = family.make(0).unwrapped, family.make(1).unwrapped
    for env, sign in ((one, 1), (swapped, -1)):
        env.reset(seed=0)
        speed = env.step(1)[0][1]
        assert np.sign(speed) == sign
        assert (env.length, env.masspole, env.polemass_length) == (0.25, 0.1, pytest.approx(0.025))
    assert family.make(23).unwrapped.total_mass == pytest.approx(1.4)


def test_the_template_family_has_an_experiment_of_its_own():
    config = open_experiment(EXAMPLES / "ring.yaml", [], Path("runs")).cells[0].config
    family, split = task_family(config.env), split_tasks(config.env)
    assert len(family.task_ids) == 24 and (len(split.train), len(split.heldout)) == (16, 5)
    assert max(family.horizon + 1 - family.optimal_return(task) for task in family.task_ids) == 12


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_with_a_small_budget(name, tmp_path):
    if name.startswith("popgym"):
        pytest.importorskip("popgym", reason="pip install popgym (`make test` does)")
    settings = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    base = settings["base"]
    base["env"] |= {"tasks": base["env"]["tasks"][:4], "n_heldout": 1, "n_validation": 1}
    base["source"] |= {"n_streams": 4, "steps_per_stream": 240, "batch_size": 80, "n_steps": 40}
    base["train"] |= {"n_updates": 4, "log_every": 2, "checkpoint_every": 2, "validate_every": 4,
                      "validation_episodes": 2, "validation_rollouts": 1, "num_warmup_steps": 1,
                      "watchdog_share": None}  # fmt: skip
    base["evaluation"] = {"n_episodes": 3, "n_rollouts": 2}
    config = Config.model_validate(base).with_overrides(settings["arms"][1]["set"], name)
    done = run_cell(Cell("", "", config), "evaluate", tmp_path, 1, "cpu", Console(quiet=True))
    assert load_results(done / "returns.h5").returns.shape == (1, 2, 3)
