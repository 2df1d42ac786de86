"""The environment that a stage ran in: code, packages, machine.  Imports nothing heavy."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import cad
from cad.packages import package_versions


def environment_info() -> dict[str, Any]:
    """What a finished stage records of the process that ran it."""
    version, dirty = code_version()
    return {
        "code_version": version,
        "code_differs_from_commit": dirty,
        "packages": package_versions(),
        "machine": machine(),
    }


def code_version() -> tuple[str, bool]:
    """The package's version with the commit where there is one, and whether the tree differs from it.

    A copy of the package inside another repository has no commit.
    """

    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return cad.__version__, False
    commit = _git("rev-parse", "--short=12", "HEAD")
    changes = _git("status", "--porcelain", "--", ".")
    version = f"{cad.__version__}+{commit}" if commit else cad.__version__
    return version, bool(changes)


def in_commit(file: Path, commit: str) -> bool:
    """Whether a commit of the repository that holds the package has ``file``, as it is now."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or not file.is_file():
        return False
    try:
        inside = file.resolve().relative_to(Path(top).resolve()).as_posix()
    except ValueError:
        return False
    stored = _git("rev-parse", "--verify", "--quiet", f"{commit}:{inside}")
    return stored is not None and stored == _git("hash-object", "--", str(file.resolve()))


def _git(*words: str) -> str | None:
    """What git says in the package's folder; None where there is no git, no repository or no answer."""
    folder = Path(cad.__file__).parent
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Architecture, processor, cores, memory; never a host name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    processor = None
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "architecture": platform.machine(),
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
    }


def machine_in_words(machine: dict[str, Any], *, public: bool) -> str:
    """The machine in one line; for the ``public`` only architecture and cores."""
    if public:
        return f"{machine['architecture']}, {machine['cores']} cores"
    name = machine["processor"] or machine["architecture"]
    return f"{name}, {machine['cores']} cores, {machine['memory_gib']} GiB"
