"""Packs of trainings, and each of their trainings alone, to compare."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cad.histories.sampler import HistoryArrays
from cad.interrupt import StopFlag
from cad.schema import Config
from cad.training.learner import build_training
from cad.training.metrics import read_metrics
from cad.training.packed.loop import Outcome, train_together
from cad.training.packed.shape import pack_key
from cad.training.training import TrainingSummary

CPU = torch.device("cpu")

# Segments of one length for all, so that models meet in every update.
ALIKE = {"min_compress_length": 6, "max_compress_length": 6}


class StoppingSampler:
    """Asks for a stop when the batch of update ``at`` is drawn."""

    def __init__(self, sampler, at: int, stop: StopFlag) -> None:
        self.sampler, self.at, self.stop = sampler, at, stop

    def batch(self, update: int, *where):
        if update == self.at:
            self.stop.request()
        return self.sampler.batch(update, *where)

    def __getattr__(self, name: str):
        return getattr(self.sampler, name)


def alone(config: Config, arrays: HistoryArrays, folder: Path, at: int = -1, **options) -> None:
    """Train one model; a stop is asked for at update ``at``."""
    learner, stop = build_training(config, arrays), StopFlag()
    learner = dataclasses.replace(learner, sampler=StoppingSampler(learner.sampler, at, stop))
    learner.fit(folder, run_id=folder.name, device=CPU, stop=stop, **options)


def packed(
    configs: Sequence[Config], arrays: HistoryArrays, folders: Sequence[Path], at: int = -1, **options
) -> dict[str, Outcome]:
    """Train models together; how each ended, by its folder's name."""
    assert len({pack_key(config) for config in configs}) == 1
    stop, names, trainings = StopFlag(), {}, []
    for config, folder in zip(configs, folders, strict=True):
        learner = build_training(config, arrays)
        learner = dataclasses.replace(learner, sampler=StoppingSampler(learner.sampler, at, stop))
        training = learner.training(folder, run_id=folder.name, device=CPU, **options)
        names[id(training)] = folder.name
        trainings.append(training)
    outcomes = train_together(trainings, stop, vmapped=configs[0].spec.stacks)
    return {names[id(training)]: outcome for training, outcome in outcomes}


def records(folder: Path) -> list[dict[str, float]]:
    return [
        {key: value for key, value in record.items() if not key.endswith("_per_second")}
        for record in read_metrics(folder / "metrics.jsonl")
    ]


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    newest = max((folder / "checkpoints").iterdir())
    return safetensors.torch.load_file(newest / "state.safetensors")


def counted(folder: Path) -> int:
    """Supervised actions of a training, as its newest checkpoint has them."""
    note = max((folder / "checkpoints").iterdir()) / "meta.json"
    return json.loads(note.read_text())["supervised_actions"]


def assert_close(a: Path, b: Path, losses: float = 1e-5, weights: float = 1e-4) -> None:
    """Logged losses differ by so much at most, weights by so much of a tensor's norm; all else is alike.

    On the machines where this was written packs give the bits of single trainings.  Where batched products
    round otherwise, Muon makes rounding as large as everything else where a gradient has no full rank.
    """
    mine, theirs = records(a), records(b)
    assert [list(record) for record in mine] == [list(record) for record in theirs]
    assert mine[0] == theirs[0]
    for x, y in zip(mine[1:], theirs[1:], strict=True):
        assert x["step"] == y["step"] and x["learning_rate"] == y["learning_rate"]
        assert x["loss"] == pytest.approx(y["loss"], rel=losses)
        assert x["gradient_norm"] == pytest.approx(y["gradient_norm"], rel=1e3 * losses)
    assert counted(a) == counted(b)
    first, second = final_state(a), final_state(b)
    assert first.keys() == second.keys()
    for name, x in first.items():
        assert x.shape == second[name].shape and x.dtype == second[name].dtype
        if name.startswith("model/") and not name.endswith("qkv.bias"):  # keys' biases move nothing
            assert (x - second[name]).norm() <= weights * x.norm() + 1e-6, name
        if name.endswith("/step"):
            assert torch.equal(x, second[name])


def assert_same(a: Path, b: Path) -> None:
    """Two runs are equal to the bit."""
    first, second = final_state(a), final_state(b)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert records(a) == records(b)


def variants(make: Callable[..., Config], kind: str, model: dict | None = None, **train) -> list[Config]:
    """Three cells of one shape that differ in seed, rates and dropout."""
    settings = {"n_updates": 10, "optimizer": "adamw", "watchdog_share": None, **train}
    return [
        make(
            kind,
            seed=seed,
            model={"dropout": dropout, **(model or {})},
            train={
                **settings,
                "learning_rate": rate,
                "muon_learning_rate": 2 * rate,
                "grad_clip": 0.5 + seed,
            },
        )
        for seed, (rate, dropout) in enumerate([(1e-2, 0.0), (3e-3, 0.2), (2e-3, 0.1)])
    ]


def compare(configs: Sequence[Config], arrays: HistoryArrays, tmp_path: Path, **tolerance: float) -> None:
    """Train each alone and all together, and compare them."""
    names = [f"{number}" for number in range(len(configs))]
    for config, name in zip(configs, names, strict=True):
        alone(config, arrays, tmp_path / "alone" / name)
    outcomes = packed(configs, arrays, [tmp_path / "pack" / name for name in names])
    for config, name in zip(configs, names, strict=True):
        outcome = outcomes[name]
        assert isinstance(outcome, TrainingSummary) and outcome.updates == config.train.n_updates
        assert_close(tmp_path / "alone" / name, tmp_path / "pack" / name, **tolerance)
