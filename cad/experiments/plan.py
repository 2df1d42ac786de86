"""From an experiment to cells, and from a cell to stages: pure decisions, no files.

A stage is named by what it is: a hash of the part of the config that changes its result and of its
inputs' names.  Cells that need the same histories therefore share them, and an experiment that is
extended runs only what is new.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from cad.config import apply_overrides
from cad.config.schema import Arm, Config, EnvConfig, ExperimentConfig
from cad.storage import sha256_json

StageKind = Literal["histories", "train", "evaluate"]

# Raised when a stage's code changes its results: directories of an older version are not reused.
STAGE_VERSION: dict[StageKind, int] = {"histories": 1, "train": 1, "evaluate": 1}

# Settings of a training that change how it is run, not what comes out.
_NOT_RESULTS = {"checkpoint_every", "keep_checkpoints"}


@dataclass(frozen=True)
class Stage:
    """One piece of work with a directory of its own."""

    kind: StageKind
    config: Config
    inputs: tuple[Stage, ...] = ()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines the result: kind, version, the config's relevant part, inputs."""
        return {
            "kind": self.kind,
            "version": STAGE_VERSION[self.kind],
            "config": _relevant(self.kind, self.config),
            "inputs": [stage.name for stage in self.inputs],
        }

    @cached_property
    def name(self) -> str:
        """Directory name: the kind and twelve digits of the hash."""
        return f"{self.kind}-{sha256_json(self.identity)[:12]}"


@dataclass(frozen=True)
class Cell:
    """One point of an experiment's grid with one seed."""

    arm: str
    label: str
    config: Config

    @cached_property
    def histories(self) -> Stage:
        """The stage that collects the PPO agents' histories."""
        return histories_stage(self.config)

    @cached_property
    def training(self) -> Stage:
        """The stage that trains the model."""
        return Stage("train", self.config, (self.histories,))

    @cached_property
    def evaluation(self) -> Stage:
        """The stage that puts the model into the held-out tasks."""
        return Stage("evaluate", self.config, (self.training,))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages, in order."""
        return (self.histories, self.training, self.evaluation)


def histories_stage(config: Config) -> Stage:
    """The histories that ``config`` needs; all splits of the same tasks share them."""
    return Stage("histories", config.model_copy(update={"env": collection_env(config.env)}))


def collection_env(env: EnvConfig) -> EnvConfig:
    """``env`` with a fixed split: histories hold all tasks, whoever is trained on."""
    keep = {} if env.n_tasks is not None else {"split_seed": 0}
    return env.model_copy(
        update={"horizon": env.steps_per_episode, "n_heldout": 1, "n_validation": 0, **keep}
    )


def expand(experiment: ExperimentConfig, where: str) -> tuple[Cell, ...]:
    """All cells, arm by arm, grid in the order of its keys, seeds innermost.

    Raises :class:`~cad.errors.UsageError` naming the arm whose settings do not fit.
    """
    return tuple(
        Cell(arm.name, label, apply_overrides(experiment.base, {**settings, "seed": seed}, origin))
        for arm in experiment.arms
        for label, settings, origin in _points(arm, where)
        for seed in experiment.seeds
    )


def _points(arm: Arm, where: str) -> Iterator[tuple[str, dict[str, object], str]]:
    for values in itertools.product(*arm.grid.values()):
        point = dict(zip(arm.grid, values, strict=True))
        parts = [
            _IN_WORDS.get(key, key.rpartition(".")[2] + " {}").format(value) for key, value in point.items()
        ]
        yield ", ".join([arm.name, *parts]), {**arm.set, **point}, f"{where}: arm {arm.name!r}"


_IN_WORDS = {
    "model.max_compression_depth": "depth {}",
    "model.n_latent": "{} latents",
    "model.n_transit": "window {}",
}


def distinct_stages(cells: tuple[Cell, ...]) -> tuple[Stage, ...]:
    """Every stage once, inputs before those who need them."""
    return tuple({stage.name: stage for cell in cells for stage in cell.stages}.values())


def _relevant(kind: StageKind, config: Config) -> dict[str, Any]:
    data = config.model_dump(mode="json")
    if kind == "histories":
        return {"env": data["env"], "source": data["source"]}
    if kind == "evaluate":
        return {"evaluation": data["evaluation"]}
    unused = _NOT_RESULTS | (set() if config.model.kind == "region_ad" else {"token_type_weight"})
    train = {key: value for key, value in data["train"].items() if key not in unused}
    return {"seed": config.seed, "env": data["env"], "model": _relevant_model(data["model"]), "train": train}


def _relevant_model(model: dict[str, Any]) -> dict[str, Any]:
    encoder = {"n_latent", "max_compression_depth", "encoder_n_layer"}
    lengths = {"min_compress_length", "max_compress_length"}
    regions = {"compress_interval", "n_regions", "on_compress"}
    unused = {
        "ad": encoder | lengths | regions,
        "compressed_ad": regions | {"drop_block"},
        "region_ad": lengths | {"drop_block"} | (encoder if model["on_compress"] == "drop" else set()),
    }[model["kind"]]
    return {key: value for key, value in model.items() if key not in unused}
