"""Submit job arrays, each task of which submitit runs, and note which job runs which stage."""

from __future__ import annotations

import getpass
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from submitit.core.utils import DelayedSubmission

import cad
from cad.cluster.arrays import (
    Pack,
    ResourceMultiplier,
    StageArray,
    dependency,
    fitting,
    plan_arrays,
    share_throttle,
)
from cad.cluster.command import CLUSTERS
from cad.cluster.image import Image, freeze_image, try_image
from cad.cluster.limits import submit_room
from cad.cluster.profile import Profile
from cad.cluster.queue import LAUNCH_FAILED, has_slurm, max_array_size, own_cluster, release_jobs
from cad.cluster.script import SubmissionPaths, check_path, job_script
from cad.cluster.sending import Job, Sending, adopt_lost, send
from cad.cluster.status import StageStatus, jobs_by_cluster, stage_statuses
from cad.cluster.worker import slurm_task
from cad.errors import CadError
from cad.experiments.plan.cells import distinct_stages
from cad.experiments.plan.environments import require_environments
from cad.experiments.plan.experiment import Experiment
from cad.experiments.plan.job_records import JobNote, SubmissionRecord, write_submission
from cad.experiments.plan.own_code import warn_of_changed_code
from cad.experiments.plan.stage import Stage
from cad.experiments.reporting.environment_info import code_version
from cad.experiments.run.pack_plan import Room, mixed_packs
from cad.experiments.run.pack_size import MOST, PROCESS_BYTES
from cad.experiments.run.pruning import pruned_stages, pruning_of
from cad.experiments.run.resources import Resources, engine_settings
from cad.locks import folder_lock_in_turn
from cad.storage import make_dirs, write_json, write_text
from cad.training.engines import require_ranks

log = logging.getLogger(__name__)

# For packs: what a cluster's GPU holds at least.
_LEAST_GPU_BYTES = 8 * 2**30

Choose = Callable[[StageStatus], bool]
MultiplierFor = Callable[[Stage, Mapping[str, StageStatus]], ResourceMultiplier]
"""From a stage, and the statuses of all stages by name."""


def _no_more(_stage: Stage, _statuses: Mapping[str, StageStatus]) -> ResourceMultiplier:
    """What the profile says."""
    return ResourceMultiplier()


@dataclass(frozen=True)
class Plan:
    """What a submission will do; the same for :func:`submit` and a dry run."""

    arrays: tuple[StageArray, ...]
    statuses: dict[str, StageStatus]
    left_over: tuple[Stage, ...] = ()
    """Stages to submit later, when the limit allows more jobs."""
    image: Image | None = None
    clusters: str = ""
    """Where to submit: names with commas between, empty for this machine's cluster."""

    @property
    def joined(self) -> tuple[StageStatus, ...]:
        """Stages that are already queued or running."""
        return tuple(status for status in self.statuses.values() if status.alive)


@dataclass(frozen=True)
class SubmittedArray:
    """An array that Slurm has accepted."""

    array: StageArray
    job_id: str


@dataclass(frozen=True)
class Submission:
    """The result of a submission."""

    folder: Path
    arrays: tuple[SubmittedArray, ...]
    plan: Plan


def plan_submission(
    experiment: Experiment,
    profile: Profile,
    choose: Choose = lambda _status: True,
    multiplier: MultiplierFor = _no_more,
    clusters: str = "",
) -> Plan:
    """Plan job arrays for the stages that are neither done nor queued nor running.

    ``choose`` decides from a stage's status whether to submit it, ``multiplier`` how much more memory and
    time it gets; ``clusters`` are where, unless the profile or ``SLURM_CLUSTERS`` says it.  Raises
    :class:`CadError` where the profile or the cluster does not allow it, and :class:`UsageError` where an
    environment of its tasks cannot be made.
    """
    _check(experiment, profile)
    stages = distinct_stages(experiment.cells)
    statuses = stage_statuses(experiment.root, [stage.name for stage in stages])
    pruned = pruned_stages(experiment)
    wanted = tuple(
        stage
        for stage in stages
        if (status := statuses[stage.name]).state not in ("done", "unknown")
        and stage.name not in pruned
        and not status.alive
        and choose(status)
    )
    require_environments(wanted, str(experiment.file), elsewhere=profile.image is not None)
    size, room, image = sys.maxsize, None, None
    if wanted and has_slurm():
        # Jobs that can be submitted from here can also run here.
        image = try_image(profile)
        clusters = _clusters(profile, clusters, wanted, statuses)
        each = clusters.split(",")
        size = min(max_array_size(cluster) for cluster in each)
        requests = [profile.for_stage(kind) for kind in {stage.kind for stage in wanted}]
        rooms = [submit_room(requests, cluster) for cluster in each]
        room = min((one for one in rooms if one is not None), default=None)
    alive = {name: status.job_id for name, status in statuses.items() if status.alive and status.job_id}
    packed_jobs = {status.job_id for status in statuses.values() if status.job_id and status.pack > 1}

    def arrays_of(stages: tuple[Stage, ...]) -> tuple[StageArray, ...]:
        return plan_arrays(
            stages, alive, size, lambda stage: multiplier(stage, statuses), packs_of(profile), packed_jobs
        )

    def n_tasks(stages: tuple[Stage, ...]) -> int:
        return sum(len(array.tasks) for array in arrays_of(stages))

    now = fitting(wanted, room, n_tasks)
    if wanted and not now:
        raise CadError(
            f"your limit of jobs in the queue (MaxSubmitJobs) is reached: none of {len(wanted)} stages can "
            "be submitted; submit again when some jobs have ended"
        )
    arrays = share_throttle(arrays_of(now), lambda kind: profile.for_stage(kind).throttle)
    return Plan(arrays, statuses, wanted[len(now) :], image, clusters)


def submit(
    experiment: Experiment,
    profile: Profile,
    *,
    choose: Choose = lambda _status: True,
    multiplier: MultiplierFor = _no_more,
    approve: Callable[[Plan], None] = lambda _plan: None,
    clusters: str = "",
) -> Submission:
    """Submit what :func:`plan_submission` plans, and return at once.

    ``approve`` sees the plan first and raises to prevent it.  Raises :class:`CadError` when Slurm
    refuses or does not answer; the arrays accepted until then stay submitted, and the next submission
    joins them.
    """
    if not has_slurm():
        raise CadError("this machine has no Slurm (sbatch, squeue); `cad run` works without one")
    adopt_lost(experiment.root)
    plan = plan_submission(experiment, profile, choose, multiplier, clusters)
    warn_of_changed_code(experiment.root, distinct_stages(experiment.cells))
    if plan.arrays:
        # It may measure and ask: others can submit meanwhile.
        approve(plan)
    approved = {stage.name for array in plan.arrays for stage in array.stages}
    no_room = plan.left_over

    def still(status: StageStatus) -> bool:
        return status.stage in approved and choose(status)

    def tell(owner: str) -> None:
        log.warning("waiting for %s, which submits to %s", owner, experiment.root)

    # One submission at a time in a folder of runs: two would submit shared stages twice.
    with folder_lock_in_turn(experiment.root / "stages", "the folder of stages", tell):
        adopt_lost(experiment.root, locked=True)
        plan = plan_submission(experiment, profile, still, multiplier, clusters)
        # What a node could not start is joined like what waits; Slurm lets it start when it is told to.
        held = jobs_by_cluster(one for one in plan.joined if one.reason == LAUNCH_FAILED)
        for cluster, ids in held.items():
            release_jobs(ids, cluster)
        plan = replace(plan, left_over=(*plan.left_over, *no_room))
        write_json(experiment.folder / "experiment.json", experiment.record())
        paths = _new_paths(experiment)
        if not plan.arrays:
            return Submission(paths.folder, (), plan)
        provenance = _freeze(experiment, profile, plan.image, paths, plan.clusters)
        submitted: list[SubmittedArray] = []
        where: str | None = plan.clusters
        try:
            for array in plan.arrays:
                depends = dependency(array, plan.arrays, [done.job_id for done in submitted])
                label = f"{len(submitted) + 1}-{array.kind}"
                # Of several clusters, that of the first one takes all: no job waits for another cluster's.
                job_id, where = _submit_array(
                    experiment, profile, paths, array, label, depends, provenance, where
                )
                submitted.append(SubmittedArray(array, job_id))
                _write_arrays(paths, submitted)
        except (CadError, KeyboardInterrupt):
            if submitted:
                jobs = ", ".join(f"{one.array.kind} (job {one.job_id})" for one in submitted)
                log.warning(
                    "%s stay submitted; the same command submits the rest, `cad cancel` ends them", jobs
                )
            raise
    return Submission(paths.folder, tuple(submitted), plan)


def _clusters(
    profile: Profile, last: str, wanted: Sequence[Stage], statuses: Mapping[str, StageStatus]
) -> str:
    """Where ``wanted`` go, by the profile, the environment, or the ``last`` submission; see :class:`Plan`.

    Raises :class:`CadError` where they would wait for jobs of another cluster: Slurm knows none of these.
    """
    asked = str(profile.resources.sbatch.get("clusters") or os.environ.get(CLUSTERS) or last)
    if asked and asked == own_cluster():
        asked = ""
    waited_for = [
        statuses[needed.name] for stage in wanted for needed in stage.inputs if needed.name in statuses
    ]
    theirs = {one.cluster: one for one in waited_for if one.alive and one.cluster is not None}
    if len(theirs) == 1 and asked and next(iter(theirs)) in asked.split(","):
        return next(iter(theirs)) or ""
    for cluster, needed in theirs.items():
        if cluster != asked:
            here, there = (
                f"cluster {name}" if name else "this machine's cluster" for name in (asked, cluster)
            )
            raise CadError(
                f"{needed.stage} is queued or running on {there}, and no job of {here} can wait for it; "
                "submit to its cluster (SLURM_CLUSTERS, or sbatch: {clusters: ...} in the profile), or when "
                "it has ended"
            )
    return asked


def packs_of(profile: Profile) -> Pack:
    """The packs that the profile asks for."""
    request = profile.for_stage("train")
    if request.pack != "auto":
        most, memory = request.pack, None
    else:
        assert request.task_memory_gb is not None  # the profile's rules see to it
        most, memory = MOST, max(0.0, request.task_memory_gb * 2**30 - PROCESS_BYTES)
        if request.n_gpus:  # which memory it has is not known here
            memory = min(memory, _LEAST_GPU_BYTES)

    def packs(trainings: list[Stage]) -> list[list[Stage]]:
        return mixed_packs(trainings, most, memory) if most > 1 else []

    return packs


def room_of_task(profile: Profile) -> Room:
    """What the processes of a pack may use at a time, as far as the profile says it."""
    request = profile.for_stage("train")
    memory = None if request.task_memory_gb is None else request.task_memory_gb * 2**30
    return Room(request.cpus, memory, gpu=request.n_gpus > 0)


def job_name(experiment: Experiment, kind: str) -> str:
    """The job's name in the queue."""
    return f"cad-{experiment.config.name}-{kind}"


def _check(experiment: Experiment, profile: Profile) -> None:
    check_path(experiment.root, "the folder of runs")
    for stage in distinct_stages(experiment.cells):
        settings = engine_settings(stage)
        if settings is not None:
            require_ranks(settings, stage.kind, profile.for_stage(stage.kind).ranks)


def _new_paths(experiment: Experiment) -> SubmissionPaths:
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-slurm"
    return SubmissionPaths(experiment.folder / "jobs" / stamp, experiment.root, sys.executable)


def _freeze(
    experiment: Experiment, profile: Profile, image: Image | None, paths: SubmissionPaths, clusters: str
) -> dict[str, str]:
    """Copy the code that the jobs will run, so that later edits do not reach them; returns its provenance."""
    make_dirs(paths.folder)
    source = Path(cad.__file__).parent
    for file in source.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            # Contents only: modes follow the user's umask, as for every other output.
            target = paths.code / "cad" / file.relative_to(source)
            make_dirs(target.parent)
            shutil.copyfile(file, target)
    if image is not None:
        freeze_image(image, paths.folder)
    version, dirty = code_version()
    write_submission(
        paths.folder,
        SubmissionRecord(
            experiment=str(experiment.file.absolute()),
            overrides=experiment.overrides,
            command=shlex.join(sys.argv),
            profile=profile.model_dump(mode="json", exclude_unset=True),
            code_version=version,
            code_differs_from_commit=dirty,
            user=getpass.getuser(),
            image_sha256=image.sha256 if image else None,
            clusters=clusters,
        ),
    )
    return {"code_version": version, **({"image_sha256": image.sha256} if image else {})}


def _submit_array(
    experiment: Experiment,
    profile: Profile,
    paths: SubmissionPaths,
    array: StageArray,
    label: str,
    depends: str | None,
    provenance: dict[str, str],
    cluster: str | None,
) -> Job:
    name = job_name(experiment, array.kind)
    request = profile.for_stage(array.kind)
    resources = Resources(
        workers=request.cpus if array.kind == "histories" or array.packed else 1,
        device="cuda" if request.n_gpus else "cpu",
        # Not what a retry gives: it is to have more for each process, not more of them.
        memory=room_of_task(profile).memory,
        pruning=pruning_of(experiment),
        provenance=provenance,
    )
    make_dirs(paths.folder / "tasks")
    for index, task in enumerate(array.tasks):
        DelayedSubmission(slurm_task, experiment.root, task, resources).dump(paths.task(label, index))
    script = paths.folder / f"{label}.sh"
    n = len(array.tasks)
    text = job_script(
        profile,
        array.kind,
        name,
        paths,
        array.multiplier,
        depends,
        n,
        label,
        array.throttle,
        array.files,
        array.code_folders,
    )
    write_text(script, text)
    note = JobNote(
        job_id="",
        name=name,
        experiment=experiment.config.name,
        user=getpass.getuser(),
        folder=str(paths.folder.relative_to(experiment.root)),
        submitted=time.time(),
        minutes=array.multiplier.minutes,
        memory=array.multiplier.memory,
        cluster=cluster,
    )
    tasks = tuple(tuple(stage.name for stage in task) for task in array.tasks)
    return send(Sending(script, paths.comment(label), array.kind, tasks, note), experiment.root)


def _write_arrays(paths: SubmissionPaths, submitted: Iterable[SubmittedArray]) -> None:
    write_json(
        paths.folder / "arrays.json",
        [
            {
                "job": entry.job_id,
                "kind": entry.array.kind,
                "tasks": len(entry.array.tasks),
                "stages": [stage.name for stage in entry.array.stages],
            }
            for entry in submitted
        ],
    )
