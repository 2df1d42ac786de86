"""The section ``env``: what every task family's config has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from cad.config.section import NonNegativeInt, PositiveInt, Section, Seed

_MOST_TASKS = 100_000
_SPLIT = ("n_tasks", "split_seed", "n_heldout", "n_validation")


class EnvConfig(Section):
    """Which tasks exist and how they are split.  Each family has a subclass with its own rules."""

    DEFAULT_HORIZON: ClassVar[int]
    DEFAULT_TASKS: ClassVar[int | None] = None
    """Tasks in use unless ``n_tasks`` says how many, where the family has more; None: all of them."""

    EVALUATED: ClassVar[tuple[str, ...]] = ("horizon",)
    """Settings that ``evaluation.env`` may change: they change neither tasks nor spaces."""

    name: str
    horizon: PositiveInt | None = Field(None, description="Steps an episode.")
    n_tasks: PositiveInt | None = Field(
        None,
        description=(
            "Use a random subset of this many tasks (drawn with split_seed); default all, or a number of the "
            "family's own where it has more than anyone collects."
        ),
    )
    split_seed: Seed = Field(0, description="Seed of the train / held-out shuffle of tasks.")
    n_heldout: PositiveInt | None = Field(
        None, description="Held-out tasks, never trained on; default: all but round(0.9 x tasks)."
    )
    n_validation: NonNegativeInt = Field(
        4, description="Tasks split off the training tasks to watch training; not trained on either."
    )

    def __hash__(self) -> int:
        """Of a family's section with mappings, too."""
        return hash(self.model_dump_json())

    @property
    @abstractmethod
    def family_size(self) -> int:
        """Number of tasks in the whole family, before any subset is drawn."""

    @property
    def steps_per_episode(self) -> int:
        """Horizon with the family's default filled in."""
        return self.horizon if self.horizon is not None else self.DEFAULT_HORIZON

    def changed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings, with those of ``evaluation.env`` in place of this config's."""
        return {**self.model_dump(mode="json"), **settings}

    def is_mixed(self, key: str) -> bool:  # noqa: ARG002
        """Whether episodes have lower values of a setting of :attr:`EVALUATED` too, as they are drawn."""
        return False

    @property
    def own_module(self) -> str | None:
        """The module of the user's that the settings name; None where they name none."""
        return self.name.partition(":")[0] if ":" in self.name else None

    @property
    def least_horizon(self) -> int:
        """Steps within which every task can be rewarded; its optimum would be 0 in fewer."""
        return 1

    @property
    def rules(self) -> dict[str, Any]:
        """Every setting that changes a transition, by key: all but those of the split."""
        return self.model_dump(exclude=set(_SPLIT)) | {"horizon": self.steps_per_episode}

    @property
    def total_tasks(self) -> int:
        """Number of tasks in use."""
        if self.n_tasks is not None:
            return self.n_tasks
        return min(self.family_size, self.DEFAULT_TASKS or self.family_size)

    @property
    def total_heldout(self) -> int:
        """Number of held-out tasks."""
        if self.n_heldout is not None:
            return self.n_heldout
        return self.total_tasks - round(0.9 * self.total_tasks)

    @model_validator(mode="after")
    def _split_fits(self) -> EnvConfig:
        if self.total_tasks > self.family_size:
            raise ValueError(f"n_tasks={self.n_tasks} but {self.in_words()} has {self.family_size} tasks")
        if self.total_tasks > _MOST_TASKS:
            raise ValueError(
                f"{self.in_words()} has {self.total_tasks} tasks, more than anyone collects; set n_tasks "
                f"(at most {_MOST_TASKS})"
            )
        if self.total_heldout < 1:
            raise ValueError(
                f"no held-out task: {self.total_tasks} tasks leave none at the default split; set n_heldout"
            )
        if self.total_heldout + self.n_validation >= self.total_tasks:
            raise ValueError(
                f"n_heldout={self.total_heldout} and n_validation={self.n_validation} leave no training "
                f"task of {self.total_tasks}; lower them (n_validation: 0 goes with train.validate_every: 0)"
            )
        return self

    def in_words(self) -> str:
        """The family and what sets its size, for messages."""
        return self.name
