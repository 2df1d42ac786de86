"""Submitting: job arrays through submitit's Slurm executor, and the notes that find them again."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import submitit

import cad
from cad.errors import CadError
from cad.experiments.directory import StageDirectory
from cad.experiments.opened import OpenExperiment
from cad.experiments.origin import code_version
from cad.experiments.plan import Stage, distinct_stages
from cad.experiments.ranks import engine_settings
from cad.experiments.stages import Resources
from cad.launch.arrays import Scale, StageArray, dependency, fitting, plan_arrays
from cad.launch.image import Image, freeze_image, try_image
from cad.launch.limits import submit_room
from cad.launch.profile import Profile
from cad.launch.queue import has_slurm, max_array_size
from cad.launch.records import JobNote, read_note, write_note
from cad.launch.script import Place, check_path, executor_parameters, python_command
from cad.launch.status import StageStatus, stage_statuses
from cad.launch.worker import slurm_task
from cad.storage import folder_lock, make_dirs, write_json
from cad.training.engines import require_ranks

Choose = Callable[[StageStatus], bool]
ScaleOf = Callable[[StageStatus], Scale]


def scale_of(root: Path, memory: float, minutes: float) -> ScaleOf:
    """More memory for stages that ran out of it, more time for those that ran out of that.

    Factors multiply over retries: a stage keeps what an earlier retry gave it.
    """

    def scale(status: StageStatus) -> Scale:
        note = read_note(root / "stages" / status.stage)
        before = Scale(note.memory, note.minutes) if note else Scale()
        return Scale(
            before.memory * (memory if status.out_of_memory else 1),
            before.minutes * (minutes if status.timed_out else 1),
        )

    return scale


@dataclass(frozen=True)
class Plan:
    """What a submission does: the same for :func:`submit` and for a dry run."""

    arrays: tuple[StageArray, ...]
    statuses: dict[str, StageStatus]
    left_over: tuple[Stage, ...] = ()
    """Stages that are to be submitted when there is room for more jobs."""
    image: Image | None = None

    @property
    def joined(self) -> tuple[StageStatus, ...]:
        """Stages that are queued or running already."""
        return tuple(status for status in self.statuses.values() if status.alive)


@dataclass(frozen=True)
class SubmittedArray:
    """One array that Slurm has taken."""

    array: StageArray
    job_id: str


@dataclass(frozen=True)
class Submission:
    """What came of a submission."""

    folder: Path
    arrays: tuple[SubmittedArray, ...]
    plan: Plan


def plan_submission(
    experiment: OpenExperiment,
    profile: Profile,
    choose: Choose = lambda _status: True,
    scale: ScaleOf = lambda _status: Scale(),
) -> Plan:
    """What is to be submitted, in which arrays, of what is neither done nor queued nor running.

    ``choose`` and ``scale`` see where a stage stands and say whether it is submitted, and with how
    much more memory and time.  Raises :class:`CadError` where the profile or the cluster rules it out.
    """
    _check(experiment, profile)
    stages = distinct_stages(experiment.cells)
    statuses = stage_statuses(experiment.root, [stage.name for stage in stages])
    wanted = tuple(
        stage
        for stage in stages
        if (status := statuses[stage.name]).state not in ("done", "unknown")
        and not status.alive
        and choose(status)
    )
    size, room, image = sys.maxsize, None, None
    if wanted and has_slurm():
        # Where the jobs can be submitted they can also run.
        image = try_image(profile)
        size = max_array_size()
        room = submit_room(profile.for_stage(kind) for kind in {stage.kind for stage in wanted})
    now = fitting(wanted, room)
    if wanted and not now:
        raise CadError(
            f"your limit of jobs in the queue (MaxSubmitJobs) is reached: none of {len(wanted)} stages can "
            "be submitted; do so again when some jobs have ended"
        )
    alive = {name: status.job_id for name, status in statuses.items() if status.alive and status.job_id}
    arrays = plan_arrays(now, alive, size, lambda stage: scale(statuses[stage.name]))
    return Plan(arrays, statuses, wanted[len(now) :], image)


def submit(
    experiment: OpenExperiment,
    profile: Profile,
    *,
    choose: Choose = lambda _status: True,
    scale: ScaleOf = lambda _status: Scale(),
    approve: Callable[[Plan], None] = lambda _plan: None,
) -> Submission:
    """Submit what :func:`plan_submission` says, and return at once.

    ``approve`` is shown the plan first and raises to prevent it.  Raises :class:`CadError` when Slurm
    refuses or does not answer; what it had taken until then stays submitted, and is joined by the
    next submission.
    """
    if not has_slurm():
        raise CadError("there is no Slurm on this machine (no sbatch, no squeue); `cad run` runs here")
    # One submission at a time in a folder of runs: two would submit shared stages twice.
    with folder_lock(experiment.root / "stages", "the folder of stages"):
        plan = plan_submission(experiment, profile, choose, scale)
        if plan.arrays:
            approve(plan)
        write_json(experiment.folder / "experiment.json", experiment.record())
        place = _new_place(experiment)
        if not plan.arrays:
            return Submission(place.folder, (), plan)
        provenance = _freeze(experiment, profile, plan.image, place)
        submitted: list[SubmittedArray] = []
        for array in plan.arrays:
            depends = dependency(array, plan.arrays, [done.job_id for done in submitted])
            submitted.append(_submit_array(experiment, profile, place, array, depends, provenance))
            _write_arrays(place, submitted)
    return Submission(place.folder, tuple(submitted), plan)


def job_name(experiment: OpenExperiment, kind: str) -> str:
    """What the queue shows; an experiment's name has only letters, digits, dots, dashes, underscores."""
    return f"cad-{experiment.config.name}-{kind}"


def _check(experiment: OpenExperiment, profile: Profile) -> None:
    check_path(experiment.root, "the folder of runs")
    for stage in distinct_stages(experiment.cells):
        settings = engine_settings(stage)
        if settings is not None:
            require_ranks(settings, stage.kind, profile.for_stage(stage.kind).ranks)


def _new_place(experiment: OpenExperiment) -> Place:
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-slurm"
    return Place(experiment.folder / "jobs" / stamp, experiment.root, sys.executable)


def _freeze(
    experiment: OpenExperiment, profile: Profile, image: Image | None, place: Place
) -> dict[str, str]:
    """Keep what the jobs will run, so that edits while they wait change nothing; code and image in words."""
    make_dirs(place.folder)
    source = Path(cad.__file__).parent
    for file in source.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            # Contents alone: modes follow the user's umask, as for every other output.
            target = place.code / "cad" / file.relative_to(source)
            make_dirs(target.parent)
            shutil.copyfile(file, target)
    if image is not None:
        freeze_image(image, place.folder)
    version, dirty = code_version()
    write_json(
        place.folder / "submission.json",
        {
            "experiment": str(experiment.file.absolute()),
            "overrides": experiment.overrides,
            "command": shlex.join(sys.argv),
            "profile": profile.model_dump(mode="json", exclude_unset=True),
            "code_version": version,
            "code_differs_from_commit": dirty,
            "image_sha256": image.sha256 if image else None,
            "user": getpass.getuser(),
        },
    )
    return {"code_version": version, **({"image_sha256": image.sha256} if image else {})}


def _submit_array(
    experiment: OpenExperiment,
    profile: Profile,
    place: Place,
    array: StageArray,
    depends: str | None,
    provenance: dict[str, str],
) -> SubmittedArray:
    name = job_name(experiment, array.kind)
    asked = profile.for_stage(array.kind)
    resources = Resources(
        workers=asked.cpus if array.kind == "histories" else 1,
        device="cuda" if asked.gpus else "cpu",
        provenance=provenance,
    )
    executor = submitit.SlurmExecutor(folder=place.folder, python=python_command(profile, array.kind, place))
    executor.update_parameters(**executor_parameters(profile, array.kind, name, place, array.scale, depends))
    try:
        with executor.batch():
            jobs = [executor.submit(slurm_task, experiment.root, stage, resources) for stage in array.stages]
    except submitit.core.utils.FailedJobError as error:
        raise CadError(f"sbatch refused the {array.kind} jobs: {error}") from error
    for job, stage in zip(jobs, array.stages, strict=True):
        note = JobNote(
            job_id=job.job_id,
            name=name,
            experiment=experiment.config.name,
            user=getpass.getuser(),
            folder=str(place.folder.relative_to(experiment.root)),
            submitted=time.time(),
            minutes=array.scale.minutes,
            memory=array.scale.memory,
        )
        write_note(StageDirectory(experiment.root, stage), note)
    return SubmittedArray(array, jobs[0].job_id.partition("_")[0])


def _write_arrays(place: Place, submitted: Iterable[SubmittedArray]) -> None:
    write_json(
        place.folder / "arrays.json",
        [
            {"job": entry.job_id, "kind": entry.array.kind, "stages": [s.name for s in entry.array.stages]}
            for entry in submitted
        ],
    )
