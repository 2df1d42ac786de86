"""Hand job scripts to sbatch, and find jobs that Slurm accepted although its answer was lost.

What is about to be submitted is written down first (``pending-*.json``), so that the next command finds
jobs that a killed or interrupted ``cad submit`` left behind.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
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
_NUMBER = re.compile(r"^(?:Submitted batch job )?(\d+)(?:;[\w.-]+|(?: on cluster \S+))?$", re.MULTILINE)


@dataclass(frozen=True)
class Sending:
    """An array on its way to Slurm; ``note`` is what its stages' notes say, but for the job's number."""

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

    def notes(self, job_id: str) -> dict[str, JobNote]:
        """What each stage notes once Slurm has given the array its number."""
        alone = len(self.tasks) == 1
        return {
            stage: replace(
                self.note,
                job_id=job_id if alone else f"{job_id}_{index}",
                pack=task if len(task) > 1 else (),
            )
            for index, task in enumerate(self.tasks)
            for stage in task
        }


def send(sending: Sending, root: Path) -> str:
    """Submit an array and note its jobs; returns the number that Slurm gave it.

    Raises :class:`CadError` when Slurm refuses, or does not answer for longer than it is waited for.
    """
    write_json(sending.file, asdict(sending) | {"script": str(sending.script)})
    for stage in (stage for task in sending.tasks if len(task) > 1 for stage in task):
        # A pack that is requeued leaves out who failed in it: what is known from before must not count.
        StageDirectory(root, stage).clear_failure()
    try:
        job_id = _sbatch(sending)
    except KeyboardInterrupt:
        # Slurm may have it nevertheless, or get it in a moment.
        time.sleep(1)
        _adopt(sending, root)
        raise
    except _RefusedError:
        sending.file.unlink()
        raise
    _note(sending, root, job_id)
    return job_id


def adopt_lost(root: Path, *, locked: bool = False) -> None:
    """Note the jobs that Slurm accepted from a submission that did not hear of it.

    With ``locked`` the caller holds the folder of stages.  Else nothing happens while another process
    submits.
    """
    lost = [
        sending
        for file in sorted(root.glob("*/jobs/*-slurm/pending-*.json"))
        if (sending := _read(file)) is not None and sending.note.user == getpass.getuser()
    ]
    if not lost or not has_slurm():
        return
    if not locked:
        with contextlib.suppress(BusyError), folder_lock(root / "stages", "the folder of stages"):
            adopt_lost(root, locked=True)
        return
    for sending in lost:
        if not _adopt(sending, root) and time.time() - sending.note.submitted > _LATEST:
            sending.file.unlink(missing_ok=True)


def _read(file: Path) -> Sending | None:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        note = job_note(read["note"])
        tasks = tuple(tuple(task) for task in read["tasks"])
        return Sending(Path(read["script"]), read["comment"], read["kind"], tasks, note)
    except (OSError, ValueError, TypeError, KeyError):
        log.warning("%s is damaged or from another version of cad; its jobs are not looked for", file)
        return None


class _RefusedError(CadError):
    """Slurm does not have the job."""


def _sbatch(sending: Sending) -> str:
    command = ["sbatch", "--parsable", str(sending.script)]
    tries = Tries("sbatch")
    while True:
        done = run_once(command)
        numbers = _NUMBER.findall(done.stdout)
        if done.returncode == 0 and len(numbers) == 1 and tries.n == 0:
            return str(numbers[0])
        # The answer is an error, more than one number, or none; or an earlier one was lost.
        found = find_jobs(sending.comment, sending.script)
        if found:
            return _only(found)
        if done.returncode == 0 and len(numbers) == 1:
            return str(numbers[0])
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


def _adopt(sending: Sending, root: Path) -> bool:
    found = find_jobs(sending.comment, sending.script)
    if not found:
        return False
    job_id = _only(found)
    notes = [StageDirectory(root, stage).job() for task in sending.tasks for stage in task]
    if any(note is not None and note.submitted > sending.note.submitted for note in notes):
        log.warning("job %s (%s) was submitted again meanwhile: it is cancelled", job_id, sending.kind)
        cancel_jobs([job_id])
        sending.file.unlink(missing_ok=True)
        return True
    log.warning("Slurm has job %s (%s), although its answer was lost; it is kept", job_id, sending.kind)
    _note(sending, root, job_id)
    return True


def _only(found: Sequence[str]) -> str:
    """The first of the jobs that one script became; the others are cancelled."""
    if found[1:]:
        cancel_jobs(found[1:])
    return found[0]


def _note(sending: Sending, root: Path, job_id: str) -> None:
    for stage, note in sending.notes(job_id).items():
        StageDirectory(root, stage).note_job(note)
    sending.file.unlink(missing_ok=True)
