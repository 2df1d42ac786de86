"""Overrides of an exported model are read as everywhere else."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
import torch

from cad.errors import CadError, UsageError
from cad.experiments.analysis.exported import evaluate_exported
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


def test_a_pipe_is_no_model() -> None:
    with pytest.raises(CadError, match="it is a pipe or a device, not a file"):
        evaluate_exported(Path("/dev/zero"), [], "cpu", None)
