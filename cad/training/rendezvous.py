"""How ranks find each other.

The first rank opens a key/value store at a port that the system chooses, so that two jobs on one node
never want the same port.  It writes the address to a file in the folder that all ranks work in.
torch's own rendezvous needs a port that is agreed on beforehand, cannot be stopped while it waits, and does
not say which rank is missing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from cad.interrupt import InterruptedRun, StopFlag
from cad.storage import make_dirs, read_json, write_json
from cad.training.peer_monitor import PeerMonitor
from cad.training.ranks import STOPPED, PeerLostError, RankAssignment, Ranks

JOIN_SECONDS = 300.0  # for all ranks to arrive
_LEAVE_SECONDS = 10.0  # for the other ranks to read what they need, before the store closes
# Long: a rank may wait for the first one to write a checkpoint.  The monitor notices dead ranks sooner.
_COLLECTIVE = timedelta(minutes=30)
_WAITING = "waiting for the other ranks"


@contextlib.contextmanager
def joined(
    assignment: RankAssignment, folder: Path, stop: StopFlag, device: str, patience: float = JOIN_SECONDS
) -> Iterator[Ranks]:
    """Wait for all ranks; within the block they form torch's default process group.

    Raises :class:`PeerLostError` when a rank does not arrive within ``patience`` seconds or is lost
    within the block, and :class:`~cad.interrupt.InterruptedRun` when ``stop`` is set while it waits.
    """
    store = _open_store(assignment, make_dirs(folder), stop, patience)
    try:
        _wait_for_all(assignment, store, stop, patience)
    finally:
        if assignment.rank == 0:
            _address_file(assignment, folder).unlink(missing_ok=True)
    os.environ.update(
        RANK=str(assignment.rank), WORLD_SIZE=str(assignment.size), LOCAL_RANK=str(assignment.local_rank),
        MASTER_ADDR=assignment.host, MASTER_PORT=str(store.port),
    )  # fmt: skip
    monitor = PeerMonitor(assignment, TCPStore(assignment.host, store.port, is_master=False))
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
        # All ranks stop together; the first one keeps the store open until all have read what they need.
        monitor.stop()
        with contextlib.suppress(dist.DistError):
            store.set(STOPPED, "")
        _leave(assignment, store)
        raise
    except Exception as error:
        lost = monitor.wait_for_cause() if _may_come_from_a_peer(error) else None
        if lost is not None:
            raise lost from error
        monitor.report_failure(error)
        raise
    else:
        monitor.stop()
        _leave(assignment, store)
    finally:
        monitor.stop()
        if dist.is_initialized():
            dist.destroy_process_group()


def _address_file(assignment: RankAssignment, folder: Path) -> Path:
    return folder / f".ranks-{assignment.rendezvous_id}.json"


def _open_store(assignment: RankAssignment, folder: Path, stop: StopFlag, patience: float) -> TCPStore:
    address = _address_file(assignment, folder)
    if assignment.rank == 0:
        store = TCPStore(assignment.host, 0, is_master=True, wait_for_workers=False)
        write_json(address, {"host": assignment.host, "port": store.port})
        return store
    deadline = time.monotonic() + patience
    while not address.exists():
        stop.raise_if_set(_WAITING)
        if time.monotonic() > deadline:
            raise PeerLostError(
                f"rank {assignment.rank} waited {patience:.0f} s for rank 0 of {assignment.size} (on "
                f"{assignment.host}), which wrote no {address}; is that folder the same on all nodes?"
            )
        time.sleep(0.1)
    port = read_json(address)["port"]
    try:
        return TCPStore(assignment.host, port, is_master=False, timeout=timedelta(seconds=patience))
    except dist.DistError as error:
        raise PeerLostError(
            f"rank {assignment.rank} cannot reach rank 0 at {assignment.host}:{port} ({error}); "
            "do the nodes resolve each other's names, and is there a firewall between them?"
        ) from error


def _wait_for_all(assignment: RankAssignment, store: TCPStore, stop: StopFlag, patience: float) -> None:
    """Announce this rank; the first rank waits for all and tells the others whether all arrived."""
    store.set(f"host/{assignment.rank}", socket.gethostname())
    deadline = time.monotonic() + patience
    if assignment.rank == 0:
        missing = list(range(1, assignment.size))
        while missing and time.monotonic() < deadline and not stop():
            missing = [rank for rank in missing if not store.check([f"host/{rank}"])]
            time.sleep(0.02)
        problem = ""
        if missing:
            names = ", ".join(map(str, missing))
            problem = f"rank{'s' * (len(missing) > 1)} {names} of {assignment.size} did not come"
            problem += f" within {patience:.0f} s" if not stop() else " before the stop"
        store.set("problem", problem)
    while not _has(store, "problem"):
        stop.raise_if_set(_WAITING)
        time.sleep(0.05)
    problem = store.get("problem").decode()
    if problem:
        stop.raise_if_set(_WAITING)
        raise PeerLostError(f"{problem}; see that task's log, and the node that it was to run on")


def _has(store: TCPStore, key: str) -> bool:
    try:
        return bool(store.check([key]))
    except dist.DistError as error:
        raise PeerLostError("rank 0 is gone") from error


def _leave(assignment: RankAssignment, store: TCPStore) -> None:
    """Say that this rank needs the store no longer; the first rank, which hosts it, waits for all."""
    with contextlib.suppress(dist.DistError):
        store.add("left", 1)
        deadline = time.monotonic() + _LEAVE_SECONDS
        while assignment.rank == 0 and store.add("left", 0) < assignment.size and time.monotonic() < deadline:
            time.sleep(0.02)


def _may_come_from_a_peer(error: BaseException) -> bool:
    """Whether another rank's end may have caused an error; gloo's errors have no type of their own."""
    return isinstance(error, (dist.DistError, PeerLostError)) or (
        isinstance(error, RuntimeError) and any(w in str(error) for w in ("gloo", "NCCL", "Connection"))
    )
