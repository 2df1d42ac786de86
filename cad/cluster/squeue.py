"""What ``squeue`` says about jobs: read as JSON where Slurm has it (24.05 and later), else as text."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cad.cluster.command import run_command, why
from cad.errors import CadError

log = logging.getLogger(__name__)

Row = tuple[str, ...]

_JSON_SINCE = (24, 5)
# Every row of the text begins with it, the heading too: it tells an answer from a wrapper's words, and an
# empty queue from no answer at all.
_MARK = "cad|"
# What a Slurm that was built without json-c says.
_WITHOUT_JSON = re.compile(r"serializer|data_parser|json|unrecognized option", re.IGNORECASE)
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "TIMEOUT",
}  # fmt: skip


def _number(value: dict[str, Any]) -> int | None:
    return int(value["number"]) if value["set"] and not value["infinite"] else None


def _state(job: dict[str, Any]) -> str:
    """As squeue's text has it: a flag such as ``COMPLETING``, or else the state."""
    base, *flags = job["job_state"]
    # What else a running job does (POWER_UP_NODE, RESIZING, ...) does not matter.
    return str(base if base == "RUNNING" or not flags else flags[0])


# By the names that this module's functions take: how squeue's text has it, and how its JSON.
_FIELDS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "array": ("%F", lambda job: str(_number(job["array_job_id"]) or job["job_id"])),
    "state": ("%T", _state),
    "node": ("%N", lambda job: str(job["nodes"])),
    "reason": ("%r", lambda job: str(job.get("state_description") or job["state_reason"])),
    "name": ("%j", lambda job: str(job["name"])),
    "comment": ("%k", lambda job: str(job["comment"])),
    "command": ("%o", lambda job: str(job["command"])),
    "account": ("%a", lambda job: str(job["account"])),
    "qos": ("%q", lambda job: str(job["qos"])),
}


def tasks_in_queue(
    options: Sequence[str], fields: Sequence[str], cluster: str | None = None
) -> dict[str, Row]:
    """The jobs that are queued or running, each task of an array by itself: id (``12_3``) to ``fields``.

    ``cluster`` is that of :func:`cad.cluster.command.run_command`.  Raises :class:`CadError` when Slurm does
    not answer; a job that it does not know is no error.
    """
    if speaks_json():
        try:
            live = [job for job in _as_json(options, cluster) if _is_live(job)]
            return {task: _row(job, fields) for job in live for task in _task_ids(job)}
        except _NOT_KNOWN as error:
            _tell(repr(error))
    form = ["%i", *(_FIELDS[name][0] for name in fields)]
    rows = _as_text(["--array", *options], form, cluster)
    return {row[0]: row[1:] for row in rows}


def jobs_of(user: str, fields: Sequence[str], cluster: str | None = None) -> list[Row]:
    """All jobs of a user that Slurm still knows, ended ones too; the pending tasks of an array are one."""
    options = ["--states=all", f"--user={user}"]
    if speaks_json():
        try:
            return [_row(job, fields) for job in _as_json(options, cluster)]
        except _NOT_KNOWN as error:
            _tell(repr(error))
    return _as_text(options, [_FIELDS[name][0] for name in fields], cluster)


@functools.cache
def speaks_json() -> bool:
    """Whether this Slurm's JSON is known here: its version is asked for once."""
    try:
        said = run_command(["scontrol", "--version"]).stdout
    except CadError:
        return False
    version = re.search(r"(\d+)\.(\d+)", said)
    return version is not None and (int(version.group(1)), int(version.group(2))) >= _JSON_SINCE


def parse_json(text: str) -> list[dict[str, Any]]:
    """The jobs in the output of ``squeue --json``, which a site's wrapper may say something before or after.

    Raises :class:`ValueError` for anything else.
    """
    start = re.search(r"^\s*\{", text, re.MULTILINE)
    answer = json.JSONDecoder().raw_decode(text, start.end() - 1)[0] if start else {}
    if not isinstance(answer.get("jobs"), list):
        raise ValueError(f"squeue --json answers with something else: {text[:200].strip()}")
    return list(answer["jobs"])


def parse_text(text: str, n: int) -> list[Row]:
    """Rows of ``n`` fields with ``|`` between, below a heading; the last field may contain it."""
    _, *rows = (line.removeprefix(_MARK) for line in text.splitlines() if line.startswith(_MARK))
    return [tuple(row.split("|", n - 1)) for row in rows if row.count("|") >= n - 1]


# Slurm was built without JSON, a wrapper answers, or another version has other keys: text is asked for.
_NOT_KNOWN = (ValueError, LookupError, TypeError, AttributeError)


@functools.cache
def _tell(why: str) -> None:
    log.debug("squeue is read as text, its JSON is not as expected: %s", why)


def _as_json(options: Sequence[str], cluster: str | None) -> list[dict[str, Any]]:
    # Else the numbers of an array's pending tasks are cut at 64 characters.
    said = _said(
        ["squeue", "--all", "--json", *options], variables={"SLURM_BITSTR_LEN": "0"}, cluster=cluster
    )
    return [] if said is None else parse_json(said)


def _as_text(options: Sequence[str], form: Sequence[str], cluster: str | None) -> list[Row]:
    # All: also those of partitions that are hidden.
    command = ["squeue", "--all", *options, "--format", _MARK + "|".join(form)]
    said = _said(command, is_answer=_has_heading, cluster=cluster)
    return [] if said is None else parse_text(said, len(form))


def _has_heading(text: str) -> bool:
    return any(line.startswith(_MARK) for line in text.splitlines())


def _said(command: list[str], **how: Any) -> str | None:
    """What squeue answers; None where it knows none of the jobs that it was asked for."""
    done = run_command(command, **how)
    # Asked for a single job, squeue fails when it no longer knows that job.
    if "Invalid job id" in done.stderr:
        return None
    if done.returncode == 0:
        return done.stdout
    if "--json" in command and _WITHOUT_JSON.search(done.stderr):
        raise ValueError(done.stderr.strip())
    raise CadError(f"squeue does not answer: {why(done)}")


def _row(job: dict[str, Any], fields: Sequence[str]) -> Row:
    return tuple(_FIELDS[name][1](job) for name in fields)


def _is_live(job: dict[str, Any]) -> bool:
    # JSON has ended jobs too, until Slurm forgets them.
    return job["job_state"][0] not in _ENDED or "COMPLETING" in job["job_state"]


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
