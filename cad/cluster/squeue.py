"""What ``squeue`` says about jobs: read as JSON where Slurm has it (24.05 and later), else as text.

Text is also asked for where this Slurm was built without JSON, or its JSON is not as known here.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from cad.cluster.command import passes, run_command
from cad.errors import CadError

log = logging.getLogger(__name__)

Row = tuple[str, ...]

T = TypeVar("T")

_JSON_SINCE = (24, 5)
_UNREADABLE: set[str] = set()
"""Not empty once JSON could not be read: it is not asked for again."""
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "TIMEOUT",
}  # fmt: skip


def _number(value: dict[str, Any]) -> int | None:
    return int(value["number"]) if value["set"] and not value["infinite"] else None


def _states(job: dict[str, Any]) -> list[str]:
    """The state and its flags; raises ``TypeError`` where they are no list (Slurm 23.02 and before)."""
    states = job["job_state"]
    if not isinstance(states, list):
        raise TypeError(f"job_state={states!r}")
    return states


def _state(job: dict[str, Any]) -> str:
    """As squeue's text has it: a flag such as ``COMPLETING``, or else the state."""
    base, *flags = _states(job)
    return flags[0] if flags else base


# By the names that this module's functions take: how squeue's text has it, and how its JSON.
_FIELDS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "array": ("%F", lambda job: str(_number(job["array_job_id"]) or job["job_id"])),
    "state": ("%T", _state),
    "node": ("%N", lambda job: str(job["nodes"])),
    "reason": ("%r", lambda job: str(job["state_reason"])),
    "name": ("%j", lambda job: str(job["name"])),
    "comment": ("%k", lambda job: str(job["comment"])),
    "command": ("%o", lambda job: str(job["command"])),
    "account": ("%a", lambda job: str(job["account"])),
    "qos": ("%q", lambda job: str(job["qos"])),
}


def tasks_in_queue(options: Sequence[str], fields: Sequence[str]) -> dict[str, Row]:
    """The jobs that are queued or running, each task of an array by itself: id (``12_3``) to ``fields``.

    Raises :class:`CadError` when Slurm does not answer; a job that it does not know is no error.
    """

    def read(jobs: list[dict[str, Any]]) -> dict[str, Row]:
        live = [job for job in jobs if _is_live(job)]
        return {task: _row(job, fields) for job in live for task in _task_ids(job)}

    if (tasks := _from_json(options, read)) is not None:
        return tasks
    rows = _as_text(["--array", *options], ["%i", *(_FIELDS[name][0] for name in fields)])
    return {row[0]: row[1:] for row in rows}


def jobs_of(user: str, fields: Sequence[str]) -> list[Row]:
    """All jobs of a user that Slurm still knows, ended ones too; the pending tasks of an array are one."""
    options = ["--states=all", f"--user={user}"]
    rows = _from_json(options, lambda jobs: [_row(job, fields) for job in jobs])
    return rows if rows is not None else _as_text(options, [_FIELDS[name][0] for name in fields])


def speaks_json() -> bool:
    """Whether this Slurm's JSON is known here: its version is asked for once."""
    return not _UNREADABLE and _has_json()


@functools.cache
def _has_json() -> bool:
    try:
        said = run_command(["scontrol", "--version"]).stdout
    except CadError:
        return False
    version = re.search(r"(\d+)\.(\d+)", said)
    return version is not None and (int(version.group(1)), int(version.group(2))) >= _JSON_SINCE


def parse_text(text: str, n: int) -> list[Row]:
    """Rows of ``n`` fields with ``|`` between; the last one may contain it."""
    return [tuple(line.split("|", n - 1)) for line in text.splitlines() if line.count("|") >= n - 1]


def _from_json(options: Sequence[str], read: Callable[[list[dict[str, Any]]], T]) -> T | None:
    """What ``read`` makes of the jobs; None, from then on, where Slurm has no JSON that is known here."""
    if not speaks_json():
        return None
    # Else the numbers of an array's pending tasks are cut at 64 characters.
    done = run_command(["squeue", "--json", *options], variables={"SLURM_BITSTR_LEN": "0"})
    if done.returncode and _knows_no_such_job(done.stderr):
        return read([])
    if done.returncode and passes(done.stderr):
        raise CadError(f"squeue does not answer: {done.stderr.strip()}")
    try:
        # A wrapper of the site may say something before it.
        return read(json.loads(done.stdout[done.stdout.index("{") :])["jobs"])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        log.debug("squeue --json cannot be read (%r): %s", error, (done.stderr or done.stdout)[:200])
        _UNREADABLE.add("json")
        return None


def _as_text(options: Sequence[str], form: Sequence[str]) -> list[Row]:
    said = _said(["squeue", "--noheader", *options, "--format", "|".join(form)])
    return parse_text(said, len(form))


def _knows_no_such_job(stderr: str) -> bool:
    """Asked for a single job, squeue fails when it no longer knows that job."""
    return "Invalid job id" in stderr


def _said(command: list[str]) -> str:
    done = run_command(command)
    if done.returncode == 0:
        return done.stdout
    if _knows_no_such_job(done.stderr):
        return ""
    raise CadError(f"squeue does not answer: {done.stderr.strip()}")


def _row(job: dict[str, Any], fields: Sequence[str]) -> Row:
    return tuple(_FIELDS[name][1](job) for name in fields)


def _is_live(job: dict[str, Any]) -> bool:
    # JSON has ended jobs too, until Slurm forgets them.
    states = _states(job)
    return states[0] not in _ENDED or "COMPLETING" in states


def _task_ids(job: dict[str, Any]) -> Iterator[str]:
    """``12_3``, or ``12`` for a job that is no array; pending tasks of an array are one job in JSON."""
    array, task = _number(job["array_job_id"]), _number(job["array_task_id"])
    if not array:
        yield str(job["job_id"])
    elif task is not None:
        yield f"{array}_{task}"
    else:
        for index in task_numbers(job["array_task_string"]):
            yield f"{array}_{index}"


def task_numbers(text: str) -> Iterator[int]:
    """The numbers in ``0-2,7,10-20:5%4``."""
    for part in filter(None, text.partition("%")[0].split(",")):
        ends, _, step = part.partition(":")
        first, _, last = ends.partition("-")
        yield from range(int(first), int(last or first) + 1, int(step or 1))
