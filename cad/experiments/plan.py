"""From an experiment to cells, and from a cell to stages: decisions that write nothing.

A stage is named by what it is: a hash of the part of the config that changes its result and of its
inputs' names.  Cells that need the same histories therefore share them, and an experiment that is
extended runs only what is new.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from cad.config import apply_overrides
from cad.config.schema import Arm, Config, EnvConfig, ExperimentConfig, training_window
from cad.errors import UsageError
from cad.storage import sha256_file, sha256_json

StageKind = Literal["histories", "pretrain", "train", "evaluate"]
STAGE_KINDS: tuple[StageKind, ...] = get_args(StageKind)  # in the order of the flow

# Raised when a stage's code changes its results: directories of an older version are not reused.
STAGE_VERSION: dict[StageKind, int] = {"histories": 1, "pretrain": 1, "train": 1, "evaluate": 1}

# The value of train.init_from_ad that means a stage, not a file.
WARM_START_STAGE = "stage"

# Settings of a training that change how it is run, not what comes out.  Engines and numbers of ranks
# agree but for rounding and, with dropout, masks (docs/scaling.md), as devices do: a training that was
# begun with one engine goes on with another.
_NOT_RESULTS = {
    "checkpoint_every", "keep_checkpoints", "stream", "engine", "zero_stage", "gradient_accumulation",
}  # fmt: skip

# Settings that came later: at these values they change nothing, and older directories stay valid.
_ADDED_TO_TRAIN: dict[str, object] = {
    "reconstruction_weight": 0.0,
    "pretrained_encoder_path": None,
    "init_from_ad": None,
    "freeze_encoder": False,
    "loss_on": "all",
}
_ADDED_TO_EMBEDDING: dict[str, object] = {
    "step_embedding": "row_column",
    "embedding_norm": True,
    "norm": "pre",
}
_ADDED_TO_MODEL: dict[str, object] = {
    **_ADDED_TO_EMBEDDING,
    "min_uncompressed_length": None,
    "max_uncompressed_length": None,
}

# What an encoder and its pre-training are made of; the decoder's settings are not among it.
_ENCODER = (
    "n_transit", "n_embd", "n_head", "n_inner", "dropout", "n_latent", "max_compression_depth",
    "encoder_n_layer", "min_compress_length", "max_compress_length",
    *_ADDED_TO_EMBEDDING,
)  # fmt: skip
_RECONSTRUCTION = ("objective", "decoder_n_layer", "depth_weights")


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
    experiment: str = ""  # named only where several experiments are put side by side

    @cached_property
    def histories(self) -> Stage:
        """The stage that collects the PPO agents' histories."""
        return histories_stage(self.config)

    @cached_property
    def pretraining(self) -> Stage | None:
        """The stage that pre-trains the encoder, where the config wants one."""
        return Stage("pretrain", self.config, (self.histories,)) if self.config.pretrain.enabled else None

    @cached_property
    def warm_start(self) -> Stage | None:
        """The stage that trains the AD whose decoder the model starts with, where the config wants one."""
        if self.config.train.init_from_ad != WARM_START_STAGE:
            return None
        return Stage("train", warm_start_config(self.config), (self.histories,))

    @cached_property
    def training(self) -> Stage:
        """The stage that trains the model."""
        before = filter(None, [self.pretraining, self.warm_start])
        return Stage("train", self.config, (self.histories, *before))

    @cached_property
    def evaluation(self) -> Stage:
        """The stage that puts the model into the held-out tasks."""
        return Stage("evaluate", self.config, (self.training,))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages, in order."""
        return (*self.training.inputs, self.training, self.evaluation)


def histories_stage(config: Config) -> Stage:
    """The histories that ``config`` needs; all splits of the same tasks share them."""
    return Stage("histories", config.model_copy(update={"env": collection_env(config.env)}))


def warm_start_config(config: Config) -> Config:
    """AD with the settings of ``config``: an AD arm with the same ones shares its training."""
    off = {"burn_in": 0, "depth_weights": None, "init_from_ad": None, "reconstruction_weight": 0.0}
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"kind": "ad"}),
            "train": config.train.model_copy(update=off),
        }
    )


def collection_env(env: EnvConfig) -> EnvConfig:
    """``env`` with a fixed split: histories hold all tasks, whoever is trained on."""
    keep = {} if env.n_tasks is not None else {"split_seed": 0}
    return env.model_copy(
        update={"horizon": env.steps_per_episode, "n_heldout": 1, "n_validation": 0, **keep}
    )


def expand(experiment: ExperimentConfig, where: str) -> tuple[Cell, ...]:
    """All cells, arm by arm, grid in the order of its keys, seeds innermost.

    Raises :class:`~cad.errors.UsageError` naming the arm whose settings do not fit, or a reference that
    is none of the models: before anything runs, not when the report is made.
    """
    cells = tuple(
        Cell(arm.name, label, apply_overrides(experiment.base, {**settings, "seed": seed}, origin))
        for arm in experiment.arms
        for label, settings, origin in _points(arm, where)
        for seed in arm.seeds or experiment.seeds
    )
    reference, labels = experiment.report.reference, dict.fromkeys(cell.label for cell in cells)
    if reference is not None and reference not in labels:
        raise UsageError(
            f"{where}: report.reference={reference!r} is no model; choose one of: {'; '.join(labels)}"
        )
    return cells


def _points(arm: Arm, where: str) -> Iterator[tuple[str, dict[str, object], str]]:
    for values in itertools.product(*arm.grid.values()):
        point = dict(zip(arm.grid, values, strict=True))
        parts = [_words(key, value) for key, value in point.items()]
        yield ", ".join([arm.name, *parts]), {**arm.set, **point}, f"{where}: arm {arm.name!r}"


def _words(key: str, value: object) -> str:
    if key == "pretrain" and isinstance(value, dict):
        how = "frozen" if value.get("freeze") else "fine-tuned"
        rest = [f"{name} {value[name]}" for name in value if name not in ("enabled", "freeze")]
        return ", ".join([f"pre-trained, {how}" if value.get("enabled") else "from scratch", *rest])
    return _IN_WORDS.get(key, key.rpartition(".")[2] + " {}").format(value)


_IN_WORDS = {
    "pretrain.enabled": "pre-trained: {}",
    "pretrain.freeze": "frozen: {}",
    "train.reconstruction_weight": "reconstruction weight {}",
    "model.max_compression_depth": "depth {}",
    "model.n_latent": "{} latents",
    "model.n_transit": "window {}",
    "evaluation.first_temperature": "from temperature {}",
}


def distinct_stages(
    cells: tuple[Cell, ...], first: StageKind = "histories", last: StageKind = "evaluate"
) -> tuple[Stage, ...]:
    """Every stage of the kinds from ``first`` to ``last`` once, inputs before those who need them."""
    kinds = STAGE_KINDS[STAGE_KINDS.index(first) : STAGE_KINDS.index(last) + 1]
    stages = {stage.name: stage for cell in cells for stage in cell.stages if stage.kind in kinds}
    return tuple(stages.values())


def expected_steps(stage: Stage) -> int:
    """Roughly how many history steps a stage works through, to start long stages first."""
    config = stage.config
    if stage.kind == "train":
        return config.train.n_updates * config.train.batch_size * training_window(config.model)
    if stage.kind == "pretrain":
        return config.pretrain.n_updates * config.pretrain.batch_size * training_window(config.model)
    if stage.kind == "evaluate":
        rollouts = config.n_evaluated * config.evaluation.n_rollouts
        return rollouts * config.evaluation.n_episodes * config.env.steps_per_episode
    return config.env.total_tasks * config.source.n_streams * config.source.steps_per_stream


def _relevant(kind: StageKind, config: Config) -> dict[str, Any]:
    data = config.model_dump(mode="json")
    if kind == "histories":
        return {"env": data["env"], "source": data["source"]}
    if kind == "evaluate":
        evaluation = data["evaluation"]
        # These came later, like those below: older directories stay valid.
        if evaluation["tasks"] == "heldout":
            del evaluation["tasks"]
        if evaluation["first_temperature"] is None:
            del evaluation["first_temperature"], evaluation["anneal_episodes"]
        return {"evaluation": evaluation}
    model = _relevant_model(data["model"])
    if kind == "pretrain":
        own = _NOT_RESULTS | {"enabled", "freeze", "seed", "collapse_variance", "collapse_after"}
        return {
            "seed": config.seed if config.pretrain.seed is None else config.pretrain.seed,
            "env": data["env"],
            "model": {key: value for key, value in model.items() if key in _ENCODER},
            "pretrain": {key: value for key, value in data["pretrain"].items() if key not in own},
        }
    unused = _NOT_RESULTS | (set() if config.model.kind == "region_ad" else {"token_type_weight"})
    train = {key: value for key, value in data["train"].items() if key not in unused}
    train = {key: value for key, value in train.items() if value != _ADDED_TO_TRAIN.get(key, _UNSET)}
    for key in _FILES & train.keys():
        if train[key] != WARM_START_STAGE:
            train[key] = _checksum(f"train.{key}", Path(train[key]))
    result = {
        "seed": config.seed,
        "env": data["env"],
        "model": model,
        "train": train,
    }
    if config.train.reconstruction_weight:
        result["reconstruction"] = {key: data["pretrain"][key] for key in _RECONSTRUCTION}
    if config.pretrain.enabled:
        result["pretrain"] = {"freeze": config.pretrain.freeze}
    return result


_UNSET = object()
_FILES = {"pretrained_encoder_path", "init_from_ad"}


def _checksum(key: str, path: Path) -> str:
    """What stands for a file in a stage's identity: its content, wherever it lies."""
    try:
        return sha256_file(path)
    except OSError as error:
        raise UsageError(f"{key}: cannot read {path} ({error.strerror})") from error


def _relevant_model(model: dict[str, Any]) -> dict[str, Any]:
    encoder = {"n_latent", "max_compression_depth", "encoder_n_layer"}
    lengths = {
        "min_compress_length", "max_compress_length", "min_uncompressed_length", "max_uncompressed_length",
    }  # fmt: skip
    regions = {"compress_interval", "n_regions", "on_compress"}
    unused = {
        "ad": encoder | lengths | regions,
        "compressed_ad": regions | {"drop_block"},
        "region_ad": lengths | {"drop_block"} | (encoder if model["on_compress"] == "drop" else set()),
    }[model["kind"]]
    return {
        key: value
        for key, value in model.items()
        if key not in unused and value != _ADDED_TO_MODEL.get(key, _UNSET)
    }
