"""Overrides of an exported model are read as everywhere else."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cad.errors import CadError, UsageError
from cad.evaluation.results import load_results
from cad.experiments.analysis.exported import evaluate_exported, experiment_of
from cad.training.learner import build_model
from cad.training.transfer import write_weights


@pytest.fixture(scope="module")
def exported(tiny_config, tmp_path_factory):
    config = tiny_config("ad", evaluation={"n_episodes": 2, "n_rollouts": 1})
    path = tmp_path_factory.mktemp("exported") / "m.safetensors"
    torch.manual_seed(0)
    write_weights(path, config, build_model(config).state_dict(), provenance={})
    return path


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("evaluation.greedy=yes", 'evaluation.greedy: expected true or false, found "yes"'),
        (
            "evaluation.n_episodes=1:30",
            'n_episodes: expected a whole number above 0, found "1:30"',
        ),
        ("evaluation.seed=[1", "override 'evaluation.seed=[1': not valid YAML"),
        ("seed=[1", "override 'seed=[1': not valid YAML"),
        ("seed=1", "seed: the model's file fixes its own settings; only evaluation.* can be set"),
        ("evaluation.seed", "override 'evaluation.seed': expected KEY=VALUE"),
        ("evaluation.seed=18446744073709551616", "evaluation.seed: expected at most 9223372036854775807"),
    ],
)
def test_refused_as_everywhere(exported: Path, word: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        evaluate_exported(exported, [word], "cpu", None)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_are_those_of_configs(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "returns.h5"
    words = ["evaluation.temperature=5e-1", "evaluation.n_episodes=3"]
    assert "last 3 of 3 episodes" in evaluate_exported(exported, words, "cpu", out)
    with h5py.File(out) as file:
        assert file["returns"].shape[2] == 3
    shown = [*words, "evaluation.demonstrated_episodes=2"]  # of them no mean is told
    assert "over the last 1 of 3 episodes" in evaluate_exported(exported, shown, "cpu", None)


def test_a_pipe_is_no_model() -> None:
    with pytest.raises(CadError, match="it is a pipe or a device, not a file"):
        evaluate_exported(Path("/dev/zero"), [], "cpu", None)


def test_as_an_experiment_it_gives_the_same_returns(cad, exported: Path, tmp_path: Path) -> None:
    words = ["evaluation.n_episodes=3"]
    evaluate_exported(exported, words, "cpu", tmp_path / "returns.h5")
    file = experiment_of(exported, words, tmp_path / "runs")
    assert file == experiment_of(exported, words, tmp_path / "runs")  # the same question is the same one
    done = cad("run", file, "--root", tmp_path / "runs", "--no-figures", "--inline")
    assert done.returncode == 0, done.stdout + done.stderr
    (evaluation,) = (tmp_path / "runs/stages").glob("evaluate-*")
    ours, theirs = load_results(evaluation / "returns.h5"), load_results(tmp_path / "returns.h5")
    assert ours.returns.shape[2] == 3 and np.array_equal(ours.returns, theirs.returns)
    kinds = {folder.name.partition("-")[0] for folder in (tmp_path / "runs/stages").iterdir()}
    assert kinds == {"train", "evaluate"}  # no histories
    assert (file.parent / "report/report.html").exists()


def test_weights_of_another_split_are_refused(cad, exported: Path, tmp_path: Path) -> None:
    file = experiment_of(exported, [], tmp_path / "runs")
    done = cad("run", file, "base.env.split_seed=5", "--root", tmp_path / "runs", "--no-report", "--inline")
    assert done.returncode == 1
    assert "that are held out or for validation here" in done.stdout + done.stderr


def test_weights_of_another_model_are_refused(cad, exported: Path, tmp_path: Path) -> None:
    file = experiment_of(exported, [], tmp_path / "runs")
    done = cad("run", file, "base.model.n_transit=3", "--root", tmp_path / "runs", "--no-report", "--inline")
    assert done.returncode == 1
    assert "model.n_transit is" in done.stdout + done.stderr


def test_one_file_of_weights_has_one_seed(cad, exported: Path, tmp_path: Path) -> None:
    file = experiment_of(exported, [], tmp_path / "runs")
    done = cad("run", file, "seeds=[0, 1]", "--root", tmp_path / "runs")
    assert done.returncode == 2 and "holds the weights of one seed" in done.stderr
