"""Calling Slurm's commands: nothing around us changes what they do, and a busy controller is asked again.

Slurm's commands read options from the environment: ``SBATCH_PARTITION`` outranks the partition of a job
script, ``SQUEUE_STATES`` hides jobs, and within a job ``SLURM_*`` describes that job.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import time

from cad.errors import CadError

_PATIENCE = 60.0
# Seconds between attempts where the controller may answer later.
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0)
_TRANSIENT = re.compile(
    r"Socket timed out|Unable to contact slurm controller|Slurm temporarily unable|"
    r"Zero Bytes were transmitted|Connection (?:refused|reset|timed out)|Transport endpoint|"
    r"Resource temporarily unavailable|"
    r"slurm_receive_msg|slurm_load_jobs error: (?:Timeout|Unexpected message)|controller not responding",
    re.IGNORECASE,
)
_OPTIONS = ("SBATCH_", "SQUEUE_", "SACCT_", "SCONTROL_", "SCANCEL_", "SRUN_", "SALLOC_", "SINFO_")
_OF_A_JOB = ("SLURM_", "SLURMD_")
# They say which cluster, not what to do there.
_KEPT = frozenset({"SLURM_CONF", "SLURM_CLUSTERS"})

_log = logging.getLogger(__name__)
_told: set[str] = set()


class SlurmBusyError(CadError):
    """Slurm did not answer, however often it was asked; what it was told may have reached it."""


def environment() -> dict[str, str]:
    """This process's environment without what would change Slurm's commands; says once what that is."""
    dropped = {name for name in os.environ if name.startswith((*_OPTIONS, *_OF_A_JOB))} - _KEPT
    options = sorted(name for name in dropped - _told if name.startswith(_OPTIONS))
    if options:
        _log.warning("not passed on to Slurm, the profile decides: %s", ", ".join(options))
    if "SLURM_JOB_ID" in dropped - _told:
        _log.warning("not passed on to Slurm: SLURM_* of the job that this runs in")
    _told.update(dropped)
    return {name: value for name, value in os.environ.items() if name not in dropped}


def run_command(
    command: list[str], stdin: str | None = None, *, again: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands; while the controller does not answer, ``again``, with growing pauses.

    Raises :class:`CadError` if the command is missing, :class:`SlurmBusyError` if no answer comes.
    Ctrl-C does not reach the command: what Slurm answers is always read.
    """
    pauses = list(PAUSES) if again else []
    while True:
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, timeout=_PATIENCE, check=False,
                env=environment(), start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            reason = f"no answer within {_PATIENCE:.0f} s"
        except OSError as error:
            raise CadError(f"{command[0]} cannot be run: {error}") from error
        else:
            if done.returncode == 0 or not _TRANSIENT.search(done.stderr):
                return done
            reason = done.stderr.strip().rpartition("\n")[2]
        if not pauses:
            raise SlurmBusyError(f"{command[0]} does not answer: {reason}")
        _log.warning("%s: %s; asked again in %.0f s", command[0], reason, pauses[0])
        time.sleep(pauses.pop(0))
