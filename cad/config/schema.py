"""Every setting of the program, typed and frozen; a field's description is its documentation.

Configs are read once, at the edge (:mod:`cad.config.load`); deep code receives the section that
it needs.  Keys that a user of algorithm distillation already knows keep their usual names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]

EnvName = Literal["darkroom", "darkroom_permuted", "dark_key_to_door"]
ModelKind = Literal["ad", "compressed_ad", "region_ad"]
Engine = Literal["plain", "accelerate", "deepspeed"]

DEFAULT_HORIZON: dict[str, int] = {"darkroom": 20, "darkroom_permuted": 50, "dark_key_to_door": 50}
N_ACTIONS = 5


def family_size(name: str, size: int) -> int:
    """Number of tasks in the whole family, before any subset is drawn."""
    return {"darkroom": size**2, "darkroom_permuted": 120, "dark_key_to_door": size**4}[name]


class Section(BaseModel):
    """Base of all config sections: frozen, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class EnvConfig(Section):
    """Which tasks exist and how they are split."""

    name: EnvName = Field("darkroom", description="Task family.")
    size: Annotated[int, Field(ge=2, le=100)] = Field(9, description="Rows (and columns) of the square grid.")
    horizon: PositiveInt | None = Field(
        None, description="Steps an episode; default 20 for darkroom, 50 for the other families."
    )
    n_tasks: PositiveInt | None = Field(
        None, description="Use a random subset of this many tasks (drawn with split_seed); default all."
    )
    split_seed: NonNegativeInt = Field(0, description="Seed of the train / held-out shuffle of tasks.")
    n_heldout: PositiveInt | None = Field(
        None, description="Held-out tasks, never trained on; default: all but round(0.9 x tasks)."
    )
    n_validation: NonNegativeInt = Field(
        4, description="Tasks split off the training tasks to watch training; not trained on either."
    )

    @property
    def steps_per_episode(self) -> int:
        """Horizon with the family's default filled in."""
        return self.horizon if self.horizon is not None else DEFAULT_HORIZON[self.name]

    @property
    def total_tasks(self) -> int:
        """Number of tasks in use."""
        return self.n_tasks if self.n_tasks is not None else family_size(self.name, self.size)

    @property
    def total_heldout(self) -> int:
        """Number of held-out tasks."""
        if self.n_heldout is not None:
            return self.n_heldout
        return self.total_tasks - round(0.9 * self.total_tasks)

    @model_validator(mode="after")
    def _split_fits(self) -> EnvConfig:
        whole = family_size(self.name, self.size)
        if self.total_tasks > whole:
            raise ValueError(f"n_tasks={self.n_tasks} but {self.name} of size {self.size} has {whole} tasks")
        if self.total_heldout < 1:
            raise ValueError(
                f"no held-out task: {self.total_tasks} tasks leave none at the default split; set n_heldout"
            )
        if self.total_heldout + self.n_validation >= self.total_tasks:
            raise ValueError(
                f"n_heldout={self.total_heldout} and n_validation={self.n_validation} leave no training "
                f"task of {self.total_tasks}"
            )
        return self


class SourceConfig(Section):
    """The PPO agents whose learning histories are kept (stable-baselines3 names)."""

    n_streams: PositiveInt = Field(100, description="Parallel streams (histories) a task.")
    steps_per_stream: PositiveInt = Field(1000, description="Environment steps kept of each stream.")
    n_steps: PositiveInt = Field(80, description="Steps a stream between two PPO updates.")
    batch_size: PositiveInt = Field(1000, description="PPO minibatch size, in transitions.")
    n_epochs: PositiveInt = Field(5, description="Passes over the data in one PPO update.")
    learning_rate: PositiveFloat = Field(3e-3, description="Adam learning rate of PPO.")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(0.9, description="Discount.")
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = Field(0.95, description="GAE lambda.")
    clip_range: PositiveFloat = Field(0.3, description="PPO clip range.")
    ent_coef: NonNegativeFloat = Field(0.0, description="Weight of the entropy bonus.")
    hidden: PositiveInt = Field(64, description="Width of the two hidden layers of policy and value.")
    seed: NonNegativeInt = Field(0, description="Seed; task k learns with a seed derived from it and k.")


class ModelConfig(Section):
    """The sequence model."""

    kind: ModelKind = Field(
        "compressed_ad",
        description="ad: a window of the last n_transit steps; compressed_ad: latents + window; region_ad: "
        "regions between <compress> and </compress> tokens, which the model closes itself.",
    )
    n_transit: PositiveInt = Field(
        40,
        description="Window: steps that the decoder sees uncompressed; region_ad: steps and tokens, "
        "shared out evenly among n_regions.",
    )
    n_embd: PositiveInt = Field(64, description="Width.")
    n_layer: PositiveInt = Field(4, description="Decoder layers.")
    n_head: PositiveInt = Field(4, description="Attention heads.")
    n_inner: PositiveInt | None = Field(None, description="Feed-forward width; default 4 x n_embd.")
    dropout: Probability = Field(0.0, description="Residual dropout (attention itself has none: see docs).")
    n_latent: PositiveInt = Field(
        16, description="compressed_ad, region_ad with latents: latent tokens that hold the past."
    )
    max_compression_depth: NonNegativeInt = Field(
        3,
        description="compressed_ad, region_ad with latents: compressions in a row that training unrolls; "
        "roll-outs go on compressing beyond it. 0 (compressed_ad): none; a full window is forgotten.",
    )
    encoder_n_layer: PositiveInt = Field(
        2, description="compressed_ad, region_ad with latents: encoder layers."
    )
    min_compress_length: PositiveInt | None = Field(
        None, description="compressed_ad: shortest segment that training compresses; default n_transit / 2."
    )
    max_compress_length: PositiveInt | None = Field(
        None,
        description="compressed_ad: longest segment that training compresses, and the number of steps that "
        "a roll-out gathers before it compresses them; default n_transit.",
    )
    min_uncompressed_length: PositiveInt | None = Field(
        None,
        description="compressed_ad: shortest last segment of a training window, the one that is not "
        "compressed; default: as long as the others, which are drawn from the range above.",
    )
    max_uncompressed_length: PositiveInt | None = Field(
        None, description="compressed_ad: longest last segment; min_uncompressed_length goes with it."
    )

    drop_block: PositiveInt | None = Field(
        None,
        description="ad: steps that a full window drops at once in a roll-out (the rest is re-encoded); "
        "default n_transit / 4. 1 is the exact sliding window, at the cost of a re-encoding a step.",
    )
    compress_interval: PositiveInt = Field(
        80,
        description="region_ad: steps at which training cuts a history into regions; equals source.n_steps, "
        "so that a region is one PPO iteration.",
    )
    n_regions: Annotated[int, Field(ge=2, le=4)] = Field(
        2,
        description="region_ad: consecutive regions that the decoder sees, the open one included. A "
        "roll-out's region may grow to n_transit / n_regions - 2 steps; then it is closed for the model.",
    )
    on_compress: Literal["drop", "latents"] = Field(
        "drop",
        description="region_ad: what happens to the oldest region when one more is closed. drop: it is "
        "forgotten; latents: an encoder folds it into latents, as in compressed_ad.",
    )

    step_embedding: Literal["row_column", "cell"] = Field(
        "row_column", description="cell: one embedding a cell of the grid (experiments/ingredients.yaml)."
    )
    embedding_norm: bool = Field(
        True,
        description="Layer norms behind the step embedding and before the blocks; false for "
        "experiments/ingredients.yaml.",
    )
    norm: Literal["pre", "post"] = Field(
        "pre", description="Norms before or behind each attention and feed-forward layer."
    )

    @property
    def steps_dropped(self) -> int:
        """``drop_block`` with its default filled in."""
        return self.drop_block or max(1, self.n_transit // 4)

    @property
    def folds_regions(self) -> bool:
        """Whether it is a region_ad whose oldest region is folded into latents."""
        return self.kind == "region_ad" and self.on_compress == "latents"

    @property
    def has_latents(self) -> bool:
        """Whether an encoder makes latents."""
        return self.kind == "compressed_ad" or self.folds_regions

    @property
    def uncompressed_steps(self) -> int:
        """Steps that the decoder sees uncompressed."""
        return self.n_regions * self.compress_interval if self.kind == "region_ad" else self.n_transit

    @property
    def region_room(self) -> int:
        """Elements (steps and the two tokens) that one region may take in the decoder's window."""
        return self.n_transit // self.n_regions

    @property
    def n_depths(self) -> int:
        """Segments that training decodes and reports apart."""
        if self.kind == "region_ad":
            return self.training_regions
        return 1 if self.kind == "ad" else self.max_compression_depth + 1

    @property
    def training_regions(self) -> int:
        """Regions of a training window: what the decoder sees, and those folded before it."""
        return self.n_regions + (self.max_compression_depth if self.folds_regions else 0)

    @property
    def compress_lengths(self) -> tuple[int, int]:
        """Shortest and longest training segment, in steps."""
        low = self.min_compress_length or max(1, self.n_transit // 2)
        return low, self.max_compress_length or self.n_transit

    @property
    def uncompressed_lengths(self) -> tuple[int, int] | None:
        """Shortest and longest last segment, in steps; None: as long as the others."""
        if self.min_uncompressed_length is None or self.max_uncompressed_length is None:
            return None
        return self.min_uncompressed_length, self.max_uncompressed_length

    @model_validator(mode="after")
    def _shapes_fit(self) -> ModelConfig:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_head={self.n_head} does not divide n_embd={self.n_embd}")
        if self.steps_dropped > self.n_transit:
            raise ValueError(f"drop_block={self.drop_block} is above the window n_transit={self.n_transit}")
        if self.kind == "compressed_ad":
            low, high = self.compress_lengths
            if low > high:
                raise ValueError(f"min_compress_length={low} is above max_compress_length={high}")
            if high > self.n_transit:
                raise ValueError(
                    f"max_compress_length={high} is above the window n_transit={self.n_transit}: "
                    "such a segment would never be compressed"
                )
            self._check_uncompressed()
        if self.kind == "region_ad":
            if self.step_embedding != "row_column" or not self.embedding_norm:
                raise ValueError("step_embedding and embedding_norm are switches of ad and compressed_ad")
            needed = self.n_regions * (self.compress_interval + 2)
            if self.n_transit < needed:
                raise ValueError(
                    f"n_transit={self.n_transit} does not hold n_regions={self.n_regions} regions of "
                    f"compress_interval={self.compress_interval} steps and two tokens; it takes {needed}"
                )
            if self.folds_regions and not self.max_compression_depth:
                raise ValueError("on_compress=latents needs max_compression_depth of at least 1")
        return self

    def _check_uncompressed(self) -> None:
        low, high = self.min_uncompressed_length, self.max_uncompressed_length
        if (low is None) != (high is None):
            raise ValueError("set both min_uncompressed_length and max_uncompressed_length, or neither")
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_uncompressed_length={low} is above max_uncompressed_length={high}")
        if high is not None and high > self.n_transit:
            raise ValueError(f"max_uncompressed_length={high} is above the window n_transit={self.n_transit}")


class LoopConfig(Section):
    """What every training has, that of a model and that of an encoder."""

    n_updates: PositiveInt = Field(1000, description="Optimiser steps.")
    batch_size: PositiveInt = Field(32, description="Windows an update, over all ranks.")
    optimizer: Literal["adamw", "muon"] = Field(
        "muon", description="muon: Muon for the matrices of the transformer blocks, AdamW for the rest."
    )
    learning_rate: PositiveFloat = Field(4e-3, description="Peak learning rate of AdamW.")
    muon_learning_rate: PositiveFloat = Field(2e-2, description="Peak learning rate of Muon.")
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05, description="Learning rate at the end of the cosine, as a share of the peak."
    )
    num_warmup_steps: NonNegativeInt = Field(100, description="Updates of linear warm-up.")
    beta2: Probability = Field(0.98, description="AdamW's second beta.")
    weight_decay: NonNegativeFloat = Field(0.1, description="Decoupled weight decay, on matrices only.")
    grad_clip: PositiveFloat = Field(1.0, description="Largest gradient norm.")
    max_episode_gap: PositiveInt = Field(
        10, description="A window takes every g-th episode of a history, g drawn from 1 to this."
    )
    log_every: PositiveInt = Field(25, description="Updates between two metric lines.")
    checkpoint_every: PositiveInt = Field(250, description="Updates between checkpoints.")
    keep_checkpoints: PositiveInt = Field(
        2, description="Newest checkpoints kept, beside that of the best validation."
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast of forward and backward.")
    compile: bool = Field(False, description="torch.compile the model (needs a C++ compiler).")
    stream: bool = Field(
        False, description="Histories larger than memory: windows are read from an uncompressed copy on disk."
    )
    engine: Engine = Field(
        "plain",
        description="plain: one process; accelerate: data parallel over ranks; deepspeed: ZeRO over ranks. "
        "Ranks come from --ranks or from the job, and share out batch_size.",
    )
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = Field(
        None, description="engine=deepspeed: ZeRO stage, what ranks share out; default 1."
    )
    gradient_accumulation: PositiveInt = Field(
        1, description="Parts that a rank's share of the batch is worked through in: less memory."
    )

    @property
    def zero(self) -> int:
        """``zero_stage`` with its default filled in."""
        return 1 if self.zero_stage is None else self.zero_stage

    @model_validator(mode="after")
    def _engine_fits(self) -> LoopConfig:
        if self.zero_stage is not None and self.engine != "deepspeed":
            raise ValueError(
                f"zero_stage={self.zero_stage} needs engine=deepspeed; engine={self.engine} has no ZeRO "
                "(accelerate's own DeepSpeed plugin is not used: on a CPU it silently trains without it)"
            )
        if self.engine == "deepspeed" and self.optimizer != "adamw":
            raise ValueError(
                "engine=deepspeed needs optimizer=adamw: ZeRO shares out flattened parameters, and Muon "
                "needs whole matrices; or use engine=accelerate"
            )
        if self.engine != "plain" and self.compile:
            raise ValueError(f"compile=true needs engine=plain, not {self.engine}")
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"gradient_accumulation={self.gradient_accumulation} does not divide "
                f"batch_size={self.batch_size}"
            )
        return self


class TrainConfig(LoopConfig):
    """The training loop."""

    label_smoothing: Probability = Field(0.0, description="Label smoothing of the action loss.")
    depth_weights: tuple[NonNegativeFloat, ...] | None = Field(
        None, description="Loss weight of segment k = 0..max_compression_depth; default all equal."
    )
    token_type_weight: NonNegativeFloat = Field(
        0.1, description="region_ad: weight of the token-type loss, which is added to the action loss."
    )
    burn_in: NonNegativeInt = Field(
        0, description="compressed_ad: up to this many earlier segments are compressed without gradient."
    )
    validate_every: NonNegativeInt = Field(500, description="Updates between validation roll-outs; 0: never.")
    validation_episodes: PositiveInt = Field(20, description="Episodes of a validation roll-out.")
    validation_rollouts: PositiveInt = Field(4, description="Validation roll-outs a task.")
    loss_on: Literal["all", "last"] = Field(
        "all", description="all: every step carries loss; last: the last step of every segment alone."
    )
    reconstruction_weight: NonNegativeFloat = Field(
        0.0,
        description="compressed_ad: weight of an auxiliary loss: a small decoder reconstructs the compressed "
        "steps from the latents (pretrain.objective, decoder_n_layer and depth_weights say how).",
    )
    watchdog_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.3,
        description="Stop if the loss is still near log(actions) after this share of the updates; null: off.",
    )
    pretrained_encoder_path: str | None = Field(
        None,
        description="compressed_ad: start with the encoder, the first latents, the step embedding and its "
        "norm of this file (a pre-training's encoder.safetensors or a trained model.safetensors).",
    )
    init_from_ad: str | None = Field(
        None,
        description="compressed_ad: start with the decoder and the step embedding of a trained AD: the path "
        "of its model.safetensors, or the word stage: the AD of the same settings is trained first, in a "
        "stage that cells share.",
    )
    freeze_encoder: bool = Field(
        False, description="Keep what pretrained_encoder_path brought as it is; false: fine-tune it."
    )


class PretrainConfig(LoopConfig):
    """Pre-training of the encoder: histories are compressed, a small decoder reconstructs them."""

    enabled: bool = Field(
        False, description="compressed_ad: pre-train the encoder in a stage of its own, shared by cells."
    )
    freeze: bool = Field(
        False, description="With enabled: action training keeps the encoder frozen; false: fine-tunes it."
    )
    objective: Literal["tokens", "embeddings"] = Field(
        "tokens",
        description="tokens: cross-entropy of row, column, action and reward of every compressed step; "
        "embeddings: mean squared error to the steps' embeddings (targets without gradient).",
    )
    decoder_n_layer: PositiveInt = Field(2, description="Layers of the reconstruction decoder.")
    depth_weights: tuple[NonNegativeFloat, ...] | None = Field(
        None, description="Loss weight of depth k = 1..max_compression_depth; default 1, 2, 3, ..."
    )
    seed: NonNegativeInt | None = Field(
        None, description="Seed of the pre-training; default the cell's. Set, all seeds share one encoder."
    )
    collapse_variance: NonNegativeFloat = Field(
        1e-3,
        description="Stop when latents vary less than this between histories, or step embeddings between "
        "steps; both are normalised, so that 1 is about all there can be.",
    )
    collapse_after: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3,
        description="Share of the updates after which that is looked at (not before the warm-up's end): a "
        "fresh encoder's latents vary little.",
    )


class EvaluationConfig(Section):
    """Roll-outs in tasks that the model never saw."""

    tasks: Literal["heldout", "validation"] = Field(
        "heldout",
        description="heldout: for claims; validation: for choosing settings, held-out tasks unseen.",
    )
    n_episodes: PositiveInt = Field(50, description="Episodes a roll-out; memory is kept across them.")
    n_rollouts: PositiveInt = Field(8, description="Roll-outs a task.")
    temperature: PositiveFloat = Field(1.0, description="Softmax temperature of sampled actions.")
    first_temperature: PositiveFloat | None = Field(
        None,
        description="Temperature of the first episode, from which it goes in equal steps to `temperature`: "
        "explore first, then do what was found; default: the same throughout.",
    )
    anneal_episodes: Annotated[int, Field(ge=2)] = Field(
        50, description="first_temperature: the episode from which on `temperature` holds."
    )
    greedy: bool = Field(False, description="Take the most likely action instead of sampling.")
    seed: NonNegativeInt = Field(1000, description="Seed of the roll-outs; independent of the training seed.")

    def temperature_at(self, episode: int) -> float:
        """Temperature of an episode, counted from 0."""
        if self.first_temperature is None:
            return self.temperature
        done = min(1.0, episode / (self.anneal_episodes - 1))
        return self.first_temperature + done * (self.temperature - self.first_temperature)

    @model_validator(mode="after")
    def _acting_fits(self) -> EvaluationConfig:
        if self.greedy and self.first_temperature is not None:
            raise ValueError("greedy=true samples nothing, so first_temperature has no effect; choose one")
        return self


class Config(Section):
    """One cell: everything that determines its numbers."""

    seed: NonNegativeInt = Field(0, description="Seed of initial weights, sampling and dropout.")
    env: EnvConfig = Field(EnvConfig(), description="Tasks and their split.")
    source: SourceConfig = Field(SourceConfig(), description="PPO, which writes the histories.")
    model: ModelConfig = Field(ModelConfig(), description="The sequence model.")
    pretrain: PretrainConfig = Field(PretrainConfig(), description="Pre-training of the encoder.")
    train: TrainConfig = Field(TrainConfig(), description="Training.")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="Held-out roll-outs.")

    @model_validator(mode="after")
    def _sections_fit(self) -> Config:
        horizon = self.env.steps_per_episode
        if self.source.steps_per_stream % horizon:
            raise ValueError(
                f"source.steps_per_stream={self.source.steps_per_stream} is not a whole number of "
                f"episodes of env.horizon={horizon} steps"
            )
        rollout = self.source.n_steps * self.source.n_streams
        if self.source.batch_size > rollout:
            raise ValueError(
                f"source.batch_size={self.source.batch_size} is more than one PPO roll-out holds "
                f"(n_steps x n_streams = {rollout})"
            )
        if self.model.kind == "region_ad" and self.model.compress_interval != self.source.n_steps:
            raise ValueError(
                f"model.compress_interval={self.model.compress_interval} is not "
                f"source.n_steps={self.source.n_steps}: a region must be one PPO iteration; set both alike"
            )
        needed = training_window(self.model)
        if needed > self.source.steps_per_stream:
            raise ValueError(
                f"a training window needs {needed} steps (n_transit, segments x longest segment, "
                "or regions x compress_interval), but a history has "
                f"source.steps_per_stream={self.source.steps_per_stream}"
            )
        if self.train.depth_weights is not None:
            if self.model.kind != "compressed_ad":
                raise ValueError("train.depth_weights is for model.kind=compressed_ad")
            if len(self.train.depth_weights) != self.model.max_compression_depth + 1:
                raise ValueError(
                    f"train.depth_weights has {len(self.train.depth_weights)} entries; depths 0 to "
                    f"max_compression_depth={self.model.max_compression_depth} need "
                    f"{self.model.max_compression_depth + 1}"
                )
            if sum(self.train.depth_weights) <= 0:
                raise ValueError("train.depth_weights are all zero")
        if self.train.burn_in and (
            self.model.kind != "compressed_ad" or not self.model.max_compression_depth
        ):
            raise ValueError(
                "train.burn_in is for model.kind=compressed_ad with max_compression_depth above 0"
            )
        for key, every, log_every in (
            ("train.validate_every", self.train.validate_every, self.train.log_every),
            ("train.checkpoint_every", self.train.checkpoint_every, self.train.log_every),
            ("pretrain.checkpoint_every", self.pretrain.checkpoint_every, self.pretrain.log_every),
        ):
            if every % log_every:
                section = key.partition(".")[0]
                raise ValueError(f"{key}={every} is not a multiple of {section}.log_every={log_every}")
        if self.train.validate_every and not self.env.n_validation:
            raise ValueError("train.validate_every needs env.n_validation of at least 1 (or set it to 0)")
        if self.evaluation.tasks == "validation" and not self.env.n_validation:
            raise ValueError("evaluation.tasks=validation needs env.n_validation of at least 1")
        return self

    @property
    def n_evaluated(self) -> int:
        """Number of tasks that the evaluation puts the model into."""
        return self.env.n_validation if self.evaluation.tasks == "validation" else self.env.total_heldout

    @model_validator(mode="after")
    def _pretraining_fits(self) -> Config:
        pretrain, train, depth = self.pretrain, self.train, self.model.max_compression_depth
        compresses = self.model.kind == "compressed_ad" and depth > 0
        for key, used in (
            ("pretrain.enabled", pretrain.enabled),
            ("train.pretrained_encoder_path", train.pretrained_encoder_path is not None),
            ("train.reconstruction_weight", train.reconstruction_weight > 0),
        ):
            if used and not compresses:
                raise ValueError(f"{key} is for model.kind=compressed_ad with max_compression_depth above 0")
        if train.init_from_ad is not None:
            if self.model.kind != "compressed_ad":
                raise ValueError("train.init_from_ad is for model.kind=compressed_ad")
            if pretrain.enabled or train.pretrained_encoder_path is not None:
                raise ValueError(
                    "train.init_from_ad and a pre-trained encoder (pretrain.enabled or "
                    "train.pretrained_encoder_path) both bring a step embedding; choose one"
                )
        if pretrain.enabled and train.pretrained_encoder_path is not None:
            raise ValueError(
                "pretrain.enabled and train.pretrained_encoder_path both name an encoder; choose one"
            )
        if train.freeze_encoder and train.pretrained_encoder_path is None:
            raise ValueError(
                "train.freeze_encoder needs train.pretrained_encoder_path (for an encoder that a stage "
                "pre-trains, set pretrain.freeze)"
            )
        if pretrain.enabled and pretrain.batch_size == 1:
            raise ValueError("pretrain.batch_size=1 leaves nothing to compare: the collapse check needs two")
        weights = pretrain.depth_weights
        if weights is not None and (pretrain.enabled or train.reconstruction_weight):
            if len(weights) != depth:
                raise ValueError(
                    f"pretrain.depth_weights has {len(weights)} entries; depths 1 to "
                    f"max_compression_depth={depth} need {depth}"
                )
            if sum(weights) <= 0:
                raise ValueError("pretrain.depth_weights are all zero")
        return self

    @property
    def freezes_encoder(self) -> bool:
        """Whether action training leaves encoder and step embedding as they were loaded."""
        return self.train.freeze_encoder or (self.pretrain.enabled and self.pretrain.freeze)


def training_window(model: ModelConfig) -> int:
    """Steps of history that one training window takes at most (without burn-in)."""
    if model.kind == "ad":
        return model.n_transit
    if model.kind == "region_ad":
        return model.training_regions * model.compress_interval
    longest = model.compress_lengths[1]
    last = model.uncompressed_lengths
    return model.max_compression_depth * longest + (last[1] if last else longest)


class Arm(Section):
    """One family of cells of an experiment: fixed settings and a grid over others."""

    name: str = Field(description="What figures call it; the grid's values are appended.")
    set: dict[str, object] = Field({}, description="Dotted config keys with one value.")
    grid: dict[str, tuple[object, ...]] = Field({}, description="Dotted config keys with several values.")
    seeds: tuple[NonNegativeInt, ...] | None = Field(
        None, min_length=1, description="Training seeds of this arm's cells; default the experiment's."
    )


class ReportConfig(Section):
    """What the report says of itself."""

    title: str = Field("", description="Heading; default: the experiment's name.")
    question: str = Field("", description="A sentence under the heading.")
    reference: str | None = Field(
        None, description="Label of a model that all others are compared with, beside the best AD."
    )


class ExperimentConfig(Section):
    """A grid of cells over seeds, and a report."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Folder under runs/: letters, digits, dot, dash, underscore.",
    )
    description: str = Field("", description="What the experiment is for.")
    base: Config = Field(Config(), description="Settings that every cell shares.")
    arms: tuple[Arm, ...] = Field(min_length=1, description="Families of cells.")
    seeds: tuple[NonNegativeInt, ...] = Field(
        (0,), min_length=1, description="Training seeds of every cell, but for arms that have their own."
    )
    report: ReportConfig = Field(ReportConfig(), description="The report.")

    @model_validator(mode="after")
    def _names_differ(self) -> ExperimentConfig:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"two arms share a name: {sorted(n for n in set(names) if names.count(n) > 1)}")
        owners = [("", self.seeds), *((f"arm {arm.name!r}: ", arm.seeds or ()) for arm in self.arms)]
        for owner, seeds in owners:
            if len(set(seeds)) != len(seeds):
                raise ValueError(f"{owner}a seed stands twice in seeds={list(seeds)}")
        return self
