"""Submitting: job arrays through submitit's Slurm executor, and the notes that find them again."""

from __future__ import annotations

import functools
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
from cad.experiments.plan import distinct_stages
from cad.experiments.stages import Resources
from cad.launch.arrays import Scale, StageArray, dependency, plan_arrays
from cad.launch.profile import Profile
from cad.launch.queue import has_slurm, max_array_size, test_only
from cad.launch.records import JobNote, read_note, write_note
from cad.launch.script import Place, check_path, executor_parameters, job_script, python_command
from cad.launch.status import StageStatus, stage_statuses
from cad.launch.worker import slurm_task
from cad.storage import folder_lock, make_dirs, sha256_file, write_json, write_text

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
class SubmittedArray:
    """One array that Slurm has taken."""

    array: StageArray
    job_id: str


@dataclass(frozen=True)
class Submission:
    """What came of a submission."""

    folder: Path
    arrays: tuple[SubmittedArray, ...]
    joined: tuple[StageStatus, ...]
    """Stages that were queued or running already."""


def submit(
    experiment: OpenExperiment,
    profile: Profile,
    *,
    choose: Choose = lambda _status: True,
    scale: ScaleOf = lambda _status: Scale(),
) -> Submission:
    """Submit what is neither done nor queued nor running, and return at once.

    ``choose`` and ``scale`` see where a stage stands and say whether it is submitted, and with how
    much more memory and time.  Raises :class:`CadError` when Slurm refuses or does not answer; what
    it had taken until then stays submitted, and is joined by the next submission.
    """
    if not has_slurm():
        raise CadError("there is no Slurm on this machine (no sbatch, no squeue); `cad run` runs here")
    _check(experiment, profile)
    # One submission at a time in a folder of runs: two would submit shared stages twice.
    with folder_lock(experiment.root / "stages", "the folder of stages"):
        statuses = _statuses(experiment)
        arrays = _plan(experiment, statuses, choose, scale, max_array_size())
        joined = tuple(status for status in statuses.values() if status.alive)
        write_json(experiment.folder / "experiment.json", experiment.record())
        place = _new_place(experiment)
        if not arrays:
            return Submission(place.folder, (), joined)
        _freeze(experiment, profile, place)
        submitted: list[SubmittedArray] = []
        for array in arrays:
            depends = dependency(array, arrays, [done.job_id for done in submitted])
            submitted.append(_submit_array(experiment, profile, place, array, depends))
            _write_arrays(place, submitted)
    return Submission(place.folder, tuple(submitted), joined)


def dry_run(experiment: OpenExperiment, profile: Profile) -> str:
    """Write the job scripts that :func:`submit` would submit, and show them with Slurm's verdict."""
    _check(experiment, profile)
    statuses = _statuses(experiment)
    slurm = has_slurm()
    size = max_array_size() if slurm else sys.maxsize
    arrays = _plan(experiment, statuses, lambda _status: True, lambda _status: Scale(), size)
    place = Place(experiment.folder / "jobs" / "dry-run", experiment.root, sys.executable)
    shutil.rmtree(place.folder, ignore_errors=True)
    labels = {stage.name: cell for cell in experiment.cells for stage in cell.stages}
    lines = []
    ids = [f"JOB{number}" for number in range(1, len(arrays) + 1)]
    for number, array in enumerate(arrays):
        make = functools.partial(
            job_script, profile, array.kind, job_name(experiment, array.kind), place, array.scale
        )
        text = make(dependency(array, arrays, ids), len(array.stages))
        file = place.folder / f"{number + 1}-{array.kind}.sh"
        write_text(file, text)
        # The jobs that it would wait for do not exist, so its verdict is on the rest.
        verdict = test_only(make(None, len(array.stages))) if slurm else "no sbatch here to ask"
        lines += [f"{ids[number]}: {file}", *(f"    {line}" for line in text.splitlines())]
        lines.append(f"sbatch --test-only: {verdict}")
        for index, stage in enumerate(array.stages):
            cell = labels[stage.name]
            lines.append(f"  task {index}: {stage.name}  {cell.label}, seed {cell.config.seed}")
    left = [status for status in statuses.values() if status.state == "done" or status.alive]
    lines.append(f"{len(left)} of {len(statuses)} stages are done, queued or running and are not submitted")
    return "\n".join(lines)


def job_name(experiment: OpenExperiment, kind: str) -> str:
    """What the queue shows; an experiment's name has only letters, digits, dots, dashes, underscores."""
    return f"cad-{experiment.config.name}-{kind}"


def _statuses(experiment: OpenExperiment) -> dict[str, StageStatus]:
    return stage_statuses(experiment.root, [stage.name for stage in distinct_stages(experiment.cells)])


def _plan(
    experiment: OpenExperiment,
    statuses: dict[str, StageStatus],
    choose: Choose,
    scale: ScaleOf,
    size: int,
) -> tuple[StageArray, ...]:
    wanted = tuple(
        stage
        for stage in distinct_stages(experiment.cells)
        if (status := statuses[stage.name]).state not in ("done", "unknown")
        and not status.alive
        and choose(status)
    )
    alive = {name: status.job_id for name, status in statuses.items() if status.alive and status.job_id}
    return plan_arrays(wanted, alive, size, lambda stage: scale(statuses[stage.name]))


def _check(experiment: OpenExperiment, profile: Profile) -> None:
    check_path(experiment.root, "the folder of runs")
    if profile.image is None:
        return
    if shutil.which("apptainer") is None and has_slurm():
        raise CadError("the profile names an image, but apptainer is not installed on this machine")
    image = Path(profile.image)
    if not image.exists():
        raise CadError(f"{image} (image) is missing; build it, or set image: null to run without one")
    if not os.access(image, os.R_OK):
        raise CadError(f"{image} (image) cannot be read by you")


def _new_place(experiment: OpenExperiment) -> Place:
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-slurm"
    return Place(experiment.folder / "jobs" / stamp, experiment.root, sys.executable)


def _freeze(experiment: OpenExperiment, profile: Profile, place: Place) -> None:
    """Keep what the jobs will run, so that edits while they wait change nothing."""
    make_dirs(place.folder)
    source = Path(cad.__file__).parent
    for file in source.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            # Contents alone: modes follow the user's umask, as for every other output.
            target = place.code / "cad" / file.relative_to(source)
            make_dirs(target.parent)
            shutil.copyfile(file, target)
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
            "image_sha256": sha256_file(Path(profile.image)) if profile.image else None,
            "user": getpass.getuser(),
        },
    )


def _submit_array(
    experiment: OpenExperiment, profile: Profile, place: Place, array: StageArray, depends: str | None
) -> SubmittedArray:
    name = job_name(experiment, array.kind)
    asked = profile.for_stage(array.kind)
    resources = Resources(
        workers=asked.cpus if array.kind == "histories" else 1, device="cuda" if asked.gpus else "cpu"
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
