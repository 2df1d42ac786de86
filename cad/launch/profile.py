"""What a cluster offers and what a stage needs: one typed YAML file a cluster."""

from __future__ import annotations

import typing
from typing import Annotated

from pydantic import Field, model_validator

from cad.config.schema import NonNegativeInt, PositiveFloat, PositiveInt, Section
from cad.experiments.plan import StageKind

# One line of printable characters: it becomes part of a job script (quoted, but a line is a line).
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
OneLine = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]
# What stands behind #SBATCH: sbatch understands a shell's quotes, but drops backslashes.
SbatchWord = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f\\]+$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
# Bind sources and the image are paths without the characters that apptainer and sbatch give a meaning.
PlainPath = Annotated[str, Field(pattern=r"^/[^\x00-\x1f\x7f,:%\\]*$")]


class StageResources(Section):
    """What one task (one stage of one cell) asks for."""

    partition: SbatchWord | None = Field(None, description="Partition; null: the cluster's default.")
    account: SbatchWord | None = Field(None, description="Account that is charged.")
    qos: SbatchWord | None = Field(None, description="Quality of service.")
    constraint: SbatchWord | None = Field(None, description="Node features, as for sbatch --constraint.")
    minutes: PositiveInt = Field(
        240, description="Time limit of one attempt; a stage that is not done by then is requeued."
    )
    memory_gb: PositiveFloat | None = Field(4.0, description="Memory a node, GiB; null: the default.")
    cpus: PositiveInt = Field(
        1, description="CPUs. Collecting histories uses all of them; the other stages use one thread."
    )
    gpus: NonNegativeInt = Field(0, description="GPUs a node; a training or evaluation with one runs on it.")
    nodes: PositiveInt = Field(1, description="Nodes of one task; more than one for trainings only.")
    tasks_per_node: PositiveInt = Field(
        1, description="Processes (ranks) a node, each with cpus CPUs; more than one for trainings only."
    )
    throttle: PositiveInt = Field(64, description="Tasks of one array that run at the same time (%N).")
    sbatch: dict[OptionName, bool | int | SbatchWord] = Field(
        {}, description="Further sbatch options without their dashes; true for one without a value."
    )

    @property
    def ranks(self) -> int:
        """Processes that work on one stage together."""
        return self.nodes * self.tasks_per_node


class Profile(Section):
    """A cluster."""

    resources: StageResources = Field(StageResources(), description="What every stage asks for.")
    stages: dict[StageKind, StageResources] = Field(
        {}, description="What stages of one kind ask for instead: only the keys that differ."
    )
    modules: tuple[OneLine, ...] = Field((), description="Environment modules to load.")
    environment: dict[VariableName, Line] = Field({}, description="Environment variables of the tasks.")
    scratch: PlainPath = Field(
        "/tmp", description="Folder on the node's own disk, for the caches of Triton and torch extensions."
    )
    signal_seconds: Annotated[int, Field(ge=10)] = Field(
        120, description="Seconds before the time limit at which a task is told to save and end."
    )
    max_requeues: NonNegativeInt = Field(
        50, description="Times that a task that saved (time limit, preemption) is requeued to go on."
    )
    max_crashes: NonNegativeInt = Field(
        2, description="Times that a task that was killed without a word is requeued to go on."
    )
    image: PlainPath | None = Field(
        None, description="Apptainer image that everything runs in; null: the environment of `cad submit`."
    )
    image_python: OneLine = Field("python3", description="Python inside the image.")
    binds: tuple[PlainPath, ...] = Field(
        (), description="Folders that the image sees under the same path; the runs folder is always one."
    )

    @model_validator(mode="after")
    def _only_trainings_are_shared(self) -> Profile:
        for kind in ("histories", "evaluate"):
            if self.for_stage(kind).ranks > 1:
                raise ValueError(
                    f"stages of kind {kind} are one process: nodes and tasks_per_node cannot be above 1; "
                    "set these under stages: train: (and pretrain:), not under resources:"
                )
        return self

    def for_stage(self, kind: str) -> StageResources:
        """What a stage of this kind asks for."""
        own = dict(self.stages).get(typing.cast(StageKind, kind))
        if own is None:
            return self.resources
        return self.resources.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})
