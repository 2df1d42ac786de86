"""Tasks of any Gymnasium environment: one id, and what differs from task to task."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cad.config.section import NonNegativeInt, PositiveInt, Section
from cad.envs.config import EnvConfig
from cad.envs.family import Spaces, TaskFamily
from cad.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from cad.envs.arrays import FloatArray, IntArray, NoiseArray
    from cad.envs.batched import Environments
    from cad.envs.foreign import Codec
    from cad.envs.noise import Keys


class GymnasiumTask(Section):
    """What makes a task: keyword arguments, a seed, options of reset; any of them together."""

    kwargs: dict[str, Any] = Field({}, description="Keyword arguments of gymnasium.make.")
    seed: NonNegativeInt | None = Field(
        None,
        description="Seed of every reset; default: the first one's is random, later ones go on from there.",
    )
    options: dict[str, Any] = Field({}, description="Options of every reset.")

    def in_words(self) -> str:
        """The task as its settings."""
        parts = [f"{key}={value}" for key, value in {**self.kwargs, **self.options}.items()]
        return ", ".join([*parts, *([] if self.seed is None else [f"seed {self.seed}"])]) or "as it is"


class GymnasiumConfig(EnvConfig):
    """Tasks of a Gymnasium environment."""

    name: Literal["gymnasium"] = Field("gymnasium", description="Task family.")
    id: str = Field(description="Gymnasium's id, such as FrozenLake-v1; module:Id imports the module first.")
    tasks: tuple[GymnasiumTask, ...] = Field(
        min_length=2, description="What differs from task to task: kwargs, seed, options."
    )
    kwargs: dict[str, Any] = Field({}, description="Keyword arguments of gymnasium.make for all tasks.")
    horizon: PositiveInt = Field(description="Most steps of an episode; it is truncated then.")
    bins: Annotated[int, Field(ge=2)] | None = Field(
        None, description="Values of each dimension of a Box action, from its low to its high."
    )
    reward_values: tuple[float, ...] | None = Field(
        None, min_length=2, description="All rewards that there are; default: any number, embedded by symlog."
    )
    reference_return: float | None = Field(
        None, description="Return that counts as 1 in reports; default: they show returns as they are."
    )
    random_return: float = Field(
        0.0, description="Return that counts as 0 in reports, such as that of random actions."
    )

    @property
    def family_size(self) -> int:
        """A task an entry of ``tasks``."""
        return len(self.tasks)

    @property
    def own_module(self) -> str | None:
        """See :attr:`EnvConfig.own_module`; that of an id ``module:Id``."""
        return self.id.partition(":")[0] if ":" in self.id else None

    @model_validator(mode="after")
    def _tasks_differ(self) -> GymnasiumConfig:
        known: dict[str, int] = {}
        for number, task in enumerate(self.tasks):
            whole = task.model_copy(update={"kwargs": {**self.kwargs, **task.kwargs}})
            text = json.dumps(whole.model_dump(), sort_keys=True, default=str)
            other = known.setdefault(text, number)
            if other != number:
                raise ValueError(f"tasks {other} and {number} are the same ({task.in_words()}); list it once")
        return self

    @model_validator(mode="after")
    def _returns_differ(self) -> GymnasiumConfig:
        if self.reference_return is not None and self.reference_return <= self.random_return:
            raise ValueError(
                f"reference_return={self.reference_return:g} is not above random_return="
                f"{self.random_return:g}"
            )
        if self.reference_return is None and self.random_return:
            raise ValueError("random_return needs reference_return: scores lie between the two")
        if self.reward_values is not None and len(set(self.reward_values)) < len(self.reward_values):
            raise ValueError(f"reward_values={list(self.reward_values)} lists a value twice")
        return self

    def in_words(self) -> str:
        """See :meth:`EnvConfig.in_words`."""
        return f"{self.name} {self.id}"


class GymnasiumTasks(TaskFamily[GymnasiumConfig]):
    """Tasks of any Gymnasium environment, told apart by keyword arguments, seeds or options of reset.

    **Observation** ``Discrete``, ``MultiDiscrete`` and ``MultiBinary`` as whole numbers, ``Box`` as floats,
    ``Dict`` and ``Tuple`` of these, one number after the other.

    **Action** ``Discrete``, ``MultiDiscrete``, or ``Box`` with ``bins`` values a dimension; several numbers
    are one action each combination.

    **Reward** one of ``reward_values``, or any float.

    **Termination, truncation** as the environment says, truncation after ``horizon`` steps too.

    **Chance**: the first episode is reset with a seed that follows from the environment's key, later ones go
    on from there; every one with the task's own seed, where it has one.  There are no rules to derive a
    transition from again.

    **Task id** the place in ``tasks``, from 0.
    """

    config_class = GymnasiumConfig
    ends_early: ClassVar[bool] = True
    has_rules: ClassVar[bool] = False

    @cached_property
    def codec(self) -> Codec:
        """Between the environment's spaces and ours."""
        from cad.envs.foreign import Codec

        return Codec(self.make(self.task_ids[0] if self.task_ids else 0), self.config.bins, self.config.id)

    @property
    def spaces(self) -> Spaces:
        """Those of the first task; another that differs is refused when it is made."""
        values = self.config.reward_values
        return self.codec.spaces(0 if values is None else len(values), values)

    @property
    def rewards_tell(self) -> bool:
        """See :attr:`TaskFamily.rewards_tell`; the environment need not be made for it."""
        values = self.config.reward_values
        return values is not None and min(values) == 0

    @property
    def start(self) -> tuple[int, ...]:
        """Not one state: that is the environment's."""
        raise NotImplementedError

    def make(self, task_id: int) -> Any:
        """The environment of a task; :class:`UsageError` where Gymnasium cannot make it."""
        import gymnasium as gym

        task = self.config.tasks[task_id]
        try:
            return gym.make(self.config.id, disable_env_checker=True, **{**self.config.kwargs, **task.kwargs})
        except Exception as error:  # code of others may raise anything
            raise UsageError(
                f"env.id={self.config.id}: gymnasium.make fails for task {task_id} ({task.in_words()}): "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ) from error

    def environments(
        self, task_ids: npt.ArrayLike, keys: Keys | None = None, loads: Sequence[int] | None = None
    ) -> Environments:
        """See :meth:`TaskFamily.environments`."""
        from cad.envs.foreign import ForeignEnv

        return ForeignEnv(self, task_ids, keys)

    @property
    def tried_tasks(self) -> tuple[int, ...]:
        """The first task, and one for each other set of keyword arguments and options."""
        first: dict[tuple[frozenset[str], frozenset[str]], int] = {}
        for task_id in self.task_ids:
            task = self.config.tasks[task_id]
            first.setdefault((frozenset(task.kwargs), frozenset(task.options)), task_id)
        return tuple(first.values())

    def goal(self, task_id: int) -> tuple[int, ...]:
        """The task's place in ``tasks``."""
        self._check_id(task_id)
        return (task_id,)

    @property
    def bits_to_remember(self) -> float:
        """Which of the tasks it is."""
        return math.log2(self.config.family_size)

    @property
    def has_optimum(self) -> bool:
        """Whether ``reference_return`` is stated."""
        return self.config.reference_return is not None

    @property
    def random_return(self) -> float:
        """As stated."""
        return self.config.random_return

    @property
    def best_in_words(self) -> str:
        """The stated ``reference_return`` is no optimum: it may be exceeded."""
        return "reference return" if self.has_optimum else ""

    @property
    def score_in_words(self) -> str:
        """What is stated, or that nothing is."""
        reference, base = self.config.reference_return, self.config.random_return
        if reference is None:
            return "1, that is, shown as they are, as no env.reference_return is stated"
        return f"a stated reference_return of {reference:g}" + (
            f", both counted from a random_return of {base:g}" if base else ""
        )

    def optimal_return(self, task_id: int) -> float:
        """The stated ``reference_return``; 1 where there is none, so that returns stay as they are."""
        self._check_id(task_id)
        return 1.0 if self.config.reference_return is None else self.config.reference_return

    def describe(self, task_id: int) -> str:
        """See :meth:`TaskFamily.describe`."""
        self._check_id(task_id)
        return f"{self.config.id}: {self.config.tasks[task_id].in_words()}"

    def short_name(self, task_id: int) -> str:
        """See :meth:`TaskFamily.short_name`."""
        return f"task {task_id}"

    def optimal_actions(
        self, goals: IntArray, states: IntArray, hidden: IntArray, steps_left: int | IntArray
    ) -> IntArray:
        """Unknown."""
        raise UsageError(
            f"env.name={self.name}: the optimal policy of {self.config.id} is unknown, which "
            "source.kind=noise_distillation needs; use source.kind=ppo"
        )

    def transition(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        actions: IntArray,
        noise: NoiseArray | None = None,
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """There are no rules; see :meth:`environments`."""
        raise NotImplementedError
