"""The source agents, which write the learning histories."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter, model_validator

from cad.config.kinds import section_by_kind
from cad.config.section import (
    COUNT,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    Seed,
)
from cad.errors import UsageError
from cad.storage import sha256_file

# Tasks that scripted agents learn together, and steps of all their streams: a step's cost hardly grows with
# the number of streams up to some hundreds, and what is recorded has to fit into memory.
_MOST_TASKS, _MOST_STEPS = 32, 4_000_000


class SourceConfig(Section):
    """What source agents of all kinds have."""

    AGENT: ClassVar[str]
    """What reports call one of the agents."""
    AGENTS: ClassVar[str]
    """What reports call all of them."""
    METHOD: ClassVar[str]
    """What it is to learn from their histories, for the report."""
    IS_ALGORITHM: ClassVar[bool] = True
    """Whether the agents are known to learn, so that there is an algorithm to distil."""
    DRAWS: ClassVar[int] = 1
    """Raised when agents draw their random numbers in another way: histories of before are not reused."""

    kind: str
    n_streams: PositiveInt = Field(100, description="Parallel streams (histories) a task.")
    steps_per_stream: PositiveInt = Field(1000, description="Environment steps kept of each stream.")
    loads: tuple[PositiveInt, ...] | None = Field(
        None,
        min_length=1,
        description="For tasks of several facts (cues): each stream meets a random subset of them, its size "
        "drawn from these; default: all facts.",
    )
    seed: Seed = Field(0, description="Seed; task k learns with a seed derived from it and k.")

    @property
    def iteration_steps(self) -> int:
        """Steps of a stream in which an agent does everything that takes time once."""
        raise NotImplementedError

    @property
    def rate_settings(self) -> tuple[object, ...]:
        """What the time of a step depends on."""
        raise NotImplementedError

    @property
    def tasks_at_once(self) -> int:
        """How many tasks are best learned together by one process; it changes no history."""
        return max(1, min(_MOST_TASKS, _MOST_STEPS // (self.n_streams * self.steps_per_stream)))

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the histories, as JSON data."""
        data = self.model_dump(mode="json")
        # These came later: directories of before stay valid.
        if data["kind"] == "ppo":
            del data["kind"]
        for key in ("loads", "learner"):
            if data.get(key, 0) is None:
                del data[key]
        return data


class PPOConfig(SourceConfig):
    """PPO agents that learn from scratch (stable-baselines3 names)."""

    AGENT: ClassVar[str] = "PPO"
    AGENTS: ClassVar[str] = "reinforcement-learning agents"
    METHOD: ClassVar[str] = "algorithm distillation of PPO, which learned every task from scratch"

    kind: Literal["ppo"] = Field("ppo", description="PPO learns each task from scratch.")
    n_steps: PositiveInt = Field(80, description="Steps a stream between two PPO updates.")
    batch_size: Annotated[int, Field(ge=2), COUNT] = Field(
        1000, description="PPO minibatch size, in transitions, over which advantages are normalised."
    )
    n_epochs: PositiveInt = Field(5, description="Passes over the data in one PPO update.")
    learning_rate: PositiveFloat = Field(3e-3, description="Adam learning rate of PPO.")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(0.9, description="Discount.")
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = Field(0.95, description="GAE lambda.")
    clip_range: PositiveFloat = Field(0.3, description="PPO clip range.")
    ent_coef: NonNegativeFloat = Field(0.0, description="Weight of the entropy bonus.")
    hidden: PositiveInt = Field(64, description="Width of the two hidden layers of policy and value.")

    @property
    def iteration_steps(self) -> int:
        """Steps between two updates."""
        return self.n_steps

    @property
    def tasks_at_once(self) -> int:
        """PPO learns a task after the other."""
        return 1

    @property
    def rate_settings(self) -> tuple[object, ...]:
        """See :attr:`SourceConfig.rate_settings`."""
        return (self.n_streams, self.batch_size, self.n_steps, self.n_epochs, self.hidden)

    @model_validator(mode="after")
    def _batch_fits(self) -> PPOConfig:
        rollout = self.n_steps * self.n_streams
        if self.batch_size > rollout:
            raise ValueError(
                f"source.batch_size={self.batch_size} is more than one PPO roll-out holds "
                f"(n_steps x n_streams = {self.n_steps} x {self.n_streams} = {rollout}); with few streams "
                f"set source.batch_size to at most {rollout}, or raise source.n_steps"
            )
        return self


class LearnerConfig(SourceConfig):
    """The family's own scripted learner: explores until it knows, then exploits what it knows."""

    AGENT: ClassVar[str] = "scripted learner"
    AGENTS: ClassVar[str] = "scripted learners"
    METHOD: ClassVar[str] = "algorithm distillation of a program that learned every task from scratch"
    DRAWS: ClassVar[int] = 2  # 1 drew only for the streams that had a use for the number

    kind: Literal["learner"] = Field(description="The task family's own scripted learner.")
    learner: str | None = Field(
        None, description="Which of the family's learners; default the first that it names."
    )
    epsilon: Probability = Field(0.03, description="Share of random actions.")

    @property
    def iteration_steps(self) -> int:
        """All steps are alike: enough of them to be timed."""
        return 100

    @property
    def rate_settings(self) -> tuple[object, ...]:
        """See :attr:`SourceConfig.rate_settings`."""
        return (self.kind, self.n_streams, *([] if self.learner is None else [self.learner]))


class NoiseDistillationConfig(SourceConfig):
    """An oracle whose actions are replaced by random ones, ever fewer (arXiv:2312.12275).

    The share of random actions falls in equal steps from 1 at the first step of a stream to 0 after nine
    tenths of it, as in the public code of the paper.  No agent learns: a model of such histories imitates
    an oracle, and reports say so.
    """

    AGENT: ClassVar[str] = "oracle behind noise"
    AGENTS: ClassVar[str] = "oracles, behind noise that falls from 1 to 0,"
    METHOD: ClassVar[str] = (
        "imitation of an oracle (noise distillation, arXiv:2312.12275), not algorithm distillation: the "
        "histories are of optimal policies behind noise that falls from 1 to 0, and no source agent learned"
    )
    IS_ALGORITHM: ClassVar[bool] = False

    kind: Literal["noise_distillation"] = Field(
        description="The optimal policy behind random actions, whose share falls from 1 to 0."
    )

    @property
    def iteration_steps(self) -> int:
        """All steps are alike: enough of them to be timed."""
        return 100

    @property
    def rate_settings(self) -> tuple[object, ...]:
        """See :attr:`SourceConfig.rate_settings`."""
        return (self.kind, self.n_streams)


_CONTINUOUS = ("DDPG", "SAC", "TD3")
_OURS = ("policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model")


class SB3Config(SourceConfig):
    """Agents of any algorithm of stable-baselines3 that takes discrete actions."""

    AGENT: ClassVar[str] = "reinforcement-learning agent"
    AGENTS: ClassVar[str] = "reinforcement-learning agents"
    METHOD: ClassVar[str] = (
        "algorithm distillation of an algorithm of stable-baselines3, which learned every task from scratch"
    )

    kind: Literal["sb3"] = Field(description="An algorithm of stable-baselines3 by its name.")
    algorithm: str = Field(
        pattern=r"^[A-Za-z]\w*$",
        description="kind=sb3: name of the class, such as A2C or DQN; policy MlpPolicy.",
    )
    arguments: dict[str, Any] = Field(
        {}, description="kind=sb3: arguments of the algorithm, such as {learning_rate: 0.001, n_steps: 5}."
    )

    @property
    def iteration_steps(self) -> int:
        """Enough steps of any algorithm to be timed."""
        return 100

    @property
    def tasks_at_once(self) -> int:
        """Agents learn a task after the other."""
        return 1

    @property
    def rate_settings(self) -> tuple[object, ...]:
        """See :attr:`SourceConfig.rate_settings`."""
        return (self.kind, self.algorithm, self.n_streams, sorted(self.arguments.items()))

    @model_validator(mode="after")
    def _actions_and_arguments_fit(self) -> SB3Config:
        if self.algorithm in _CONTINUOUS:
            raise ValueError(
                f"source.algorithm={self.algorithm} takes continuous actions, but actions here are "
                "discrete (bins of a Box); use A2C, DQN or PPO"
            )
        taken = sorted(set(self.arguments) & set(_OURS))
        if taken:
            raise ValueError(
                f"source.arguments: {', '.join(taken)} cannot be set; source.seed seeds the agents"
            )
        return self


@lru_cache(maxsize=16)
def _content(path: str, _changed: int, _size: int) -> str:
    """A file's SHA-256; all cells of an experiment ask for it."""
    return sha256_file(Path(path))


class FileConfig(SourceConfig):
    """Histories that are there already: a file of the layout that docs/histories.md describes.

    What made them is not known, nor is chance in them; the audit says what it cannot check.
    """

    AGENT: ClassVar[str] = "recorded agent"
    AGENTS: ClassVar[str] = "agents of another program"
    METHOD: ClassVar[str] = (
        "algorithm distillation of imported histories; what made them, and whether it learned, is not known"
    )
    IS_ALGORITHM: ClassVar[bool] = False
    CONTENT: ClassVar[tuple[str, ...]] = ("sha256:", "minari:")
    """What begins a ``path`` that names a content, in what was made from a file."""

    kind: Literal["file"] = Field(description="Histories of a file (cad histories import).")
    path: str = Field(
        min_length=1, description="kind=file: the HDF5 file; n_streams and steps_per_stream are its own."
    )

    @property
    def iteration_steps(self) -> int:
        """Nothing is collected."""
        return 100

    @property
    def rate_settings(self) -> tuple[object, ...]:
        """See :attr:`SourceConfig.rate_settings`."""
        return (self.kind,)

    @property
    def identity(self) -> dict[str, Any]:
        """The file's content counts, not its path; :class:`UsageError` where it cannot be read."""
        path = self.path
        if not path.startswith(self.CONTENT):
            try:
                status = Path(path).stat()
                path = f"sha256:{_content(path, status.st_mtime_ns, status.st_size)}"
            except OSError as error:
                raise UsageError(f"source.path: cannot read {path} ({error.strerror})") from error
        return {
            "kind": self.kind, "path": path, "n_streams": self.n_streams,
            "steps_per_stream": self.steps_per_stream,
        }  # fmt: skip

    @model_validator(mode="after")
    def _no_facts_are_chosen(self) -> FileConfig:
        if self.loads is not None:
            raise ValueError("source.loads has no effect on histories that are there already; leave it out")
        return self


SOURCES: dict[str, type[SourceConfig]] = {
    "ppo": PPOConfig,
    "learner": LearnerConfig,
    "noise_distillation": NoiseDistillationConfig,
    "file": FileConfig,
    "sb3": SB3Config,
}
DEFAULT_SOURCE = PPOConfig()

if TYPE_CHECKING:
    AnySourceConfig = SourceConfig
else:
    AnySourceConfig = section_by_kind(SOURCES, "kind", DEFAULT_SOURCE.kind)


def source_config(settings: object) -> SourceConfig:
    """The section ``source`` of plain data; raises pydantic's ``ValidationError``, a ``ValueError``."""
    config: SourceConfig = TypeAdapter(AnySourceConfig).validate_python(settings)
    return config
