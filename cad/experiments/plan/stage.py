"""Stages and their identity.

A stage's name is a hash of the part of the config that changes its result, and of its inputs' names.
Cells that need the same histories therefore share them, and an extended experiment runs only what is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from cad.config import FileConfig
from cad.errors import UsageError
from cad.experiments.plan.directory import stage_name
from cad.models.spec import without_defaults
from cad.schema import Config
from cad.storage import VARIABLES_ADVICE, sha256_file, user_path

StageKind = Literal["histories", "pretrain", "train", "evaluate"]
STAGE_KINDS: tuple[StageKind, ...] = get_args(StageKind)  # in the order of the flow

# Raised when a stage's code changes its results: directories of an older version are not reused.
STAGE_VERSION: dict[StageKind, int] = {"histories": 1, "pretrain": 1, "train": 1, "evaluate": 1}

# The value of train.init_from_ad that means a stage, not a file.
WARM_START_STAGE = "stage"

# Settings that change how a training runs, not its result.  Like devices, engines and numbers of ranks
# differ only in rounding and dropout masks (docs/scaling.md): one engine resumes what another began.
_NOT_RESULTS = {
    "checkpoint_every", "keep_checkpoints", "stream", "engine", "zero_stage", "gradient_accumulation",
    "activation_checkpointing", "loggers",
}  # fmt: skip

# Settings added later: at these values they change nothing, so that older directories stay valid.
_ADDED_TO_TRAIN: dict[str, object] = {
    "reconstruction_weight": 0.0,
    "pretrained_encoder_path": None,
    "init_from_ad": None,
    "weights": None,
    "freeze_encoder": False,
    "loss_on": "all",
    "depth_curriculum": 0.0,
}
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
        return stage_name(self.identity)

    def is_described_by(self, config: Config) -> bool:
        """Whether ``config``, which an output of the stage carries, gives the stage's results."""
        try:
            return Stage(self.kind, config, self.inputs).name == self.name
        except UsageError:
            return True  # weights that the training began with are gone: their content cannot be compared


def warm_start_config(config: Config) -> Config:
    """The model whose decoder ``config``'s model starts from; equal settings share one training."""
    model = config.spec.warm_start(config.model)
    assert model is not None  # the config's rules see to it
    off = {
        "burn_in": 0, "depth_weights": None, "init_from_ad": None, "reconstruction_weight": 0.0,
        "depth_curriculum": 0.0, "activation_checkpointing": False,
    }  # fmt: skip
    return config.model_copy(update={"model": model, "train": config.train.model_copy(update=off)})


def expected_steps(stage: Stage) -> int:
    """Roughly how many history steps a stage works through, to start long stages first."""
    config = stage.config
    if stage.kind == "train" and config.train.weights is not None:
        return 0
    if stage.kind in ("train", "pretrain"):
        loop = config.train if stage.kind == "train" else config.pretrain
        return loop.n_updates * loop.batch_size * config.spec.training_window(config.model)
    if stage.kind == "evaluate":
        rollouts = config.n_evaluated * config.evaluation.n_rollouts
        return rollouts * config.evaluation.n_episodes * config.evaluated_env.steps_per_episode
    return config.env.total_tasks * config.source.n_streams * config.source.steps_per_stream


def _relevant(kind: StageKind, config: Config) -> dict[str, Any]:
    data = config.model_dump(mode="json")
    if kind == "histories":
        draws = config.source.DRAWS
        same = {"env": data["env"], "source": config.source.identity}
        return same if draws == 1 else same | {"draws": draws}
    if kind == "evaluate":
        evaluation = data["evaluation"]
        # These came later, like those below: older directories stay valid.
        if evaluation["tasks"] == "heldout":
            del evaluation["tasks"]
        if evaluation["first_temperature"] is None:
            del evaluation["first_temperature"], evaluation["anneal_episodes"]
        if evaluation["env"] is None:
            del evaluation["env"]
        if evaluation["knock_out"] is None:
            del evaluation["knock_out"], evaluation["knock_out_episode"]
        if not evaluation["demonstrated_episodes"]:
            del evaluation["demonstrated_episodes"]
        return {"evaluation": evaluation}
    if kind == "pretrain":
        pretraining = config.spec.pretraining
        assert pretraining is not None  # the config's rules see to it
        own = _NOT_RESULTS | {"enabled", "freeze", "seed", "collapse_variance", "collapse_after"}
        return {
            "seed": config.pretraining_seed,
            "env": data["env"],
            "model": pretraining.identity(config.model),
            "pretrain": {key: value for key, value in data["pretrain"].items() if key not in own},
        }
    if config.train.weights is not None:
        # Nothing is trained: no other setting, and no seed, changes what comes of it.
        checksum = _checksum("train.weights", user_path(config.train.weights))
        return {"env": data["env"], "model": config.spec.identity(config.model), "weights": checksum}
    unused = _NOT_RESULTS | ({"token_type_weight"} - _own_train_settings(config))
    train = {key: value for key, value in data["train"].items() if key not in unused}
    train = without_defaults(train, _ADDED_TO_TRAIN)
    for key in _FILES & train.keys():
        if train[key] != WARM_START_STAGE:
            train[key] = _checksum(f"train.{key}", user_path(train[key]))
    result = {
        "seed": config.seed,
        "env": data["env"],
        "model": config.spec.identity(config.model),
        "train": train,
    }
    if config.train.reconstruction_weight:
        result["reconstruction"] = {key: data["pretrain"][key] for key in _RECONSTRUCTION}
    if config.pretrain.enabled:
        result["pretrain"] = {"freeze": config.pretrain.freeze}
    return result


def named_files(stage: Stage) -> tuple[Path, ...]:
    """The files of the user's that a stage of this config reads."""
    config, named = stage.config, []
    if stage.kind == "histories" and isinstance(config.source, FileConfig):
        named = [] if config.source.path.startswith(FileConfig.CONTENT) else [config.source.path]
    elif stage.kind == "train" and config.train.weights is not None:
        named = [config.train.weights]
    elif stage.kind == "train":
        paths = (getattr(config.train, key) for key in sorted(_FILES))
        named = [path for path in paths if path not in (None, WARM_START_STAGE)]
    return tuple(user_path(path).absolute() for path in named)


_FILES = {"pretrained_encoder_path", "init_from_ad"}


def _checksum(key: str, path: Path) -> str:
    """Represents a file in a stage's identity: its content counts, not its path."""
    try:
        return sha256_file(path)
    except OSError as error:
        advice = f"; {VARIABLES_ADVICE}" if "$" in str(path) else ""
        raise UsageError(f"{key}: cannot read {path} ({error.strerror}){advice}") from error


def _own_train_settings(config: Config) -> set[str]:
    """Keys of ``train`` that have a meaning for this kind of model alone."""
    return {key.removeprefix("train.") for key in config.spec.other_settings}
