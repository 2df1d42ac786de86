"""The sections of a training: what every loop has, action training, pre-training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cad.config.section import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    TrainingSeed,
)

Engine = Literal["plain", "accelerate", "deepspeed"]
Logger = Literal["tensorboard", "wandb", "mlflow"]


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
    loggers: tuple[Logger, ...] = Field(
        ("tensorboard",),
        description="Who shows the metrics beside metrics.jsonl; wandb and mlflow are offline, in the "
        "stage's folder, unless WANDB_MODE or MLFLOW_TRACKING_URI say otherwise.",
    )
    checkpoint_every: PositiveInt = Field(250, description="Updates between checkpoints.")
    keep_checkpoints: PositiveInt = Field(
        2, description="Newest checkpoints kept, beside that of the best validation."
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast of forward and backward.")
    compile: bool = Field(
        False, description="torch.compile the model (needs a C++ compiler); on a GPU with CUDA graphs."
    )
    stream: bool = Field(
        False, description="Histories larger than memory: windows are read from an uncompressed copy on disk."
    )
    engine: Engine = Field(
        "plain",
        description="plain: one process; accelerate: data parallel over ranks; deepspeed: ZeRO over ranks. "
        "Ranks come from --ranks or from the job, and divide batch_size.",
    )
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = Field(
        None, description="engine=deepspeed: ZeRO stage, what ranks shard; default 1."
    )
    gradient_accumulation: PositiveInt = Field(
        1, description="Parts that a rank's share of the batch is worked through in: less memory."
    )

    @property
    def leaves_weights_unused(self) -> bool:
        """Whether some update gives some weight no gradient; data-parallel engines have to know."""
        return False

    @property
    def zero(self) -> int:
        """``zero_stage`` with its default filled in."""
        return 1 if self.zero_stage is None else self.zero_stage

    @model_validator(mode="after")
    def _engine_fits(self) -> LoopConfig:
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"loggers={list(self.loggers)} lists one twice")
        if self.zero_stage is not None and self.engine != "deepspeed":
            raise ValueError(
                f"zero_stage={self.zero_stage} needs engine=deepspeed; engine={self.engine} has no ZeRO "
                "(accelerate's own DeepSpeed plugin is not used: on a CPU it silently trains without it)"
            )
        if self.engine == "deepspeed" and self.optimizer != "adamw":
            raise ValueError(
                "engine=deepspeed needs optimizer=adamw: ZeRO shards flattened parameters, and Muon "
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
        0.1, description="Weight of the token-type loss, which is added to the action loss."
    )
    burn_in: NonNegativeInt = Field(
        0,
        description="Up to this many earlier segments are compressed without gradient; of a recurrent model, "
        "windows of n_unroll steps that only feed its state.",
    )
    depth_curriculum: Probability = Field(
        0.0,
        description="Share of the updates over which windows grow: one segment at first, then 2, 4, ... and "
        "at last all max_compression_depth + 1.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Compute compressions and decodings again in the backward pass instead of keeping what "
        "is in between: deep unrolling in less memory, a third more time.",
    )
    validate_every: NonNegativeInt = Field(500, description="Updates between validation roll-outs; 0: never.")
    validation_episodes: PositiveInt = Field(20, description="Episodes of a validation roll-out.")
    validation_rollouts: PositiveInt = Field(4, description="Validation roll-outs a task.")
    loss_on: Literal["all", "last"] = Field(
        "all", description="all: every step carries loss; last: the last step of every segment alone."
    )
    reconstruction_weight: NonNegativeFloat = Field(
        0.0,
        description="Weight of an auxiliary loss: a small decoder reconstructs the compressed "
        "steps from the latents (pretrain.objective, decoder_n_layer and depth_weights say how).",
    )
    watchdog_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.3,
        description="Stop if the loss is still near log(actions) after this share of the updates; null: off.",
    )
    pretrained_encoder_path: str | None = Field(
        None,
        description="Start with the encoder, the first latents, the step embedding and its "
        "norm of this file (a pre-training's encoder.safetensors or a trained model.safetensors).",
    )
    init_from_ad: str | None = Field(
        None,
        description="Start with the decoder and the step embedding of a trained AD: the path "
        "of its model.safetensors, or the word stage: the AD of the same settings is trained first, in a "
        "stage that cells share.",
    )
    weights: str | None = Field(
        None,
        description="Take all weights from this file of `cad export` (or a model.safetensors) and train "
        "nothing; the other settings of train then have no effect.",
    )
    freeze_encoder: bool = Field(
        False, description="Keep what pretrained_encoder_path brought as it is; false: fine-tune it."
    )

    @property
    def leaves_weights_unused(self) -> bool:
        """After a burn-in, which has no gradient, nothing reaches the first latents; without a compression,
        the encoder."""
        return self.burn_in > 0 or self.depth_curriculum > 0


class PretrainConfig(LoopConfig):
    """Pre-training of the encoder: histories are compressed, a small decoder reconstructs them."""

    enabled: bool = Field(False, description="Pre-train the encoder in a stage of its own, shared by cells.")
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
    seed: TrainingSeed | None = Field(
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
