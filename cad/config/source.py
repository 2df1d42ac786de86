"""The source agents, which write the learning histories."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cad.config.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


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
