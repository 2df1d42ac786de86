"""How ranks find each other, and how they notice that one is gone.

The first rank opens a key/value store at a port that the system gives it, so that no two jobs on a
node can want the same one, and leaves the address in the folder that all ranks work in.  Every rank
says there every few seconds that it lives: one that goes silent, or fails, takes the others with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from cad.errors import CadError
from cad.interrupt import InterruptedRun, StopFlag
from cad.storage import make_dirs, read_json, write_json
from cad.training.ranks import STOPPED, PeerLostError, Ranks

log = logging.getLogger(__name__)

JOIN_SECONDS = 300.0  # until all ranks have to be there
SILENCE_SECONDS = 30.0  # without a sign of life, a rank counts as lost
_BEAT_SECONDS = 2.0
_LEAVE_SECONDS = 10.0  # for a rank to end by itself when another one is lost
# Long: a rank may wait for the first one to write a checkpoint.  Dead ranks are noticed by their silence.
_COLLECTIVE = timedelta(minutes=30)
# Exit code of a rank that ends because another one is gone, as if killed: whoever started it tries again.
LOST = 137


@dataclass(frozen=True)
class RankAssignment:
    """Where a process sits: its rank of ``size``, its number on its node, where the first rank is.

    ``rendezvous_id`` names this attempt: no other attempt, earlier or beside it, has the same.
    """

    rank: int
    size: int
    local_rank: int
    host: str
    rendezvous_id: str


@contextlib.contextmanager
def joined(
    assignment: RankAssignment, folder: Path, stop: StopFlag, device: str, patience: float = JOIN_SECONDS
) -> Iterator[Ranks]:
    """Meet the other ranks; within the block torch's default process group is theirs.

    Raises :class:`PeerLostError` when a rank does not come, or is lost within the block, and
    :class:`~cad.interrupt.InterruptedRun` when asked to stop while waiting.
    """
    store = _open_store(assignment, make_dirs(folder), stop, patience)
    try:
        _check_in(assignment, store, stop, patience)
    finally:
        if assignment.rank == 0:
            _note(assignment, folder).unlink(missing_ok=True)
    os.environ.update(
        RANK=str(assignment.rank), WORLD_SIZE=str(assignment.size), LOCAL_RANK=str(assignment.local_rank),
        MASTER_ADDR=assignment.host, MASTER_PORT=str(store.port),
    )  # fmt: skip
    watch = _Watch(assignment, TCPStore(assignment.host, store.port, is_master=False))
    try:
        backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=PrefixStore("group", store),
            rank=assignment.rank,
            world_size=assignment.size,
            timeout=_COLLECTIVE,
        )
        ranks = Ranks(assignment.rank, assignment.size, assignment.local_rank, store)
        yield ranks
        ranks.barrier()
    except InterruptedRun:
        # All ranks stop together; the first one keeps the store until all have read what they need.
        watch.end()
        with contextlib.suppress(dist.DistError):
            store.set(STOPPED, "")
        _leave(assignment, store)
        raise
    except Exception as error:
        lost = watch.look_for_the_cause() if _is_of_connection(error) else None
        if lost is not None:
            raise lost from error
        watch.tell_failure(error)
        raise
    else:
        watch.end()
        _leave(assignment, store)
    finally:
        watch.end()
        if dist.is_initialized():
            dist.destroy_process_group()


def _note(assignment: RankAssignment, folder: Path) -> Path:
    return folder / f".ranks-{assignment.rendezvous_id}.json"


def _open_store(assignment: RankAssignment, folder: Path, stop: StopFlag, patience: float) -> TCPStore:
    note = _note(assignment, folder)
    if assignment.rank == 0:
        store = TCPStore(assignment.host, 0, is_master=True, wait_for_workers=False)
        write_json(note, {"host": assignment.host, "port": store.port})
        return store
    deadline = time.monotonic() + patience
    while not note.exists():
        stop.raise_if_set("waiting for the other ranks")
        if time.monotonic() > deadline:
            raise PeerLostError(
                f"rank {assignment.rank} waited {patience:.0f} s for rank 0 of {assignment.size} (on "
                f"{assignment.host}): it left no {note}; is that folder the same on all nodes?"
            )
        time.sleep(0.1)
    port = read_json(note)["port"]
    try:
        return TCPStore(assignment.host, port, is_master=False, timeout=timedelta(seconds=patience))
    except dist.DistError as error:
        raise PeerLostError(
            f"rank {assignment.rank} cannot reach rank 0 at {assignment.host}:{port} ({error}); "
            "do the nodes resolve each other's names, and is there a firewall between them?"
        ) from error


def _check_in(assignment: RankAssignment, store: TCPStore, stop: StopFlag, patience: float) -> None:
    """Say "here"; the first rank waits for all and tells how it went."""
    store.set(f"here/{assignment.rank}", socket.gethostname())
    deadline = time.monotonic() + patience
    if assignment.rank == 0:
        missing = list(range(1, assignment.size))
        while missing and time.monotonic() < deadline and not stop():
            missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
            time.sleep(0.02)
        verdict = ""
        if missing:
            names = ", ".join(map(str, missing))
            verdict = f"rank{'s' * (len(missing) > 1)} {names} of {assignment.size} did not come"
            verdict += f" within {patience:.0f} s" if not stop() else " before the stop"
        store.set("verdict", verdict)
    while not _has(store, "verdict"):
        stop.raise_if_set("waiting for the other ranks")
        time.sleep(0.05)
    verdict = store.get("verdict").decode()
    if verdict:
        stop.raise_if_set("waiting for the other ranks")
        raise PeerLostError(f"{verdict}; see that task's log, and the node that it was to run on")


def _has(store: TCPStore, key: str) -> bool:
    try:
        return bool(store.check([key]))
    except dist.DistError as error:
        raise PeerLostError("rank 0 is gone") from error


def _leave(assignment: RankAssignment, store: TCPStore) -> None:
    with contextlib.suppress(dist.DistError):
        store.add("left", 1)
        deadline = time.monotonic() + _LEAVE_SECONDS
        while assignment.rank == 0 and store.add("left", 0) < assignment.size and time.monotonic() < deadline:
            time.sleep(0.02)


def _is_of_connection(error: BaseException) -> bool:
    """Whether an error may come of another rank's end; gloo's have no type of their own."""
    return isinstance(error, (dist.DistError, PeerLostError)) or (
        isinstance(error, RuntimeError) and any(w in str(error) for w in ("gloo", "NCCL", "Connection"))
    )


class _Watch:
    """A thread that says "I live", and looks whether the others do."""

    def __init__(self, assignment: RankAssignment, store: TCPStore) -> None:
        self._assignment = assignment
        self._store = store
        self._over = threading.Event()
        self._lost: PeerLostError | None = None
        self._found = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop watching."""
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_BEAT_SECONDS)

    def tell_failure(self, error: BaseException) -> None:
        """Let the others know what happened here."""
        with contextlib.suppress(dist.DistError):
            message = f"rank {self._assignment.rank} of {self._assignment.size} failed: {error}"
            self._store.set("lost", json.dumps([message, True]))
            if self._assignment.rank == 0:
                time.sleep(2 * _BEAT_SECONDS)  # the store goes with this process

    def look_for_the_cause(self) -> PeerLostError | None:
        """Which rank was lost, once that is known; None if all are there."""
        self._found.wait(SILENCE_SECONDS + 3 * _BEAT_SECONDS)
        return self._lost

    def _run(self) -> None:
        beats: dict[int, tuple[bytes, float]] = {}
        count = 0
        while not self._over.wait(_BEAT_SECONDS):
            count += 1
            try:
                self._store.set(f"beat/{self._assignment.rank}", str(count))
                if self._store.check(["lost"]):
                    message, explained = json.loads(self._store.get("lost"))
                    self._give_up(message, explained)
                    return
                if self._assignment.rank == 0:
                    silent = self._silent(beats)
                    if silent is not None:
                        self._store.set("lost", json.dumps([silent, False]))
            except dist.DistError:
                if not self._over.is_set():
                    self._give_up(
                        f"rank 0 of {self._assignment.size} is gone (on {self._assignment.host})", False
                    )
                return

    def _silent(self, beats: dict[int, tuple[bytes, float]]) -> str | None:
        now = time.monotonic()
        for rank in range(1, self._assignment.size):
            key = f"beat/{rank}"
            beat = self._store.get(key) if self._store.check([key]) else b""
            known, since = beats.get(rank, (None, now))
            if beat != known:
                beats[rank] = (beat, now)
            elif now - since > SILENCE_SECONDS:
                where = self._store.get(f"here/{rank}").decode()
                # No word of memory here: job scripts look for it in the log.
                return (
                    f"rank {rank} of {self._assignment.size} (on {where}) has given no sign of life for "
                    f"{SILENCE_SECONDS:.0f} s: it was killed, or its node is gone"
                )
        return None

    def _give_up(self, message: str, explained: bool) -> None:
        self._lost = PeerLostError(message, explained=explained)
        self._found.set()
        if not self._over.wait(_LEAVE_SECONDS):
            # The main thread waits in a collective that will never end.
            log.error("%s; ending", message)
            logging.shutdown()
            os._exit(CadError.exit_code if explained else LOST)


def device_of_rank(device: torch.device, local_rank: int) -> torch.device:
    """The device of one of a node's ranks: ranks share out the GPUs that they see.

    Engines take the number of their GPU from ``LOCAL_RANK``, which counts ranks: where each rank sees
    one GPU alone, these are two things.
    """
    if device.type != "cuda" or device.index is not None or "LOCAL_RANK" not in os.environ:
        return device
    own = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(own)
    os.environ["LOCAL_RANK"] = str(own.index)
    return own
