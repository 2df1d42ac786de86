"""The roll-outs of an evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cad.config.section import AMOUNT, NonNegativeInt, PositiveInt, Section, Seed

# In 32 bits, logits that are divided by less are infinite.
Temperature = Annotated[float, Field(ge=1e-6), AMOUNT]


class EvaluationConfig(Section):
    """Roll-outs in tasks that the model never saw."""

    tasks: Literal["heldout", "validation"] = Field(
        "heldout",
        description="heldout: for claims; validation: for choosing settings, held-out tasks unseen.",
    )
    env: dict[str, int] | None = Field(
        None,
        description="Settings of the environment that differ in roll-outs, such as {horizon: 40}, or "
        "{corridor: 10000} of T-mazes: a model of short ones is put into long ones. Default: none.",
    )
    n_episodes: PositiveInt = Field(50, description="Episodes a roll-out; memory is kept across them.")
    n_rollouts: PositiveInt = Field(8, description="Roll-outs a task.")
    temperature: Temperature = Field(1.0, description="Softmax temperature of sampled actions.")
    first_temperature: Temperature | None = Field(
        None,
        description="Temperature of the first episode, from which it goes in equal steps to `temperature`: "
        "explore first, then do what was found; default: the same throughout.",
    )
    anneal_episodes: Annotated[int, Field(ge=2)] = Field(
        50, description="first_temperature: the episode from which on `temperature` holds."
    )
    greedy: bool = Field(False, description="Take the most likely action instead of sampling.")
    knock_out: Literal["other", "noise"] | None = Field(
        None,
        description="Replace what a model has compressed, once, to see what it uses it for. other: by "
        "that of a roll-out in another task; noise: by normal noise of the same mean and spread. "
        "Default: never.",
    )
    knock_out_episode: Annotated[int, Field(ge=2)] = Field(
        26, description="knock_out: the episode at whose start it happens, counted from 1."
    )
    demonstrated_episodes: NonNegativeInt = Field(
        0,
        description="In so many first episodes of a roll-out the task's optimal actions are taken, and the "
        "model watches. What it then lacks it does not remember: it did not have to find it. Default: none.",
    )
    seed: Seed = Field(1000, description="Seed of the roll-outs; independent of the training seed.")

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
        if self.knock_out is not None and self.knock_out_episode > self.n_episodes:
            raise ValueError(
                f"knock_out_episode={self.knock_out_episode} is after the last of n_episodes="
                f"{self.n_episodes}"
            )
        if self.knock_out is not None and self.knock_out_episode <= self.demonstrated_episodes:
            raise ValueError(
                f"knock_out_episode={self.knock_out_episode} is one of demonstrated_episodes="
                f"{self.demonstrated_episodes}, where a model's return is not its own: set it above that"
            )
        if self.demonstrated_episodes >= self.n_episodes:
            raise ValueError(
                f"demonstrated_episodes={self.demonstrated_episodes} leaves the model none of n_episodes="
                f"{self.n_episodes} to act in"
            )
        return self
