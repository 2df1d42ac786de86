"""Slurm's commands: which jobs are queued or running, how they ended, what is allowed."""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cad.cluster.command import run_command
from cad.errors import CadError

LAUNCH_FAILED = "launch failed requeued held"
"""Slurm's reason for a task that a node could not start: it is requeued, and held."""
# Slurm's default.
_DEFAULT_MAX_ARRAY_SIZE = 1001


@dataclass(frozen=True)
class QueuedJob:
    """One job (or task of an array) that is queued or running."""

    job_id: str
    state: str
    node: str
    reason: str
    name: str


def has_slurm() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("squeue") is not None and shutil.which("sbatch") is not None


def queued_jobs(job_ids: Iterable[str]) -> dict[str, QueuedJob]:
    """Those of ``job_ids`` (``12`` or ``12_3``) that are queued or running.

    Raises :class:`CadError` when Slurm does not answer.
    """
    wanted = set(job_ids)
    if not wanted:
        return {}
    form = "%i|%T|%N|%r|%j"
    command = [
        "squeue",
        "--noheader",
        "--array",
        f"--jobs={','.join(sorted(_bases(wanted)))}",
        "--format",
        form,
    ]
    done = run_command(command)
    if done.returncode != 0:
        # Asked for a single job, squeue fails when it no longer knows that job.
        if "Invalid job id" in done.stderr:
            return {}
        raise CadError(f"squeue does not answer: {done.stderr.strip()}")
    return {job.job_id: job for job in parse_squeue(done.stdout) if job.job_id in wanted}


def parse_squeue(text: str) -> list[QueuedJob]:
    """Rows of ``squeue --array --format '%i|%T|%N|%r|%j'``."""
    return [QueuedJob(*line.split("|", 4)) for line in text.splitlines() if line.count("|") >= 4]


def ended_jobs(job_ids: Iterable[str]) -> dict[str, str]:
    """How jobs ended, in sacct's words (``TIMEOUT``); empty without accounting."""
    wanted = set(job_ids)
    if not wanted or shutil.which("sacct") is None:
        return {}
    command = [
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        "--format=JobID,State",
        "--starttime=1970-01-01",
    ]
    try:
        done = run_command([*command, f"--jobs={','.join(sorted(_bases(wanted)))}"])
    except CadError:
        return {}
    return {} if done.returncode else {k: v for k, v in parse_sacct(done.stdout).items() if k in wanted}


def parse_sacct(text: str) -> dict[str, str]:
    """Job id to state from ``sacct -P -X -o JobID,State``; ``CANCELLED by 0`` is ``CANCELLED``."""
    rows = (line.split("|", 1) for line in text.splitlines() if "|" in line)
    return {job: state.split()[0] for job, state in rows if state.strip()}


def max_array_size() -> int:
    """How many tasks an array may have: ``MaxArraySize`` is one above the largest index."""
    done = run_command(["scontrol", "show", "config"])
    if done.returncode != 0:
        raise CadError(f"scontrol does not answer: {done.stderr.strip()}")
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return max(1, int(match.group(1)) if match else _DEFAULT_MAX_ARRAY_SIZE)


def test_only(script: str) -> tuple[bool, str]:
    """Whether Slurm would accept a job script, and what ``sbatch --test-only`` says about it."""
    done = run_command(["sbatch", "--test-only"], script)
    return done.returncode == 0, (done.stderr or done.stdout).strip()


def find_jobs(comment: str, script: Path) -> list[str]:
    """Jobs of this user with this comment or this script, ended ones too: ids of whole arrays, oldest first.

    Slurm forgets ended jobs after some minutes (``MinJobAge``).
    """
    user = pwd.getpwuid(os.getuid()).pw_name
    command = ["squeue", "--noheader", "--states=all", f"--user={user}", "--format=%F|%k|%o"]
    done = run_command(command)
    if done.returncode != 0:
        raise CadError(f"squeue does not answer: {done.stderr.strip()}")
    rows = (line.split("|", 1) for line in done.stdout.splitlines() if "|" in line)
    # A site may change the comment, or a profile set its own; a wrapper may copy the script.
    found = {job for job, rest in rows if rest.startswith(f"{comment}|") or rest.endswith(f"|{script}")}
    return sorted(found, key=int)


def release_jobs(job_ids: Iterable[str]) -> None:
    """Let held jobs start; jobs that are held no longer are no error."""
    for job in sorted(job_ids):
        run_command(["scontrol", "release", job])


def cancel_jobs(job_ids: Iterable[str]) -> None:
    """Cancel queued and running jobs; jobs that have ended already are no error."""
    ids = sorted(job_ids)
    for start in range(0, len(ids), 500):
        done = run_command(["scancel", "--quiet", *ids[start : start + 500]])
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            raise CadError(f"scancel failed: {done.stderr.strip()}")


def _bases(job_ids: set[str]) -> set[str]:
    return {job.partition("_")[0] for job in job_ids}
