"""An experiment: a grid of cells over seeds, and a report."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cad.config.section import Probability, Section, TrainingSeed
from cad.schema.cell import Config


class EqualState(Section):
    """Which model's state an arm's models are to match in bytes."""

    to: str = Field(description="Name of another arm.")
    at: dict[str, object] = Field(
        {}, description="Dotted keys of that arm's grid with a value each: the point that is meant."
    )


class Arm(Section):
    """One family of cells of an experiment: fixed settings and a grid over others."""

    name: str = Field(
        pattern=r"^\S.*$",
        max_length=200,
        description="What figures call it, on one line; the grid's values are appended.",
    )
    set: dict[str, object] = Field({}, description="Dotted config keys with one value.")
    grid: dict[str, tuple[object, ...]] = Field({}, description="Dotted config keys with several values.")
    equal_state: EqualState | None = Field(
        None,
        description="Choose the setting that a state's size follows from (model.n_transit of ad, n_hidden of "
        "gru, head_width of linear_attention): the largest whose state has no more bytes than another arm's.",
    )
    seeds: tuple[TrainingSeed, ...] | None = Field(
        None, min_length=1, description="Training seeds of this arm's cells; default the experiment's."
    )


class Prune(Section):
    """Which trainings end early, by their returns on the validation tasks."""

    behind: Annotated[float, Field(gt=0, le=1)] = Field(
        description="A training ends when its best validation return is further than this behind another's "
        "of the experiment after as many updates (return / optimum)."
    )
    after: Probability = Field(0.5, description="Share of its updates before which no training is ended.")


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
        max_length=100,
        description="Folder under runs/: up to 100 letters, digits, dots, dashes, underscores.",
    )
    description: str = Field("", description="What the experiment is for.")
    base: Config = Field(Config(), description="Settings that every cell shares.")
    arms: tuple[Arm, ...] = Field(min_length=1, description="Families of cells.")
    steps_per_update: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="Choose each model's train.batch_size so that an update sees this many steps of history: "
        "fewer windows where they are longer. An arm that sets train.batch_size keeps its own.",
    )
    prune: Prune | None = Field(
        None,
        description="End trainings that fall hopelessly behind on validation tasks; null: never. Which ones "
        "depends on the order in which they run; the report names them.",
    )
    seeds: tuple[TrainingSeed, ...] = Field(
        (0,), min_length=1, description="Training seeds of every cell, but for arms that have their own."
    )
    report: ReportConfig = Field(ReportConfig(), description="The report.")
