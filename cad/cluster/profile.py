"""What a cluster offers and what a stage needs: one typed YAML file for each cluster."""

from __future__ import annotations

import re
import shlex
import typing
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from cad.config import Section
from cad.config.keys import FORMER_NAMES
from cad.config.section import NonNegativeInt, PositiveFloat, PositiveInt
from cad.experiments.plan.stage import StageKind

# One line of printable characters: it becomes part of a job script (quoted, but a line is a line).
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
OneLine = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]
# A value after #SBATCH: sbatch understands the shell's quotes, but drops backslashes.
SbatchWord = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f\\]+$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
# Paths of binds and the image: without the characters that are special for apptainer and sbatch.
PlainPath = Annotated[str, Field(pattern=r"^/[^\x00-\x1f\x7f,:%\\]*$")]
# The same, but it may contain $VARIABLES and begin with one.
NodePath = Annotated[str, Field(pattern=r"^(/|\$\{?[A-Za-z_])[^\x00-\x1f\x7f,:%\\]*$")]
# GPUs: a number, or a type as the cluster names it and a number.
GpuRequest = NonNegativeInt | Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*:[1-9][0-9]*$")]
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII)
# cad sets these itself, or finds its jobs by them.
_OWN_OPTIONS = (
    "array",
    "dependency",
    "error",
    "job-name",
    "open-mode",
    "output",
    "parsable",
    "signal",
    "test-only",
    "wait",
    "wrap",
)
# They have a key of their own: written twice, one of the two would be without effect.
_KEY_OF_OPTION = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "time": "minutes",
    "mem": "memory_gb",
    "mem-per-cpu": "memory_per_cpu_gb",
    "cpus-per-task": "cpus",
    "gpus-per-node": "gpus",
    "nodes": "nodes",
    "ntasks-per-node": "tasks_per_node",
}


class AllocationRequest(Section):
    """The allocation that one task (one stage of one cell) asks for."""

    partition: SbatchWord | None = Field(
        None, description="Partition, or several with commas between; null: the cluster's default."
    )
    account: SbatchWord | None = Field(None, description="Account to charge.")
    qos: SbatchWord | None = Field(None, description="Quality of service.")
    constraint: SbatchWord | None = Field(None, description="Node features, as for sbatch --constraint.")
    minutes: PositiveInt = Field(
        240,
        description="Time limit of one attempt; a stage that is not done by then is requeued and goes on.",
    )
    memory_gb: PositiveFloat | None = Field(
        4.0, description="Memory per node, GiB; null: the cluster's default."
    )
    memory_per_cpu_gb: PositiveFloat | None = Field(
        None, description="Memory per CPU, GiB, instead of memory_gb, where a site wants it so."
    )
    cpus: PositiveInt = Field(
        1,
        description="CPUs. Collecting histories and packs of trainings use all of them; the other stages use "
        "one thread.",
    )
    gpus: GpuRequest = Field(
        0,
        description="GPUs per node, with a type where the cluster names them (a100:2); a training or "
        "evaluation that has one runs on it.",
    )
    nodes: PositiveInt = Field(1, description="Nodes of one task; more than one only for trainings.")
    tasks_per_node: PositiveInt = Field(
        1, description="Processes (ranks) per node, each with cpus CPUs; more than one only for trainings."
    )
    throttle: PositiveInt = Field(
        64,
        description="Tasks of one kind of stage that run at the same time, over all arrays of a submission.",
    )
    pack: PositiveInt | Literal["auto"] = Field(
        1,
        description="Trainings that one task works on together, at most: those of one shape in a process, on "
        "CPUs a process a core (cpus); memory_gb and minutes are the task's. auto: as many as its memory "
        "holds. Other stages take no notice of it.",
    )
    sbatch: dict[OptionName, bool | int | SbatchWord] = Field(
        {},
        description="Further sbatch options without their dashes (exclude, nodelist, licenses, reservation, "
        "mail-user, mail-type, gres, ...); true for one without a value.",
    )

    @property
    def n_gpus(self) -> int:
        """GPUs per node."""
        return self.gpus if isinstance(self.gpus, int) else int(self.gpus.rpartition(":")[2])

    @property
    def task_memory_gb(self) -> float | None:
        """Memory of a task of one process, GiB; None: the cluster's default."""
        return self.memory_gb if self.memory_per_cpu_gb is None else self.memory_per_cpu_gb * self.cpus

    @property
    def ranks(self) -> int:
        """Processes that share one stage."""
        return self.nodes * self.tasks_per_node


class Retry(Section):
    """What happens to tasks that ended for one reason."""

    times: NonNegativeInt = Field(description="How often such a task is requeued.")


class MemoryRetry(Retry):
    """What happens to tasks that ran out of memory."""

    memory: Annotated[float, Field(gt=1, le=16)] = Field(
        2.0, description="How much more memory each of these retries gets: a factor."
    )


class Retries(Section):
    """What the job script does by itself, by the reason that a task ended for."""

    saved: Retry = Field(
        Retry(times=50), description="It saved, at its time limit or because another job needs its node."
    )
    killed: Retry = Field(Retry(times=2), description="It was killed without reporting an error.")
    node_fail: Retry = Field(
        Retry(times=50), description="Its node failed. Slurm starts it again; after so many times it ends."
    )
    out_of_memory: MemoryRetry = Field(MemoryRetry(times=0), description="It ran out of memory.")


class Profile(Section):
    """A cluster."""

    model_config = ConfigDict(
        json_schema_extra={
            FORMER_NAMES: {
                "max_requeues": "retry: {saved: {times: ...}}",
                "max_crashes": "retry: {killed: {times: ...}}",
            }
        }
    )

    resources: AllocationRequest = Field(AllocationRequest(), description="The allocation of every stage.")
    stages: dict[StageKind, AllocationRequest] = Field(
        {}, description="Other allocations for stages of one kind: only the keys that differ."
    )
    modules: tuple[OneLine, ...] = Field((), description="Environment modules to load.")
    environment: dict[VariableName, Line] = Field({}, description="Environment variables of the tasks.")
    scratch: NodePath = Field(
        "/tmp",
        description="Folder on the node's own disk, for the caches of compilers; $VARIABLES are the node's.",
    )
    signal_seconds: Annotated[int, Field(ge=10)] = Field(
        120, description="A task gets the signal to save and end this many seconds before its time limit."
    )
    retry: Retries = Field(Retries(), description="How often a task is requeued, by reason.")
    bad_node_seconds: NonNegativeInt = Field(
        60,
        description="A task that is killed without reporting an error within so many seconds of its start "
        "avoids that node from then on, while at most half of its partition is avoided; 0: never.",
    )
    gpu_option: Literal["gpus-per-node", "gres"] = Field(
        "gpus-per-node", description="How GPUs are asked for; gres where the cluster does not know the other."
    )
    image: NodePath | None = Field(
        None,
        description="Apptainer image to run in; null: the environment of `cad submit`. $VARIABLES are the "
        "node's; such an image is not checked before the submission.",
    )
    image_check: Literal["login", "node", "off"] = Field(
        "login",
        description="Where the image is started to check its version of cad: at `cad submit`, by each task "
        "on its node (where the login node has no Apptainer), or nowhere.",
    )
    image_program: Literal["apptainer", "singularity"] = Field(
        "apptainer", description="The program that starts the image."
    )
    image_gpu_flag: Literal["--nv", "--rocm"] = Field(
        "--nv", description="What lets the image see the GPUs: of NVIDIA, or of AMD."
    )
    image_python: OneLine = Field("python3", description="Python inside the image.")
    binds: tuple[PlainPath, ...] = Field(
        (),
        description="Folders to bind into the image under the same path; the runs folder, and files that the "
        "experiment names, always are.",
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

    @model_validator(mode="after")
    def _a_pack_is_one_process(self) -> Profile:
        train = self.for_stage("train")
        if train.pack != 1 and train.ranks > 1:
            raise ValueError(
                f"stages.train: a pack ({train.pack}) is one process: nodes and tasks_per_node have to be 1; "
                "pack small models, or share one model between ranks"
            )
        if train.pack == "auto" and train.task_memory_gb is None:
            raise ValueError(
                "stages.train: pack: auto needs memory_gb (or memory_per_cpu_gb); or give a number"
            )
        return self

    @model_validator(mode="after")
    def _signal_comes_after_the_start(self) -> Profile:
        for request in self._requests():
            if self.signal_seconds >= 60 * request.minutes:
                raise ValueError(
                    f"signal_seconds ({self.signal_seconds}) is not below minutes ({request.minutes}): a "
                    "task would be told to save when it starts; raise minutes or lower signal_seconds"
                )
        return self

    @model_validator(mode="after")
    def _one_place_for_all_stages(self) -> Profile:
        given = {request.sbatch.get("clusters") for request in self._requests()}
        if len(given) > 1:
            raise ValueError(
                "sbatch.clusters: no job can wait for one of another cluster; give it under resources:, and "
                "wherever a stage has an sbatch: of its own"
            )
        return self

    @model_validator(mode="after")
    def _one_owner_of_each_option(self) -> Profile:
        for request in self._requests():
            for option in request.sbatch:
                if option in _OWN_OPTIONS:
                    raise ValueError(f"sbatch.{option}: cad sets this option itself; remove it")
                if option in _KEY_OF_OPTION:
                    raise ValueError(f"sbatch.{option}: write it as {_KEY_OF_OPTION[option]}")
                if option == "gres" and self.gpu_option == "gres" and request.n_gpus:
                    raise ValueError("sbatch.gres: gpu_option: gres sets it for gpus; keep one of them")
            given = request.memory_gb if "memory_gb" in request.model_fields_set else None
            if None not in (given, request.memory_per_cpu_gb):
                raise ValueError("memory_gb and memory_per_cpu_gb exclude each other; keep one of them")
        return self

    def _requests(self) -> tuple[AllocationRequest, ...]:
        """Those of all kinds of stages, and the one that others begin with."""
        return (self.resources, *(self.for_stage(kind) for kind in self.stages))

    def for_stage(self, kind: str) -> AllocationRequest:
        """The request of a stage of this kind."""
        own = dict(self.stages).get(typing.cast(StageKind, kind))
        if own is None:
            return self.resources
        update = {key: getattr(own, key) for key in own.model_fields_set}
        # A stage's own way to ask for memory replaces the other one.
        for one, other in (("memory_gb", "memory_per_cpu_gb"), ("memory_per_cpu_gb", "memory_gb")):
            if update.get(one) is not None and other not in update:
                update[other] = None
        return self.resources.model_copy(update=update)


def node_variables(path: str) -> list[str]:
    """The names of the ``$VARIABLES`` in a path, each once."""
    return list(dict.fromkeys(one.group(1) or one.group(2) for one in _VARIABLE.finditer(path)))


def node_path(path: str) -> str:
    """A path as a shell word that expands its ``$VARIABLES`` and nothing else."""
    words, start = [], 0
    for one in _VARIABLE.finditer(path):
        words += [shlex.quote(path[start : one.start()]) if one.start() > start else ""]
        words += [f'"${{{one.group(1) or one.group(2)}}}"']
        start = one.end()
    rest = path[start:]
    return "".join([*words, shlex.quote(rest) if rest or not words else ""])
