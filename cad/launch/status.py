"""Where every stage of an experiment stands: from its own directory first, from Slurm where there is one.

Nothing here writes.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cad.launch.queue import QueuedJob, ended_jobs, has_slurm, queued_jobs
from cad.launch.records import JobNote, read_note

State = Literal["done", "running", "queued", "failed", "dead", "waiting", "unknown"]
FAILED = "FAILED"  # as in cad.experiments.job, which imports torch: status must answer at once

_LIVE = ("running", "queued")
_OUT_OF_MEMORY, _TIMEOUT = "out of memory", "time limit"
# The last event of a job that Slurm does not have any more, and what it means.
_EVENTS = {
    "started": "its job ended without a word (killed, or the node failed)",
    "ended": "cancelled",
    "out-of-memory": _OUT_OF_MEMORY,
    "too-many-requeues": f"{_TIMEOUT} or preempted, and requeued too often",
    "too-many-crashes": "killed without a word too often",
    "failed": "its job failed; see the log",
    "image-changed": "its image was changed after the submission; submit again",
    "saved": "saved, but was not requeued",
    "time-limit": f"{_TIMEOUT}, and was not requeued",
    "crashed": "killed, and was not requeued",
}
_ACCOUNTING = {
    "OUT_OF_MEMORY": _OUT_OF_MEMORY,
    "TIMEOUT": _TIMEOUT,
    "CANCELLED": "cancelled",
    "NODE_FAIL": "its node failed",
    "DEADLINE": _TIMEOUT,
}


@dataclass(frozen=True)
class StageStatus:
    """Where one stage stands.

    ``dead``: its job is gone without a result.  ``unknown``: it was submitted, and Slurm cannot be
    asked from here.  ``done_share`` is from 0 to 1, ``seconds_left`` an estimate, None where unknown.
    """

    stage: str
    kind: str
    state: State
    reason: str = ""
    job_id: str | None = None
    node: str = ""
    done_share: float | None = None
    seconds_left: float | None = None
    latest: dict[str, float] = field(default_factory=dict)
    log: str | None = None

    @property
    def alive(self) -> bool:
        """Queued or running."""
        return self.state in _LIVE

    @property
    def out_of_memory(self) -> bool:
        """Whether more memory would help."""
        return not self.alive and (_OUT_OF_MEMORY in self.reason or "MemoryError" in self.reason)

    @property
    def timed_out(self) -> bool:
        """Whether more time would help."""
        return not self.alive and _TIMEOUT in self.reason


def stage_statuses(root: Path, names: list[str]) -> dict[str, StageStatus]:
    """Where the stages of these names stand.  Raises :class:`CadError` when Slurm does not answer."""
    folders = {name: root / "stages" / name for name in dict.fromkeys(names)}
    done = {name for name, folder in folders.items() if (folder / "DONE").exists()}
    notes = {name: note for name in folders if name not in done and (note := read_note(folders[name]))}
    job_ids = {note.job_id for note in notes.values()}
    queue = queued_jobs(job_ids) if has_slurm() else None
    gone = job_ids - set(queue or {})
    ended = ended_jobs(gone) if queue is not None else {}
    return {
        name: _done(folder) if name in done else stage_status(root, folder, notes.get(name), queue, ended)
        for name, folder in folders.items()
    }


def _done(folder: Path) -> StageStatus:
    note = _read(folder / "progress.json")
    return StageStatus(folder.name, _kind(folder), "done", done_share=1.0, latest=_latest(note))


def stage_status(  # noqa: PLR0911
    root: Path,
    folder: Path,
    note: JobNote | None,
    queue: Mapping[str, QueuedJob] | None,
    ended: Mapping[str, str],
) -> StageStatus:
    """Where a stage that is not done stands; ``queue`` is None where there is no Slurm to ask."""
    kind, marker = _kind(folder), _read(folder / FAILED)
    if note is None:
        if _locked(folder):
            return _running(folder, None, None)
        if marker:
            return StageStatus(folder.name, kind, "failed", str(marker.get("message", "")))
        return StageStatus(folder.name, kind, "waiting")
    log = str(note.log(root))
    job = (queue or {}).get(note.job_id)
    # Job numbers start again when a cluster is set up anew: another name is another job.
    if job is not None and job.name == note.name:
        if job.state in ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING"):
            return _running(folder, job, log)
        share = _share(_read(folder / "progress.json"))
        reason = "" if job.reason == "None" else job.reason
        return StageStatus(folder.name, kind, "queued", reason, job.job_id, done_share=share, log=log)
    if _locked(folder):
        return _running(folder, None, log)
    events = note.attempts(root)
    node = events[-1][1] if events else ""
    if marker:
        reason = str(marker.get("message", ""))
        return StageStatus(folder.name, kind, "failed", reason, note.job_id, node, log=log)
    if queue is None:
        return StageStatus(folder.name, kind, "unknown", "no Slurm here to ask", note.job_id, node, log=log)
    return StageStatus(
        folder.name, kind, "dead", _why_gone(events, ended.get(note.job_id, "")), note.job_id, node, log=log
    )


def _why_gone(events: list[list[str]], accounted: str) -> str:
    if accounted in _ACCOUNTING:
        return _ACCOUNTING[accounted]
    if not events:
        return "its job is gone before it started (cancelled, or a stage before it failed)"
    return _EVENTS.get(events[-1][2], "its job is gone")


def _running(folder: Path, job: QueuedJob | None, log: str | None) -> StageStatus:
    note = _read(folder / "progress.json")
    return StageStatus(
        folder.name,
        _kind(folder),
        "running",
        "" if job else "by a process of this machine",
        job.job_id if job else None,
        job.node if job else "",
        _share(note),
        _seconds_left(note),
        _latest(note),
        log,
    )


def _kind(folder: Path) -> str:
    return folder.name.rpartition("-")[0]


def _share(note: dict[str, Any]) -> float | None:
    done, total = note.get("done"), note.get("total")
    return done / total if isinstance(done, int | float) and total else None


def _seconds_left(note: dict[str, Any]) -> float | None:
    """From the pace since the process that works on it began; none before it has moved."""
    try:
        moved, took = note["done"] - note["first_done"], note["time"] - note["first_time"]
        return float(took / moved * (note["total"] - note["done"])) if moved > 0 else None
    except (KeyError, TypeError):
        return None


def _latest(note: dict[str, Any]) -> dict[str, float]:
    return {key: note[key] for key in ("loss", "validation_return") if key in note}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        return {"message": f"{path} is damaged"} if path.name == FAILED else {}
    return found if isinstance(found, dict) else {}


def _locked(folder: Path) -> bool:
    """Whether a process of this machine works in the folder."""
    try:
        with (folder / ".lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except OSError:
        return False
    return False
