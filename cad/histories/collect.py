"""Collect learning histories: every task in its own PPO run, tasks in parallel, resumable.

A finished task is kept as a file of its own in ``<out>.parts/`` until all are there; a run that
was killed goes on with the tasks that are missing and ends with the same data.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import multiprocessing.connection
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py

from cad import __version__
from cad.checksums import DamagedFileError, file_checksum, is_missing, read_sealed, require_file, write_sealed
from cad.config import FileConfig, SourceConfig
from cad.envs.config import EnvConfig
from cad.envs.family import AnyFamily
from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.envs.transitions import Transitions
from cad.errors import CadError, UsageError, first_line
from cad.hdf5 import open_hdf5
from cad.histories.file import SCHEMA_VERSION, Provenance, task_name, write_root, write_task
from cad.histories.imported import import_file
from cad.interrupt import STOP_SIGNALS
from cad.locks import folder_lock
from cad.packages import COLLECTION_PACKAGES, package_versions
from cad.process import MAXRSS_UNIT, prepare_process, without_main
from cad.storage import atomic_path, disk_error, sha256_json

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class WorkersUse:
    """What the workers of a collection took together, whose parent is not the process that collects."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    """The sum of the most that each held; what they share is in it more than once."""


def collect(
    env: EnvConfig,
    source: SourceConfig,
    out: Path,
    *,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
    stage: str | None = None,
) -> WorkersUse:
    """Write the histories of all tasks of ``env`` (training, validation and held-out) to ``out``.

    Args:
        env: the tasks.
        source: the agents' settings; task k learns with a seed derived from ``source.seed`` and k alone.
        out: HDF5 file, see :mod:`cad.histories.file`; it appears when it is complete.
        workers: processes, one thread each; the result does not depend on their number.
        progress: called with (finished tasks, all tasks), first with what an earlier run left,
            then at least about once a second; an exception that it raises ends the collection.
        stage: name of the stage whose file ``out`` is; it is noted there.

    Returns what its workers took.  Raises :class:`CadError` for a disk that cannot be written, a worker that
    died, or a second process that collects into the same file.
    However it ends, its workers end too and finished tasks are kept.
    """
    if workers < 1:
        raise UsageError(f"workers={workers}: at least one process has to collect")
    if isinstance(source, FileConfig):
        import_file(env, source, out, progress=progress, stage=stage)
        return WorkersUse()
    versions = {"cad": __version__} | package_versions(COLLECTION_PACKAGES)
    settings = {"schema": SCHEMA_VERSION, "env": env.model_dump(), "source": source.identity}
    fingerprint = sha256_json(settings | {"versions": versions})
    tasks = task_family(env).task_ids
    parts = out.with_name(out.name + ".parts")
    with folder_lock(parts, f"the collection of {out}"):
        missing = [task for task in tasks if not _is_part(_part_path(parts, task), fingerprint)]
        done = len(tasks) - len(missing)
        if progress:
            progress(done, len(tasks))
        with _worker_processes(min(workers, len(missing)), (env, source, parts, fingerprint)) as connections:
            used: dict[_Connection, WorkersUse] = {}
            for finished in _hand_out(_portions(missing, source, workers), connections, used):
                done += finished
                if progress:
                    progress(done, len(tasks))
        provenance = Provenance(env, source, split_tasks(env), versions, f"cad {__version__}")
        _assemble(out, parts, tasks, provenance, stage)
        shutil.rmtree(parts, ignore_errors=True)
    each = used.values()
    return WorkersUse(sum(one.cpu_seconds for one in each), sum(one.memory_bytes for one in each))


def _part_path(parts: Path, task_id: int) -> Path:
    return parts / f"{task_name(task_id)}.h5"


def _is_part(path: Path, fingerprint: str) -> bool:
    """Whether a part is there, whole, and of these settings (another config's is done again).

    Raises :class:`CadError` where it cannot be read.
    """
    if is_missing(path):
        return False
    try:
        require_file(path, "")
        if is_missing(_part_note(path)):  # an earlier version wrote it
            with open_hdf5(path, "") as file:
                return bool(file.attrs.get("fingerprint") == fingerprint)
        note = read_sealed(_part_note(path), "")
        # Before HDF5 opens it, which may crash on a damaged file.
        return bool(note.get("fingerprint") == fingerprint and note.get("sha256") == file_checksum(path))
    except DamagedFileError:
        return False


def _part_note(path: Path) -> Path:
    """The file beside a part that says of which settings it is, and its checksum."""
    return path.with_suffix(".json")


def _assemble(
    out: Path, parts: Path, tasks: Sequence[int], provenance: Provenance, stage: str | None
) -> None:
    with atomic_path(out) as temporary:
        try:
            with h5py.File(temporary, "w") as file:
                write_root(file, provenance, stage)
                for task in tasks:
                    with h5py.File(_part_path(parts, task), "r") as part:
                        part.copy(task_name(task), file)
        except RuntimeError as error:  # HDF5 reports a failed flush so
            raise CadError(f"cannot write {out}: is the disk full? ({error})") from error


# Workers -------------------------------------------------------------------------------------

_Arguments = tuple[EnvConfig, SourceConfig, Path, str]
_Connection = multiprocessing.connection.Connection


@contextmanager
def _worker_processes(n: int, arguments: _Arguments) -> Iterator[list[_Connection]]:
    """Start ``n`` workers and yield our ends of their pipes; all are gone afterwards.

    A pipe a worker, not a shared queue: when this process is killed outright, each worker finds
    its pipe closed and ends, instead of waiting for ever.
    """
    # Forked from one process that has imported what takes seconds; torch's optimisers need its compiler.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cad.histories.source", __name__, "torch._dynamo"])
    connections = []
    processes = []
    # Ctrl-C reaches every process of the terminal, Slurm's signals every process of the job step;
    # workers inherit the mask and leave them to us.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(STOP_SIGNALS))
    try:
        for _ in range(n):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, *arguments), daemon=True)
            with without_main():
                process.start()
            theirs.close()
            connections.append(ours)
            processes.append(process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield connections
    finally:
        for process in processes:
            process.kill()  # what a worker finished is there, whole; the rest is nothing yet
        for process in processes:
            process.join()


def _portions(tasks: Sequence[int], source: SourceConfig, workers: int) -> list[list[int]]:
    """Tasks that are learned together, few enough for all workers to be busy to the end."""
    if not tasks:
        return []
    size = max(1, min(source.tasks_at_once, -(-len(tasks) // (2 * workers))))
    return [list(tasks[start : start + size]) for start in range(0, len(tasks), size)]


def _hand_out(
    portions: Sequence[list[int]], connections: list[_Connection], used: dict[_Connection, WorkersUse]
) -> Iterator[int]:
    """Give each free worker the next tasks; yield how many were finished, 0 when none were for a while.

    What each worker took until then is noted in ``used``.
    """
    waiting = list(reversed(portions))
    busy: dict[_Connection, list[int]] = {}
    for connection in connections:
        busy[connection] = waiting.pop()
        connection.send(busy[connection])
    while busy:
        finished = multiprocessing.connection.wait(list(busy), timeout=_POLL_SECONDS)
        if not finished:
            yield 0
        for ready in finished:
            assert isinstance(ready, _Connection)
            tasks = busy.pop(ready)
            which = f"task {tasks[0]}" if len(tasks) == 1 else f"tasks {tasks[0]} to {tasks[-1]}"
            try:
                problem: CadError | str | None
                problem, used[ready] = ready.recv()
            except (EOFError, ConnectionError) as error:
                raise CadError(
                    f"a worker died while it collected {which} (out of memory?); "
                    "run the same command again to go on, with fewer workers if it happens again"
                ) from error
            if isinstance(problem, CadError):
                raise problem
            if problem is not None:
                raise RuntimeError(f"collecting {which} failed:\n{problem}")
            if waiting:
                busy[ready] = waiting.pop()
                ready.send(busy[ready])
            yield len(tasks)


def _own_use() -> WorkersUse:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return WorkersUse(used.ru_utime + used.ru_stime, used.ru_maxrss * MAXRSS_UNIT)


def _write_part(path: Path, family: AnyFamily, task_id: int, history: Transitions, fingerprint: str) -> None:
    # In memory first: HDF5's own errors on a full disk are hard to tell apart.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["fingerprint"] = fingerprint
        write_task(file, task_id, family.goal(task_id), family.optimal_return(task_id), history)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    note = {"fingerprint": fingerprint, "sha256": hashlib.sha256(buffer.getbuffer()).hexdigest()}
    write_sealed(_part_note(path), note)


def _fault_of_family(family: AnyFamily, error: Exception) -> CadError | None:
    """What another package's family raised, or led to, in one message; None for ours: that is a bug."""
    if type(family).__module__.startswith("cad."):
        return None
    last = traceback.extract_tb(error.__traceback__)[-1]
    return CadError(
        f"env.name={family.name}: collecting histories fails with {type(error).__name__}: "
        f"{first_line(error)} ({Path(last.filename).name}, line {last.lineno}); cad doctor --family "
        f"{family.name} tries what a family promises"
    )


def _work(
    connection: _Connection, env: EnvConfig, source: SourceConfig, parts: Path, fingerprint: str
) -> None:
    """A worker: learn the tasks that come through the pipe until it closes."""
    # Here and not above: stable-baselines3 takes seconds to import and only workers need it.
    from cad.histories.source import learn_tasks

    prepare_process(1)
    family = task_family(env)
    while True:
        try:
            task_ids: list[int] = connection.recv()
        except EOFError:
            return
        problem: CadError | str | None = None
        try:
            for task_id, history in zip(task_ids, learn_tasks(family, task_ids, source), strict=True):
                _write_part(_part_path(parts, task_id), family, task_id, history, fingerprint)
        except CadError as error:
            problem = error
        except OSError as error:
            problem = disk_error(error, parts)
        except Exception as error:
            problem = _fault_of_family(family, error) or traceback.format_exc()
        try:
            connection.send((problem, _own_use()))
        except OSError:  # the parent is gone
            return
