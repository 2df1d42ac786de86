"""The workers of a cluster's jobs, as processes of this machine: found, stopped, looked into."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

# Between two looks at `cad status`, each of which is a process: a test waits for minutes, and its jobs need
# the cores.
STATUS_SECONDS = 3.0


def worker_of(stage: Path) -> int:
    """The process that holds a stage's directory."""
    return int(re.search(r"process (\d+)", (stage / ".lock").read_text())[1])


def second_rank_of(stage: Path) -> int:
    """The second task of the job whose first one holds a stage's directory."""
    (job,) = (word for word in _environment(worker_of(stage)) if word.startswith(b"SLURM_JOB_ID="))
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            wanted = {job, b"SLURM_PROCID=1"} <= set(_environment(int(folder.name)))
            if wanted and b"submitit" in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise AssertionError(f"no process is the second task of {job.decode()}")


def _environment(process: int) -> list[bytes]:
    return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")


def hold(root: Path, kind: str, but: Collection[str] = (), after: float = 0.0, seconds: float = 180) -> str:
    """Stop a worker of a kind of stage in mid-work, so that it stays there however fast the machine is.

    The stage's name; its share of work that is done lies between ``after`` and 0.7.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for progress in (root / "stages").glob(f"{kind}-*/progress.json"):
            note, stage = json.loads(progress.read_text()), progress.parent
            if stage.name not in but and after < note["done"] / note["total"] < 0.7 and _is_held(stage):
                send(worker_of(stage), signal.SIGSTOP)
                return stage.name
        time.sleep(0.01)
    raise AssertionError(f"no {kind} was seen in its middle")


def soon_held(root: Path, kind: str, but: Collection[str] = ()) -> Future[str]:
    """:func:`hold` in a thread, begun before there is anything to hold: whatever a busy machine delays,
    the middle is not missed.
    """
    pool = ThreadPoolExecutor(1)
    held = pool.submit(hold, root, kind, but)
    pool.shutdown(wait=False)
    return held


def _is_held(stage: Path) -> bool:
    """Whether a worker is there, and not just the note of one that ended."""
    with contextlib.suppress(OSError, TypeError):
        command = Path(f"/proc/{worker_of(stage)}/cmdline").read_bytes()
        return b"submitit" in command or b"multiprocessing" in command  # a process of a pack
    return False


def send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def signalled(process: int) -> bool:
    """Whether a stopped worker was told to end: a signal waits for it, or has woken or ended it."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return True
    status = dict(line.split(":\t", 1) for line in lines)
    waiting = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    warned = any(waiting >> (number - 1) & 1 for number in (signal.SIGUSR2, signal.SIGTERM))
    return warned or not status["State"].startswith("T")


def job_of(root: Path, stage: str) -> str:
    return json.loads((root / "stages" / stage / "job.json").read_text())["job_id"]


def events(jobs: Path) -> dict[str, list[str]]:
    """Job to what its script noted, of all submissions under an experiment's ``jobs``."""
    return {
        file.stem: [line.split(" ", 2)[2] for line in file.read_text().splitlines()]
        for file in jobs.glob("*-slurm/*.attempts")
    }
