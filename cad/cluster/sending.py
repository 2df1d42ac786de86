"""Hand job scripts to sbatch, and find jobs that Slurm accepted although its answer was lost.

What is about to be submitted is written down first (``pending-*.json``), so that the next command finds
jobs that a killed or interrupted ``cad submit`` left behind.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cad.cluster.command import Tries, passes, run_once, wait
from cad.cluster.queue import cancel_jobs, find_jobs, has_slurm
from cad.errors import CadError
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.job_records import JobNote, job_note
from cad.locks import BusyError, folder_lock
from cad.storage import write_json

log = logging.getLogger(__name__)

# Seconds after which a job that Slurm does not know will not come any more.
_LATEST = 600.0
# The job's number, alone on its line, with the cluster's name where there are several; or the sentence
# of a wrapper that drops --parsable.
_NUMBER = re.compile(r"^(?:Submitted batch job )?(\d+)(?:;([\w.-]+)|(?: on cluster (\S+)))?$", re.MULTILINE)

Job = tuple[str, str | None]
"""A job's number, and the cluster that it is on, as in :class:`JobNote`."""


@dataclass(frozen=True)
class Sending:
    """An array on its way to Slurm.

    ``note`` is what its stages' notes say, but for the job's number and, of several clusters, which it is on.
    """

    script: Path
    comment: str
    kind: str
    tasks: tuple[tuple[str, ...], ...]
    """The names of the stages that each task runs."""
    note: JobNote

    @property
    def file(self) -> Path:
        """Where it is written down until the stages have their notes."""
        return self.script.with_name(f"pending-{self.script.stem}.json")

    def notes(self, job_id: str, cluster: str | None) -> dict[str, JobNote]:
        """What each stage notes once Slurm has given the array its number, on one of the clusters."""
        alone = len(self.tasks) == 1
        return {
            stage: replace(
                self.note,
                job_id=job_id if alone else f"{job_id}_{index}",
                pack=task if len(task) > 1 else (),
                cluster=cluster,
            )
            for index, task in enumerate(self.tasks)
            for stage in task
        }


def send(sending: Sending, root: Path) -> Job:
    """Submit an array and note its jobs; returns the number that Slurm gave it, and the cluster.

    Raises :class:`CadError` when Slurm refuses, or does not answer for longer than it is waited for.
    """
    write_json(sending.file, asdict(sending) | {"script": str(sending.script)})
    for stage in (stage for task in sending.tasks if len(task) > 1 for stage in task):
        # A pack that is requeued leaves out who failed in it: what is known from before must not count.
        StageDirectory(root, stage).clear_failure()
    try:
        job = _sbatch(sending)
    except KeyboardInterrupt:
        # Slurm may have it nevertheless, or get it in a moment.
        time.sleep(1)
        adopted = False
        with contextlib.suppress(CadError):
            adopted = _adopt(sending, root)
        if not adopted:
            log.warning("if Slurm has the %s jobs after all, the next command finds them", sending.kind)
        raise
    except _RefusedError:
        sending.file.unlink()
        raise
    _note(sending, root, job)
    return job


def adopt_lost(root: Path, *, locked: bool = False) -> None:
    """Note the jobs that Slurm accepted from a submission that did not hear of it.

    With ``locked`` the caller holds the folder of stages.  Else nothing happens while another process
    submits.
    """
    read = {file: _read(file) for file in sorted(root.glob("*/jobs/*-slurm/pending-*.json"))}
    lost = [one for one in read.values() if one is not None and one.note.user == getpass.getuser()]
    unread = [file for file, one in read.items() if one is None and _is_mine(file)]
    if not (lost or unread) or not has_slurm():
        return
    if not locked:
        with contextlib.suppress(BusyError), folder_lock(root / "stages", "the folder of stages"):
            adopt_lost(root, locked=True)
        return
    for sending in lost:
        if not _adopt(sending, root) and time.time() - sending.note.submitted > _LATEST:
            sending.file.unlink(missing_ok=True)
    for file in unread:
        _look_for_jobs_of(file)


def _read(file: Path) -> Sending | None:
    """What was written down; None where it is damaged or from another version of cad."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        note = job_note(read["note"])
        # Before there were packs: a stage a task.
        tasks = read["tasks"] if "tasks" in read else [[stage] for stage in read["stages"]]
        named = tuple(tuple(task) for task in tasks)
        return Sending(Path(read["script"]), read["comment"], read["kind"], named, note)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _look_for_jobs_of(file: Path) -> None:
    """Name the jobs of a file that cannot be read: its own name says which they would be."""
    label = file.stem.removeprefix("pending-")
    found = find_jobs(f"cad-{file.parent.name}-{label}", file.with_name(f"{label}.sh"))
    if found:
        jobs = " ".join(found)
        log.warning(
            "%s is damaged or from another version of cad; Slurm has its job: scancel %s, remove the file",
            file,
            jobs,
        )
    elif time.time() - file.stat().st_mtime > _LATEST:
        file.unlink(missing_ok=True)


def _is_mine(file: Path) -> bool:
    try:
        return file.stat().st_uid == os.getuid()
    except OSError:
        return False


class _RefusedError(CadError):
    """Slurm does not have the job."""


def _sbatch(sending: Sending) -> Job:
    command = ["sbatch", "--parsable", str(sending.script)]
    tries = Tries("sbatch")
    while True:
        done = run_once(command, cluster=sending.note.cluster)
        numbers = _NUMBER.findall(done.stdout)
        if done.returncode == 0 and len(numbers) == 1 and tries.n == 0:
            return _answered(sending, numbers[0])
        # The answer is an error, more than one number, or none; or an earlier one was lost.
        found = _find(sending)
        if found:
            return _only(found)
        if done.returncode == 0 and len(numbers) == 1:
            return _answered(sending, numbers[0])
        said = done.stderr.strip() or done.stdout.strip()
        if done.returncode == 0 and not passes(done.stderr):
            raise CadError(f"sbatch answers without the job's number: {said}")
        if not passes(done.stderr):
            raise _RefusedError(f"sbatch refused the {sending.kind} jobs: {said}")
        pause = tries.pause()
        if pause is None:
            break
        wait("sbatch", done.stderr, pause)
    raise CadError(
        f"sbatch did not take the {sending.kind} jobs: {said}; run the same command again later: if Slurm "
        "has them after all, they are found"
    )


def _answered(sending: Sending, number: tuple[str, str, str]) -> Job:
    """The job of sbatch's answer, which names its cluster where others than this machine's were asked for."""
    job_id, *named = number
    asked = sending.note.cluster
    return job_id, next(filter(None, named), asked) if asked else asked


def _find(sending: Sending) -> list[Job]:
    asked = sending.note.cluster
    # One after the other: of several at once, squeue's rows do not say whose they are.
    clusters = [asked] if asked is None else asked.split(",")
    return [
        (job_id, cluster)
        for cluster in clusters
        for job_id in find_jobs(sending.comment, sending.script, cluster)
    ]


def _adopt(sending: Sending, root: Path) -> bool:
    found = _find(sending)
    if not found:
        return False
    job_id, cluster = job = _only(found)
    notes = [StageDirectory(root, stage).job() for task in sending.tasks for stage in task]
    if any(note is not None and note.submitted > sending.note.submitted for note in notes):
        log.warning("job %s (%s) was submitted again meanwhile: it is cancelled", job_id, sending.kind)
        cancel_jobs([job_id], cluster)
        sending.file.unlink(missing_ok=True)
        return True
    log.warning("Slurm has job %s (%s), although its answer was lost; it is kept", job_id, sending.kind)
    _note(sending, root, job)
    return True


def _only(found: Sequence[Job]) -> Job:
    """The first of the jobs that one script became; the others are cancelled."""
    for job_id, cluster in found[1:]:
        cancel_jobs([job_id], cluster)
    return found[0]


def _note(sending: Sending, root: Path, job: Job) -> None:
    for stage, note in sending.notes(*job).items():
        StageDirectory(root, stage).note_job(note)
    sending.file.unlink(missing_ok=True)
