"""What cad takes from its surroundings: cores, what to ask for, and no variable that changes a result.

Libraries read hundreds of environment variables, which a shell, a notebook, another launcher or a cluster's
login file may have left.  What a result depends on is in the config; so variables that would change it,
or keep a command from working, are dropped before a library can read them.  Which device and which network
there are stays the environment's to say (``CUDA_VISIBLE_DEVICES``, ``NCCL_*``, ``GLOO_SOCKET_IFNAME``).
Imports nothing heavy.
"""

from __future__ import annotations

import math
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PLACES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "NODE_RANK", "GROUP_RANK",
    "GROUP_WORLD_SIZE", "ROLE_*", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_*", "TORCH_ELASTIC_*",
    "TORCH_DIST_INIT_BARRIER", "USE_LIBUV", "OMPI_COMM_WORLD_*", "MV2_COMM_WORLD_*", "PMI_*", "MPI_LOCAL*",
    "CCL_WORLD_SIZE", "FORK_LAUNCHED",
)  # fmt: skip
"""A process's place in a group, left by another launcher; ranks of cad get their own."""

LEFT_OUT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("places in a group of processes", PLACES),
    (
        "settings of accelerate and DeepSpeed, which the config has too",
        ("ACCELERATE_*", "FSDP_*", "PARALLELISM_CONFIG_*", "MEGATRON_LM_*", "DS_*", "DEEPSPEED_*"),
    ),
    (
        "precision and kernels",
        ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_*", "TORCH_BLAS_*", "TORCH_CUDNN_*", "TORCH_LINALG_*",
         "TORCH_LINEAR_*", "TORCH_MKLDNN_*", "ATEN_CPU_CAPABILITY", "ONEDNN_*", "DNNL_*", "MKL_*",
         "OPENBLAS_*", "GOTO_NUM_THREADS", "NPY_*", "PYTORCH_JIT*", "PYTORCH_TENSOREXPR*", "XLA_*",
         "PJRT_DEVICE", "USE_TORCH_XLA", "PYTORCH_ENABLE_MPS_FALLBACK"),
    ),
    (
        "how models are compiled, and from whose cache",
        ("TORCHDYNAMO_*", "TORCH_DYNAMO_*", "TORCHINDUCTOR_*", "TORCH_COMPILE_*", "TRITON_INTERPRET"),
    ),
    (
        "drivers and plug-ins of HDF5",
        ("HDF5_DRIVER*", "HDF5_VOL_CONNECTOR", "HDF5_PLUGIN_*", "HDF5_*_PREFIX", "HDF5_DEBUG"),
    ),
    ("where and how matplotlib draws", ("MPLBACKEND", "MATPLOTLIBRC", "SOURCE_DATE_EPOCH")),
    ("folder and format of stable-baselines3's logs", ("SB3_*",)),
    (
        "the repository that a hook runs in; the commit in a record is that of cad's own",
        ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX",
         "GIT_NAMESPACE", "GIT_CEILING_DIRECTORIES"),
    ),
)  # fmt: skip
"""Why, and the names or patterns of what is dropped."""

# A place, not a way of compiling.
_KEPT = {"TORCHINDUCTOR_CACHE_DIR"}
_SET = {
    # Sums of NumPy's matrix products depend on their number; torch's threads are a setting of their own.
    "OPENBLAS_NUM_THREADS": "1",
    # No plugin is used here; looking for some reads the metadata of every installed package.
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
    # Else processes that this one starts import what lies in the working folder, such as a random.py or
    # the cad of another checkout, before what is installed.
    "PYTHONSAFEPATH": "1",
}
# Sockets between processes lie in the temporary folder, and a socket's path has at most 107 bytes, of
# which Python's own names take some 35.
_LONGEST_TMPDIR = 70
# What to ask a cluster for: this much above the most that was used.
_MORE_MEMORY, _MORE_TIME = 1.3, 1.5
_dropped: list[str] = []


def leave_out(*, places: bool = True) -> None:
    """Drop the variables of :data:`LEFT_OUT` from this process's environment; calling it again is harmless.

    To be called before torch, matplotlib and the like are imported.  A rank of several keeps its ``places``.
    """
    for name in left_out(os.environ, places=places):
        del os.environ[name]
        _dropped.append(name)
    os.environ.update(_SET)
    if len(os.fsencode(os.environ.get("TMPDIR", ""))) > _LONGEST_TMPDIR:
        del os.environ["TMPDIR"]
        tempfile.tempdir = None  # what Python found before
        _dropped.append("TMPDIR")


def left_out(names: Iterable[str], *, places: bool = True) -> list[str]:
    """Those of some variables' ``names`` that are dropped, sorted."""
    patterns = [pattern for _, some in LEFT_OUT for pattern in some if places or some is not PLACES]
    candidates = set(names) - _SET.keys() - _KEPT
    return sorted(name for name in candidates if any(_matches(name, pattern) for pattern in patterns))


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern, in which one ``*`` may stand for anything, means a name.

    ``fnmatch`` would compile an expression for each pattern, for every command anew.
    """
    start, star, end = pattern.partition("*")
    if not star:
        return name == pattern
    return name.startswith(start) and name.endswith(end) and len(name) >= len(start) + len(end)


def dropped() -> tuple[str, ...]:
    """What :func:`leave_out` has dropped in this process."""
    return tuple(_dropped)


def usable_cores() -> int:
    """How many cores this process may use: those of its affinity (``taskset``, Slurm), not all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worth_asking_for(peak_bytes: float | None, seconds: float | None) -> str:
    """Keys of a cluster profile: what would have been enough, and some to spare; empty if nothing is known.

    Args:
        peak_bytes: the most memory that was used.
        seconds: the longest time that was taken.
    """
    parts = []
    if peak_bytes:
        parts.append(f"memory_gb: {max(0.5, math.ceil(2 * _MORE_MEMORY * peak_bytes / 2**30) / 2):g}")
    if seconds:
        parts.append(f"minutes: {math.ceil(_MORE_TIME * seconds / 60)}")
    return ", ".join(parts)


def private_cache() -> Path:
    """A folder of the machine for code that compilers keep; nobody else can write there.

    The same one at every call, unless another user made it first or may write to it: then a fresh one.
    """
    folder = Path(tempfile.gettempdir()) / f"cad-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return folder if ours else Path(tempfile.mkdtemp(prefix="cad-"))
