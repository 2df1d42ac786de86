"""Run Slurm's commands: in an environment of our own, and again after errors that pass.

Everything that cad says to Slurm from the submitting machine goes through :func:`run_command`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping

from cad.errors import CadError

log = logging.getLogger(__name__)

# Seconds: how long one call may take, when that is said, the pauses between tries, and when the last try
# begins at the latest: a command that never answers is not asked seven times.
_PATIENCE = 60.0
_QUIET = 10.0
_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_LATEST_TRY = 120.0
_TRIES_IF_UNKNOWN = 3
# Accounting is a help, not a need: its commands are not waited for that long.
_OPTIONAL_PAUSES = (1.0, 2.0)
_OPTIONAL_PATIENCE = 20.0
_OPTIONAL_LATEST_TRY = 10.0
_OPTIONAL = ("sacct", "sacctmgr")
# What these commands say does not depend on how often one asks.
_READING = ("squeue", "scontrol")
_PASSING = re.compile(
    r"socket timed out|unable to contact slurm controller|zero bytes were transmitted|connection refused"
    r"|communication connection failure|transport endpoint is not connected|temporarily unable"
    r"|resource temporarily unavailable|connection reset|connection timed out|backup controller"
    r"|in standby mode|unexpected message received|unable to establish controller|does not answer",
    re.IGNORECASE,
)
_LASTING = re.compile(
    r"invalid job id|invalid user|invalid partition|unrecognized option|serializer|data_parser",
    re.IGNORECASE,
)
# Variables with these beginnings are options of Slurm's commands; SLURM_* also describes the job that
# one is inside.
_DROPPED = (
    "SBATCH_",
    "SQUEUE_",
    "SACCT_",
    "SACCTMGR_",
    "SCONTROL_",
    "SCANCEL_",
    "SRUN_",
    "SLURM_",
    "SLURMD_",
)
CLUSTERS = "SLURM_CLUSTERS"
"""The variable that names other clusters than this machine's."""
# These find the cluster and prove who one is.
_KEPT = ("SLURM_CONF", CLUSTERS, "SLURM_JWT")

Done = subprocess.CompletedProcess[str]


def run_command(
    command: list[str],
    stdin: str | None = None,
    variables: Mapping[str, str] | None = None,
    is_answer: Callable[[str], bool] = lambda _said: True,
    cluster: str | None = None,
) -> Done:
    """Run one of Slurm's commands; after errors that pass, again with growing pauses.

    ``variables`` are added to its environment.  Output that is no answer (``is_answer``) is an error whatever
    the exit code: a wrapper may hide that of the command itself.  ``cluster`` names another cluster than this
    machine's, or several with commas between, and is empty for this machine's; with None,
    ``SLURM_CLUSTERS`` decides.

    Raises :class:`CadError` if the command is missing or did not answer until the last try.  Not for
    ``sbatch`` without ``--test-only``: that may have been accepted although its answer was lost.
    """
    tries = Tries(command[0])
    while True:
        done = run_once(command, stdin, variables, cluster)
        if done.returncode == 0 and not is_answer(done.stdout):
            done = Done(command, 1, done.stdout, done.stderr.strip() or _no_answer(done.stdout))
        if done.returncode == 0:
            return done
        pause = tries.pause()
        if pause is None or not _worth_another_try(command[0], done.stderr, tries.n):
            break
        wait(command[0], done.stderr, pause)
    if re.search("does not answer", done.stderr):
        raise CadError(done.stderr)
    return done


def run_once(
    command: list[str],
    stdin: str | None = None,
    variables: Mapping[str, str] | None = None,
    cluster: str | None = None,
) -> Done:
    """Run a command once; no answer in time is an error like those that it reports itself."""
    surroundings = {**environment(), **(variables or {})}
    if cluster is not None:
        surroundings.pop(CLUSTERS, None)
    if cluster:
        command = [command[0], f"--clusters={cluster}", *command[1:]]
    patience = _OPTIONAL_PATIENCE if command[0] in _OPTIONAL else _PATIENCE
    try:
        # A group of its own: what a site's wrapper has started is ended with it.  Ctrl-C comes to us alone.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=surroundings,
            process_group=0,
        )
    except OSError as error:
        raise CadError(f"{command[0]} cannot be run: {error}") from error
    with process:
        try:
            try:
                said, error_text = process.communicate(stdin, timeout=min(_QUIET, patience))
            except subprocess.TimeoutExpired:
                log.warning("%s has not answered yet; waiting for it up to %g s", command[0], patience)
                said, error_text = process.communicate(timeout=patience - _QUIET)
        except subprocess.TimeoutExpired:
            _end(process)
            return Done(command, 1, "", f"{command[0]} does not answer within {patience:g} s")
        except BaseException:
            _end(process)
            raise
    return Done(command, process.returncode, said, error_text)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a command and what it has started, which keeps its pipes open and might still do its work."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _no_answer(said: str) -> str:
    first = next(iter(said.strip().splitlines()), "")
    return f"it says something else: {first[:200]}" if first else "it says nothing"


def passes(stderr: str) -> bool:
    """Whether an error is one of those that pass: a busy or restarting controller, a lost connection."""
    return _PASSING.search(stderr) is not None


def why(done: Done) -> str:
    """What a command that failed says, for messages."""
    return done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"


class Tries:
    """The tries of one command: their number, and how long to pause before the next one."""

    def __init__(self, program: str) -> None:
        optional = program in _OPTIONAL
        self._pauses = iter(_OPTIONAL_PAUSES if optional else _PAUSES)
        self._latest = time.monotonic() + (_OPTIONAL_LATEST_TRY if optional else _LATEST_TRY)
        self.n = 0

    def pause(self) -> float | None:
        """Count a try that failed; the pause in seconds before the next one, None where it was the last."""
        self.n += 1
        pause = next(self._pauses, None)
        return None if pause is None or time.monotonic() + pause > self._latest else pause


def wait(program: str, stderr: str, pause: float) -> None:
    """Say why, and wait."""
    said = stderr.strip().splitlines()
    log.warning("%s: %s; again in %g s", program, said[-1] if said else "no answer", pause)
    time.sleep(pause)


def environment() -> dict[str, str]:
    """The environment of Slurm's commands: ours without what would change their options.

    Says once what was left out.
    """
    kept, dropped = without_options(os.environ)
    if dropped:
        _tell(tuple(dropped))
    return kept


def without_options(variables: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """``variables`` without those that Slurm's commands read as options, and the names of these."""
    dropped = sorted(name for name in variables if name.startswith(_DROPPED) and name not in _KEPT)
    return {name: value for name, value in variables.items() if name not in dropped}, dropped


@functools.cache
def _tell(dropped: tuple[str, ...]) -> None:
    if "SLURM_JOB_ID" in dropped:
        own = [name for name in dropped if not name.startswith(("SLURM_", "SLURMD_", "SRUN_"))]
        what = ", ".join(["the variables of the job that this runs in (SLURM_*)", *own])
    else:
        what = ", ".join(dropped)
    log.warning("not passed to Slurm's commands: %s; the profile says what jobs get", what)


def _worth_another_try(program: str, stderr: str, tries: int) -> bool:
    if passes(stderr):
        return True
    # An error that is not known may pass too: a site's wrapper has words of its own.
    return program in _READING and tries < _TRIES_IF_UNKNOWN and not _LASTING.search(stderr)
