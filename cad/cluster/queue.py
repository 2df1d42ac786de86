"""Slurm's commands: which jobs are queued or running, how they ended, what is allowed.

``cluster`` is that of :func:`cad.cluster.command.run_command` everywhere.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cad.cluster.command import passes, run_command, why
from cad.cluster.squeue import jobs_of, tasks_in_queue
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


def queued_jobs(job_ids: Iterable[str], cluster: str | None = None) -> dict[str, QueuedJob]:
    """Those of ``job_ids`` (``12`` or ``12_3``) that are queued or running.

    Raises :class:`CadError` when Slurm does not answer.
    """
    wanted = set(job_ids)
    if not wanted:
        return {}
    fields = ("state", "node", "reason", "name")
    queue = tasks_in_queue([f"--jobs={','.join(sorted(_bases(wanted)))}"], fields, cluster)
    return {job_id: QueuedJob(job_id, *row) for job_id, row in queue.items() if job_id in wanted}


def ended_jobs(job_ids: Iterable[str], cluster: str | None = None) -> dict[str, str]:
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
        done = run_command([*command, f"--jobs={','.join(sorted(_bases(wanted)))}"], cluster=cluster)
    except CadError:
        return {}
    return {} if done.returncode else {k: v for k, v in parse_sacct(done.stdout).items() if k in wanted}


def parse_sacct(text: str) -> dict[str, str]:
    """Job id to state from ``sacct -P -X -o JobID,State``; ``CANCELLED by 0`` is ``CANCELLED``."""
    rows = (line.split("|", 1) for line in text.splitlines() if "|" in line)
    return {job: state.split()[0] for job, state in rows if state.strip()}


def max_array_size(cluster: str | None = None) -> int:
    """How many tasks an array may have: ``MaxArraySize`` is one above the largest index."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _show_config(cluster), re.MULTILINE)
    return max(1, int(match.group(1)) if match else _DEFAULT_MAX_ARRAY_SIZE)


def own_cluster() -> str:
    """The name of this machine's cluster; empty where it is not said."""
    match = re.search(r"^ClusterName\s*=\s*(\S+)", _show_config(""), re.MULTILINE)
    return match.group(1) if match else ""


def _show_config(cluster: str | None) -> str:
    done = run_command(["scontrol", "show", "config"], cluster=cluster)
    if done.returncode != 0:
        raise CadError(f"scontrol does not answer: {why(done)}")
    return done.stdout


def test_only(script: str) -> tuple[bool, str]:
    """Whether Slurm would accept a job script, and what ``sbatch --test-only`` says about it."""
    done = run_command(["sbatch", "--test-only"], script)
    return done.returncode == 0, (done.stderr or done.stdout).strip()


def find_jobs(comment: str, script: Path, cluster: str | None = None) -> list[str]:
    """Jobs of this user with this comment or this script, ended ones too: ids of whole arrays, oldest first.

    Slurm forgets ended jobs after some minutes (``MinJobAge``).
    """
    user = pwd.getpwuid(os.getuid()).pw_name
    rows = jobs_of(user, ("array", "command", "comment"), cluster)
    # A site may change the comment, or a profile set its own; a wrapper may copy the script.
    found = {job for job, command, noted in rows if noted == comment or command == str(script)}
    return sorted(found, key=int)


def release_jobs(job_ids: Iterable[str], cluster: str | None = None) -> None:
    """Let held jobs start; jobs that are held no longer are no error."""
    for job in sorted(job_ids):
        run_command(["scontrol", "release", job], cluster=cluster)


def cancel_jobs(job_ids: Iterable[str], cluster: str | None = None) -> None:
    """Cancel queued and running jobs; jobs that have ended already are no error."""
    ids = sorted(job_ids)
    for start in range(0, len(ids), 500):
        done = run_command(["scancel", "--quiet", *ids[start : start + 500]], cluster=cluster)
        # A wrapper may hide the exit code.
        if (done.returncode != 0 and "Invalid job id" not in done.stderr) or passes(done.stderr):
            raise CadError(f"scancel failed: {why(done)}")


def _bases(job_ids: set[str]) -> set[str]:
    return {job.partition("_")[0] for job in job_ids}
