"""How ranks notice that another one is gone.

Every rank writes a heartbeat to the store every two seconds.  The first rank reports a rank whose
heartbeat stops; a rank that fails reports itself; the others notice when the first rank's store is
gone.  A rank that learns of a loss ends within seconds, even from inside a collective that can
never finish.

torch has no such thing: a collective's timeout must be longer than the longest legitimate wait (the first
rank writing a checkpoint) and names no rank, ``monitored_barrier`` makes every rank wait at every
call, and torchelastic's agents restart processes that here belong to Slurm or to the launcher.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from cad.training.ranks import PeerLostError, RankAssignment

log = logging.getLogger(__name__)

SILENCE_SECONDS = 30.0  # without a heartbeat, a rank counts as lost
_HEARTBEAT_SECONDS = 2.0
_EXIT_SECONDS = 10.0  # for this rank's main thread to end by itself when another rank is lost

# Key in the store: the message about the rank that is lost, and whether that rank wrote it itself.
_LOST = "lost"


class PeerMonitor:
    """A thread that sends this rank's heartbeat and watches those of the others.

    ``store`` is a connection of its own: the main thread may block on another one.
    """

    def __init__(self, assignment: RankAssignment, store: TCPStore) -> None:
        self._assignment = assignment
        self._store = store
        self._stopped = threading.Event()
        self._lost: PeerLostError | None = None
        self._lost_is_known = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_HEARTBEAT_SECONDS)

    def report_failure(self, error: BaseException) -> None:
        """Let the other ranks know that this one failed, and why."""
        with contextlib.suppress(dist.DistError):
            message = f"rank {self._assignment.rank} of {self._assignment.size} failed: {error}"
            self._store.set(_LOST, json.dumps([message, True]))
            if self._assignment.rank == 0:
                time.sleep(2 * _HEARTBEAT_SECONDS)  # the store ends with this process

    def wait_for_cause(self) -> PeerLostError | None:
        """Wait until it is clear which rank was lost; None if all are alive."""
        self._lost_is_known.wait(SILENCE_SECONDS + 3 * _HEARTBEAT_SECONDS)
        return self._lost

    def _run(self) -> None:
        last_seen: dict[int, tuple[bytes, float]] = {}
        count = 0
        while not self._stopped.wait(_HEARTBEAT_SECONDS):
            count += 1
            try:
                self._store.set(f"heartbeat/{self._assignment.rank}", str(count))
                if self._store.check([_LOST]):
                    message, explained = json.loads(self._store.get(_LOST))
                    self._end_rank(message, explained)
                    return
                if self._assignment.rank == 0:
                    silent = self._silent_rank(last_seen)
                    if silent is not None:
                        self._store.set(_LOST, json.dumps([silent, False]))
            except dist.DistError:
                if not self._stopped.is_set():
                    message = f"rank 0 of {self._assignment.size} is gone (on {self._assignment.host})"
                    self._end_rank(message, explained=False)
                return

    def _silent_rank(self, last_seen: dict[int, tuple[bytes, float]]) -> str | None:
        """A message about a rank without a heartbeat; ``last_seen`` has each rank's last, and its time."""
        now = time.monotonic()
        for rank in range(1, self._assignment.size):
            key = f"heartbeat/{rank}"
            beat = self._store.get(key) if self._store.check([key]) else b""
            known, since = last_seen.get(rank, (None, now))
            if beat != known:
                last_seen[rank] = (beat, now)
            elif now - since > SILENCE_SECONDS:
                host = self._store.get(f"host/{rank}").decode()
                # The message must not mention memory: job scripts search the log for that word.
                return (
                    f"rank {rank} of {self._assignment.size} (on {host}) has given no sign of life for "
                    f"{SILENCE_SECONDS:.0f} s: it was killed, or its node is gone"
                )
        return None

    def _end_rank(self, message: str, explained: bool) -> None:
        self._lost = PeerLostError(message, explained=explained)
        self._lost_is_known.set()
        if not self._stopped.wait(_EXIT_SECONDS):
            # The main thread is stuck in a collective that will never finish.
            log.error("%s; ending", message)
            logging.shutdown()
            os._exit(self._lost.exit_code)
