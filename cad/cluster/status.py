"""Where every stage of an experiment stands: from its own directory first, then from Slurm, if any.

Nothing here writes, and nothing imports torch: tables come at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cad.cluster.queue import QueuedJob, ended_jobs, has_slurm, queued_jobs
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.job_records import BAD_NODE, STARTED, AttemptEvent, JobNote, is_shortage

_Answers = tuple[dict[str, QueuedJob], dict[str, str]]
State = Literal["done", "running", "queued", "failed", "dead", "waiting", "unknown", "pruned"]

_LIVE = ("running", "queued")
_OUT_OF_MEMORY, _TIMEOUT = "out of memory", "time limit"
# The last event that the job script noted for a job that Slurm no longer has, and what it means.
_EVENTS = {
    STARTED: "its job was killed without reporting an error, or its node failed",
    "ended": "cancelled",
    "out-of-memory": _OUT_OF_MEMORY,
    "too-many-requeues": f"{_TIMEOUT} or preempted, and requeued too often",
    "too-many-crashes": "killed too often without reporting an error",
    "too-many-node-failures": "its node failed too often; see the log",
    "failed": "its job failed; see the log",
    "not-ready": "a stage that it needs is not done",
    "image-changed": "its image was changed after the submission; submit again",
    "image-version": "its image holds another version of cad or cannot be run; see the log",
    "image-missing": "its image is missing or not readable on the node",
    "module-failed": "a module of the profile could not be loaded; see the log",
    "no-cache": "no folder for compilers' caches can be made under the profile's scratch; see the log",
    "variable-missing": "a variable that the profile names is not set on the node; see the log",
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
_RUNNING = (
    "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT",
)  # fmt: skip


@dataclass(frozen=True)
class StageStatus:
    """Where one stage stands.

    ``dead``: its job is gone without a result.  ``unknown``: it was submitted, and this machine has no
    Slurm to ask.  ``pruned``: its training was ended early.  ``done_share`` is from 0 to 1,
    ``seconds_left`` an estimate; None if unknown.
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
    avoids: tuple[str, ...] = ()  # nodes on which it was killed soon after its start
    pack: int = 1  # trainings that its job works on together
    cluster: str | None = None  # its job's, as in its note

    @property
    def alive(self) -> bool:
        """Queued or running."""
        return self.state in _LIVE

    @property
    def out_of_memory(self) -> bool:
        """Whether more memory would help."""
        return not self.alive and is_shortage(self.reason)

    @property
    def timed_out(self) -> bool:
        """Whether more time would help."""
        return not self.alive and _TIMEOUT in self.reason


def stage_statuses(root: Path, names: list[str]) -> dict[str, StageStatus]:
    """Where the stages of these names stand.  Raises :class:`CadError` when Slurm does not answer."""
    stages = {name: StageDirectory(root, name) for name in dict.fromkeys(names)}
    done = {name for name, stage in stages.items() if stage.done}
    notes = {
        name: note for name, stage in stages.items() if name not in done and (note := stage.job()) is not None
    }
    # By cluster: each counts its jobs by itself.
    ids: dict[str | None, set[str]] = {}
    for note in notes.values():
        ids.setdefault(note.cluster, set()).add(note.job_id)
    asked: dict[str | None, _Answers] = {}
    if has_slurm():
        for cluster, some in ids.items():
            queue = queued_jobs(some, cluster)
            asked[cluster] = queue, ended_jobs(some - set(queue), cluster)

    def status(name: str, stage: StageDirectory) -> StageStatus:
        note = notes.get(name)
        answers = asked.get(note.cluster) if note is not None else None
        found = stage_status(stage, note, *(answers or (None, {})))
        return replace(found, cluster=note.cluster) if note is not None else found

    return {name: _done(stage) if name in done else status(name, stage) for name, stage in stages.items()}


def jobs_by_cluster(statuses: Iterable[StageStatus]) -> dict[str | None, set[str]]:
    """The ids of the stages' jobs, by cluster."""
    jobs: dict[str | None, set[str]] = {}
    for status in statuses:
        if status.job_id:
            jobs.setdefault(status.cluster, set()).add(status.job_id)
    return jobs


def _done(stage: StageDirectory) -> StageStatus:
    return StageStatus(stage.name, stage.kind, "done", done_share=1.0, latest=_latest(stage.progress()))


def stage_status(
    stage: StageDirectory,
    note: JobNote | None,
    queue: Mapping[str, QueuedJob] | None,
    ended: Mapping[str, str],
) -> StageStatus:
    """Where a stage that is not done stands; ``queue`` is None where there is no Slurm to ask."""
    log = None if note is None else str(note.log(stage.root))
    if note is not None and (job := _job(note, queue)) is not None:
        return _left_its_pack(stage, note, log) or _in_queue(stage, note, job, log)
    if stage.locked():
        return _running(stage, None, log)
    failure = stage.failure()
    state: State
    if (pruned := stage.pruned()) is not None:
        return StageStatus(stage.name, stage.kind, "pruned", pruned, None if note is None else note.job_id)
    if note is None:
        state = "waiting" if failure is None else "failed"
        return StageStatus(stage.name, stage.kind, state, failure or "")
    events = note.attempts(stage.root)
    if failure is not None:
        state, reason = "failed", failure
    elif queue is None:
        state, reason = "unknown", "this machine has no Slurm to ask"
    else:
        state, reason = "dead", _why_gone(events, ended.get(note.job_id, ""))
    node = events[-1].node if events else ""
    if log is not None and not Path(log).exists():
        log = None
    return StageStatus(stage.name, stage.kind, state, reason, note.job_id, node, log=log)


def _in_queue(stage: StageDirectory, note: JobNote, job: QueuedJob, log: str | None) -> StageStatus:
    """The status of a stage whose job is queued or running."""
    bad = (event.node for event in note.attempts(stage.root) if event.event == BAD_NODE)
    avoids, pack = tuple(dict.fromkeys(bad)), max(1, len(note.pack))
    if job.state in _RUNNING:
        return replace(_running(stage, job, log), avoids=avoids, pack=pack)
    return StageStatus(
        stage.name,
        stage.kind,
        "queued",
        "" if job.reason == "None" else job.reason,
        job.job_id,
        done_share=_share(stage.progress()),
        log=log,
        avoids=avoids,
        pack=pack,
    )


def _left_its_pack(stage: StageDirectory, note: JobNote, log: str | None) -> StageStatus | None:
    """The status of a training whose job goes on, with others of its pack, without it."""
    if not note.pack:
        return None
    if (pruned := stage.pruned()) is not None:
        return StageStatus(stage.name, stage.kind, "pruned", pruned, note.job_id)
    failure = stage.failure()
    # Out of memory, the job may start again with more of it.
    if failure is None or is_shortage(failure):
        return None
    return StageStatus(stage.name, stage.kind, "failed", failure, note.job_id, log=log)


def _job(note: JobNote, queue: Mapping[str, QueuedJob] | None) -> QueuedJob | None:
    job = (queue or {}).get(note.job_id)
    # Job numbers start again when a cluster is set up anew: another name is another job.
    return job if job is not None and job.name == note.name else None


def _why_gone(events: list[AttemptEvent], accounted: str) -> str:
    if accounted in _ACCOUNTING:
        return _ACCOUNTING[accounted]
    if not events:
        return "its job is gone before it started (cancelled, or an earlier stage failed)"
    return _EVENTS.get(events[-1].event, "its job is gone")


def _running(stage: StageDirectory, job: QueuedJob | None, log: str | None) -> StageStatus:
    note = stage.progress()
    return StageStatus(
        stage.name,
        stage.kind,
        "running",
        "" if job else "by a process of this machine",
        job.job_id if job else None,
        job.node if job else "",
        _share(note),
        _seconds_left(note),
        _latest(note),
        log,
    )


def _share(note: dict[str, Any]) -> float | None:
    done, total = note.get("done"), note.get("total")
    return done / total if isinstance(done, int | float) and total else None


def _seconds_left(note: dict[str, Any]) -> float | None:
    """From the rate of the current attempt; None before its first step."""
    try:
        moved, took = note["done"] - note["first_done"], note["time"] - note["first_time"]
        return float(took / moved * (note["total"] - note["done"])) if moved > 0 else None
    except (KeyError, TypeError):
        return None


def _latest(note: dict[str, Any]) -> dict[str, float]:
    return {key: note[key] for key in ("loss", "validation_return") if key in note}
