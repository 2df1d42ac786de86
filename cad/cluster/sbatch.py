"""Submitting one job script so that its job is known, whatever happens to the answer.

submitit's executor takes the first number after "job" in all that sbatch prints for the job's, so the
script, which is submitit's own, is submitted here.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path

from submitit.core.utils import DelayedSubmission

from cad.cluster.commands import PAUSES, SlurmBusyError, run_command
from cad.errors import CadError
from cad.storage import write_text

_log = logging.getLogger(__name__)

# `sbatch --parsable` prints the job's number, and the cluster's name where there are several.
_ANSWER = re.compile(r"^(\d+)(?:;\S+)?$", re.MULTILINE)


def submit_script(
    script: str, folder: Path, calls: Sequence[DelayedSubmission], mark: str, comment: str
) -> str:
    """Submit a script whose task i makes the i-th of ``calls``; the job's number.

    ``mark`` is a word that no other job's comment has; it is added to ``comment``.  Files go to
    ``folder``, under the names that submitit's worker looks for.
    Raises :class:`CadError` when Slurm refuses.
    """
    pickles = [folder / f".{mark}-{index}.pkl" for index in range(len(calls))]
    for file, call in zip(pickles, calls, strict=True):
        call.dump(file)
    unsent = folder / f".{mark}.sh"
    write_text(unsent, script)
    job = _submit(unsent, mark, f"{comment} {mark}".strip())
    unsent.replace(folder / f"{job}_submission.sh")
    for index, file in enumerate(pickles):
        task = job if len(pickles) == 1 else f"{job}_{index}"
        file.replace(folder / f"{task}_submitted.pkl")
    return job


def _submit(script: Path, mark: str, comment: str) -> str:
    command = ["sbatch", "--parsable", f"--comment={comment}", str(script)]
    pauses = list(PAUSES)
    while True:
        try:
            done = run_command(command, again=False)
        except SlurmBusyError as error:
            # It may have been accepted all the same.
            if (job := find_job(mark)) is not None:
                return job
            if not pauses:
                raise
            _log.warning("%s; submitted again in %.0f s", error, pauses[0])
            time.sleep(pauses.pop(0))
            continue
        if done.returncode != 0:
            raise CadError(done.stderr.strip() or f"exit code {done.returncode}")
        # A site's wrapper may print more.
        answers = _ANSWER.findall(done.stdout)
        found = answers[0] if len(answers) == 1 else find_job(mark)
        if found is None:
            raise CadError(f"its answer holds no number of a job: {done.stdout.strip()}")
        return found


def find_job(mark: str) -> str | None:
    """The number of the job, or whole array, with ``mark`` in its comment: queued, running or just ended."""
    done = run_command(["squeue", "--noheader", "--me", "--states=all", "--format=%F %k"])
    if done.returncode != 0:
        raise CadError(f"squeue does not answer: {done.stderr.strip()}")
    for line in done.stdout.splitlines():
        job, _, comment = line.strip().partition(" ")
        if mark in comment.split():
            return job
    return None
