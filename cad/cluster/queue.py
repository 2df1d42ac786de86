"""Slurm's commands: which jobs are queued or running, how they ended, what is allowed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from cad.errors import CadError

_PATIENCE = 60.0
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


def test_only(script: str) -> str:
    """What ``sbatch --test-only`` says about a job script."""
    done = run_command(["sbatch", "--test-only"], script)
    return (done.stderr or done.stdout).strip()


def cancel_jobs(job_ids: Iterable[str]) -> None:
    """Cancel queued and running jobs; jobs that have ended already are no error."""
    ids = sorted(job_ids)
    for start in range(0, len(ids), 500):
        done = run_command(["scancel", "--quiet", *ids[start : start + 500]])
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            raise CadError(f"scancel failed: {done.stderr.strip()}")


def _bases(job_ids: set[str]) -> set[str]:
    return {job.partition("_")[0] for job in job_ids}


def run_command(command: list[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands.  Raises :class:`CadError` if it is missing or does not answer."""
    try:
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CadError(f"{command[0]} does not answer: {error}") from error
