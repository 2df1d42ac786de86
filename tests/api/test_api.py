"""The names of ``import cad``: their examples run, stepping by hand is what `cad evaluate` does."""

from __future__ import annotations

import doctest
import importlib
import runpy
import shutil
import subprocess
import sys
from multiprocessing import spawn
from pathlib import Path

import numpy as np
import pytest

import cad
from cad.errors import CadError, UsageError
from cad.evaluation.actions_file import load_actions
from cad.evaluation.results import load_results
from cad.experiments.run.trained_model import evaluate
from cad.interrupt import StopFlag
from cad.models.registry import MODELS
from cad.process import without_main

ROOT = Path(__file__).parents[2]
OURS = [name for name in cad.__all__ if getattr(cad, name).__module__.startswith("cad.api")]


def test_import_cad_imports_nothing_heavy():
    code = (
        "import sys, cad; cad.__version__; dir(cad); print({'torch', 'numpy', 'cad.api'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'"):
        cad.nothing  # noqa: B018


def test_the_lazy_names_are_those_of_the_interface():
    assert cad.__all__ == importlib.import_module("cad.api").__all__
    assert set(cad.__all__) <= set(dir(cad))
    listed = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    assert all(f"`cad.{name}" in listed for name in cad.__all__)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", OURS)
def test_examples_of_the_docstrings_hold(name):
    item = getattr(cad, name)
    finder = doctest.DocTestFinder(recurse=False)
    tests = finder.find(item, name, globs={"cad": cad, "np": np})
    assert sum(len(test.examples) for test in tests) > 0
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def by_hand(agent: cad.Agent, tasks, n_episodes: int):
    """Actions (B, steps), returns (B, episodes), compressions (B,) of stepping through whole episodes."""
    env = agent.environments(tasks)
    agent.reset(tasks=env.task_ids)
    action = agent.act(env.reset())
    actions, returns = [], np.zeros((len(env), n_episodes))
    rows = np.arange(len(env))
    while True:
        actions.append(action)
        after = env.advance(action)
        # As an evaluation counts them: those that are done wait.
        playing = agent.episodes < n_episodes
        returns[rows[playing], agent.episodes[playing]] += after.rewards[playing]
        compressions = agent.memory.compressions
        if (agent.episodes + (after.terminated | after.truncated) >= n_episodes).all():
            return np.stack(actions, axis=1), returns, compressions
        action = agent.act(after.observed, after.rewards, after.terminated, after.truncated)


def test_stepping_by_hand_is_what_evaluate_does(ran):
    results = cad.load_results(ran / "small.yaml", root=ran / "runs")
    for cell in results.cells:
        agent = cad.load_agent(cell.training)
        settings = cell.config.evaluation
        tasks = np.repeat(cell.task_ids, settings.n_rollouts)
        actions, returns, compressions = by_hand(agent, tasks, settings.n_episodes)
        assert np.array_equal(returns.reshape(cell.returns.shape), cell.returns)
        assert np.array_equal(compressions.reshape(cell.compressions.shape), cell.compressions)
        stage = next(
            path
            for path in (ran / "runs/stages").glob("evaluate-*")
            if np.array_equal(load_results(path / "returns.h5").returns, cell.returns)
        )
        stored = load_actions(stage / "actions.h5", cell.task_ids)
        assert np.array_equal(actions, stored.reshape(actions.shape))
    latents = agent.memory.latents
    assert latents.shape == (6, 2, 16) and np.isfinite(latents).all() and agent.memory.state_bytes > 0
    latents[:] = 0  # a copy
    assert agent.memory.latents.any()


def test_episodes_that_end_early_are_stepped_as_evaluate_does(tiny_config, loud_model):
    """Frozen lakes of this package's Gymnasium adapter: falls end episodes at different steps."""
    tasks = [
        {"kwargs": {"desc": ["SFFF", "FHFF", "FFFF", "FFFG"]}},
        {"kwargs": {"desc": ["SFHF", "FFFF", "FFFF", "FFFG"]}},
        {"kwargs": {"desc": ["SFFF", "FFHF", "FFFF", "FFFG"]}},
    ]
    env = {"name": "gymnasium", "id": "FrozenLake-v1", "horizon": 12, "tasks": tasks,
           "reward_values": [0, 1], "reference_return": 1, "n_heldout": 2, "n_validation": 0}  # fmt: skip
    config = tiny_config().model_dump(mode="json")
    config = cad.Config.model_validate(
        config
        | {"env": env, "source": {"n_streams": 4, "steps_per_stream": 60, "n_steps": 10, "batch_size": 20}}
    )
    config = config.with_overrides({"evaluation.n_episodes": 5, "evaluation.n_rollouts": 3}, "here")
    model = loud_model(config)
    expected = evaluate(model, config, StopFlag())
    assert len(np.unique(expected.lengths)) > 1
    tasks = np.repeat(expected.task_ids, 3)
    _, returns, _ = by_hand(cad.Agent(model, config), tasks, 5)
    assert np.array_equal(returns.reshape(expected.returns.shape), expected.returns)
    # In the environment of the evaluation, where that is another one.
    changed = config.with_overrides({"evaluation.env": {"horizon": 5}}, "here")
    expected = evaluate(model, changed, StopFlag())
    agent = cad.Agent(model, changed)
    actions, returns, _ = by_hand(agent, tasks, 5)
    assert agent.family.horizon == 5 and actions.shape[1] <= 25
    assert np.array_equal(returns.reshape(expected.returns.shape), expected.returns)


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_can_be_stepped(kind, tiny_config, loud_model):
    config = tiny_config(kind, evaluation={"n_episodes": 6, "n_rollouts": 2, "first_temperature": 2.0})
    model = loud_model(config)
    expected = evaluate(model, config, StopFlag())
    agent = cad.Agent(model, config)
    _, returns, compressions = by_hand(agent, np.repeat(expected.task_ids, 2), 6)
    assert np.array_equal(returns.reshape(expected.returns.shape), expected.returns)
    assert np.array_equal(compressions.reshape(expected.compressions.shape), expected.compressions)
    latents, n = agent.memory.latents, len(returns)
    assert (latents is None) == (kind in ("ad", "region_ad")) and (latents is None or len(latents) == n)
    assert agent.memory.state_bytes == expected.state_bytes


def test_a_script_that_runs_experiments_is_not_imported_by_their_processes(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/a/script.py", raising=False)
    assert spawn.get_preparation_data("a")["init_main_from_path"] == "/a/script.py"
    with without_main():
        assert not {"init_main_from_path", "init_main_from_name"} & set(spawn.get_preparation_data("a"))
    assert sys.modules["__main__"].__file__ == "/a/script.py"


def test_what_is_wrong_with_a_step_is_said(ran):
    agent = cad.load_agent(ran / "model.safetensors")
    with pytest.raises(UsageError, match=r"call agent.reset\(batch\)"):
        agent.act([[0, 0]])
    agent.reset(2)
    for arguments, message in (
        (([0, 0],), r"observation has shape \(2,\); it has to be \(2, 2\)"),
        (([[0, 5], [0, 0]],), "observation is not in row 0..4, column 0..4"),
        (([[0, np.nan], [0, 0]],), "no finite numbers"),
        (([[0, 0], [0, 0]], [0, 0]), "the first act after reset has no reward"),
    ):
        with pytest.raises(CadError, match=message):
            agent.act(*arguments)
    agent.act([[0, 0], [0, 0]])
    with pytest.raises(UsageError, match=r"reward is missing"):
        agent.act([[0, 0], [0, 0]])
    with pytest.raises(CadError, match=r"reward is 7; it is a whole number in 0..1"):
        agent.act([[0, 0], [0, 0]], [0, 7])
    with pytest.raises(UsageError, match=r"tasks=.99"):
        agent.environments([99])
    with pytest.raises(UsageError, match=r"evaluation.temprature"):
        cad.load_agent(ran / "model.safetensors", temprature=1)
    with pytest.raises(CadError, match=r"is missing"):
        cad.load_agent(ran / "none.safetensors")


NO_PATH = "give a path, as text or as a pathlib.Path"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"workers": wrong}, f"--workers {wrong!r}: give a whole number from 1")
            for wrong in (0, -3, 1.5, "2", True)
        ),
        *(
            ({"pack": wrong}, f"--pack {wrong}: give a number from 1, or auto: as many as memory holds")
            for wrong in ("x", None, 0, -1, 1.5, True)
        ),
        *(({"root": wrong}, f"root={wrong!r}: {NO_PATH}") for wrong in (5, None, ["runs"])),
        *(({"experiment": wrong}, f"experiment={wrong!r}: {NO_PATH}") for wrong in (5, ["small.yaml"])),
        *(
            ({"overrides": [wrong]}, f"override {wrong!r}: expected KEY=VALUE as text, such as 'seed=1'")
            for wrong in (["seeds=[0]"], None, 3)
        ),
        ({"device": 3}, "--device 3: choose cpu, cuda, cuda:N (a number) or auto"),
        ({"device": None}, "--device None: choose cpu, cuda, cuda:N (a number) or auto"),
    ],
)
def test_what_is_wrong_with_a_run_is_said_before_it_begins(settings, message, tmp_path):
    experiment = settings.pop("experiment", ROOT / "examples/small.yaml")
    overrides = settings.pop("overrides", ())
    with pytest.raises(UsageError) as caught:
        cad.run(experiment, *overrides, **{"root": tmp_path, "progress": False, **settings})
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())
    if not settings.keys() - {"root"}:
        with pytest.raises(UsageError) as caught:
            cad.load_results(experiment, *overrides, **{"root": tmp_path, **settings})
        assert str(caught.value) == message


def test_what_is_wrong_with_other_arguments_is_said():
    for call, message in (
        (
            lambda: cad.load_config(overrides="seed=1"),
            "overrides='seed=1': give a list of words, such as ['seed=1']",
        ),
        (lambda: cad.load_config(overrides=None), "overrides=None: give a list of words, such as ['seed=1']"),
        (lambda: cad.load_config(overrides=[1]), "override 1: expected KEY=VALUE as text, such as 'seed=1'"),
        (lambda: cad.load_config(["a.yaml"]), f"files=['a.yaml']: {NO_PATH}"),
        (lambda: cad.load_agent(3), f"path=3: {NO_PATH}"),
        (lambda: cad.open_histories(3), f"path=3: {NO_PATH}"),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert str(caught.value) == message


def test_histories_open_by_text_and_by_path(ran):
    (file,) = (ran / "runs/stages").glob("histories-*/histories.h5")
    for path in (file, str(file)):
        with cad.open_histories(path) as histories:
            assert histories.task_ids


def test_results_are_arrays_frames_and_figures(ran):
    results = cad.load_results(ran / "small.yaml", root=ran / "runs")
    cell = results.cells[1]
    table = results.table()
    assert len(table["return"]) == 2 * 3 * 2 * 4
    chosen = (
        (table["label"] == "CompressedAD") & (table["task"] == cell.task_ids[2]) & (table["episode"] == 3)
    )
    assert np.array_equal(table["return"][chosen], cell.returns[2, :, 3])
    assert cell.metrics["step"].tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert np.isnan(cell.metrics["loss"][0]) and (cell.metrics["loss"][1:] > 0).all()
    frame = results.frame("cells")
    assert list(frame["label"]) == ["AD", "CompressedAD"]
    assert frame["normalised_last10"][1] == pytest.approx(cell.normalised.mean(), abs=1e-12)
    axes = results.figure("learning").axes[0]
    axes.set_title("mine")
    results.figure().savefig(ran / "mine.png")
    assert (ran / "mine.png").stat().st_size > 5000
    with pytest.raises(UsageError, match=r"there is no figure 'none'; choose one of: .*learning"):
        results.figure("none")
    missing = cad.load_results(ran / "small.yaml", "seeds=[0,1]", root=ran / "runs")
    assert [cell.status for cell in missing.cells] == ["done", "missing", "done", "missing"]
    assert missing.cells[1].returns is None


def test_the_notebook_runs(ran, monkeypatch, capsys):
    """All cells in a row, from a script that guards nothing; what the fixture ran is not run again."""
    (ran / "examples").mkdir(exist_ok=True)
    shutil.copy(ROOT / "examples/small.yaml", ran / "examples")
    monkeypatch.chdir(ran)
    runpy.run_path(str(ROOT / "examples/notebook.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "CompressedAD 0 (3, 2, 4)" in shown and "latents: (3, 2, 16)" in shown
    assert (ran / "learning.png").exists()
