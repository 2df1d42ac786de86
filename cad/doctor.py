"""Check the installation by small runs of what the program does, and say what to do about problems."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cad
from cad.config import load
from cad.config.presets import PRESETS
from cad.envs.config import EnvConfig
from cad.envs.registry import FAMILIES
from cad.errors import CadError, UsageError
from cad.experiments.plan.experiment import open_experiment
from cad.locks import folder_lock, has_flock
from cad.schema import Config, holds_experiment, load_cell
from cad.surroundings import dropped, usable_cores

State = Literal["ok", "missing", "broken"]

ENGINES = ("accelerate", "deepspeed")
"""Packages that only trainings over several ranks import."""
LEAST_GIB = 1.0
"""Free disk below which runs fail sooner or later: histories and checkpoints of a small experiment."""
_REINSTALL = "install again: `make clean test`, or pip install -c constraints.txt -e ."


@dataclass(frozen=True)
class Check:
    """One line of the table: ``broken`` stops runs, ``missing`` is optional."""

    name: str
    state: State
    detail: str
    advice: str = ""


def examine(root: Path, presets: Path = PRESETS) -> Iterator[Check]:
    """Yield all checks, one after the other; ``root`` is the folder that will hold the runs."""
    yield _python()
    yield _environment()
    states = {}
    for check in _packages():
        states[check.name] = check.state
        yield check
    if states.get("torch") == "ok":  # the next checks need it
        yield from _devices()
        yield from _models(presets)
        yield from _engines()
    yield _tool("slurm", ("sbatch",), "experiments run on this machine only")
    yield _tool("apptainer", ("apptainer", "singularity"), "needed only for cluster jobs in an image")
    yield _disk(root)
    yield _locks(root)


def examine_family(files: Sequence[Path], overrides: Sequence[str]) -> Iterator[Check]:
    """Check the task family that a cell's settings name; see :mod:`cad.envs.check`.

    Of an experiment, its settings and all task families of its cells.  Raises :class:`CadError` for
    settings that are wrong, or a family that cannot be imported.
    """
    if not any(holds_experiment(file) for file in files):
        yield from _family(load_cell(files, overrides).env)
        return
    if len(files) > 1:
        raise UsageError(f"{files[0]} and {files[1]}: name one experiment file, or files of one cell")
    cells = open_experiment(files[0], overrides, Path()).cells
    envs = dict.fromkeys(cell.config.env for cell in cells)
    detail = f"{files[0]}: cells, whose settings fit: {len(cells)}"
    yield Check("experiment", "ok", f"{detail}; task families: {len(envs)}")
    for env in envs:
        yield from _family(env)


def _family(env: EnvConfig) -> Iterator[Check]:
    from cad.envs.check import check_family

    family = FAMILIES[env.name]
    yield Check("family", "ok", f"{env.in_words()}: {family.in_a_line()}")
    # What is wrong with a family whose code knows no environment is the environment, or its settings.
    wrong = (
        f"correct {family.__module__}" if family.has_rules else "correct the section env, or the environment"
    )
    for finding in check_family(env):
        state: State = "ok" if finding.kept else "broken"
        yield Check(finding.promise, state, finding.words, "" if finding.kept else wrong)


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} ({sys.executable}), cad {cad.__version__}")


def _environment() -> Check:
    names = ", ".join(dropped())
    if not names:
        return Check("environment", "ok", "no variable that would change a result")
    return Check("environment", "ok", f"left out, since results would depend on it: {names}")


def _packages() -> Iterator[Check]:
    """The packages that cad's own metadata requires."""
    try:
        required = importlib.metadata.requires("cad") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", "broken", "cad is not installed in this Python", _REINSTALL)
        return
    modules = importlib.metadata.packages_distributions()
    for requirement in required:
        if "extra ==" in requirement:
            continue
        package = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            version = importlib.metadata.version(package)
            importlib.import_module(_module_of(package, modules))
            yield Check(package, "ok", version)
        except Exception as error:  # a broken library may raise anything on import
            yield Check(package, "broken", f"{type(error).__name__}: {error}", _REINSTALL)


def _module_of(package: str, modules: Mapping[str, list[str]]) -> str:
    """The module by which a package is imported: of its own name where there is one."""
    own = importlib.metadata.metadata(package)["Name"]
    names = [module for module, packages in modules.items() if own in packages and not module.startswith("_")]
    like = re.sub(r"[-.]", "_", package).lower()
    return next((name for name in names if name.lower() == like), min(names, default=like, key=len))


def _engines() -> Iterator[Check]:
    import torch

    from cad.training.engines.deepspeed import import_deepspeed

    for package in ENGINES:
        if importlib.util.find_spec(package) is None:
            advice = f"needed only for train.engine={package}: pip install 'cad[engines]'"
            yield Check(package, "missing", "not installed", advice)
            continue
        try:
            if package == "deepspeed":
                import_deepspeed(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            importlib.import_module(package)
            yield Check(package, "ok", importlib.metadata.version(package))
        except Exception as error:  # may be anything, and most trainings do not need it
            advice = f"install again before using train.engine={package}"
            yield Check(package, "missing", f"does not load: {type(error).__name__}: {error}", advice)


def _devices() -> Iterator[Check]:
    import torch

    threads = f"{usable_cores()} of {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    wanted = os.environ.get("OMP_NUM_THREADS")
    yield Check("cpu", "ok", threads + (f" (OMP_NUM_THREADS={wanted})" if wanted else ""))
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Check("gpu", "ok", f"{names}; CUDA {torch.version.cuda}")
    else:
        yield Check("gpu", "missing", "torch can use no CUDA device", "runs use the CPU, which is slower")


def _models(presets: Path) -> Iterator[Check]:
    files = sorted((presets / "model").glob("*.yaml"))
    if not files:
        yield Check("presets", "missing", f"no model presets under {presets}", "give another --presets")
    for file in files:
        try:
            yield Check(f"model {file.stem}", "ok", try_model(load(Config, [file], []).value))
        except Exception as error:  # it would stop a run too, whatever it is
            what = str(error) if isinstance(error, CadError) else f"{type(error).__name__}: {error}"
            yield Check(f"model {file.stem}", "broken", what, f"correct {file}")


def try_model(config: Config) -> str:
    """Train the model for one update on made-up histories, and read its checkpoint back.

    Returns what was done, in words.  Raises :class:`CadError` where the checkpoint differs from what
    was trained.
    """
    import torch

    from cad.envs.registry import task_family
    from cad.histories.made_up import made_up_histories
    from cad.interrupt import StopFlag
    from cad.training.checkpoint import load_newest
    from cad.training.learner import build_training

    once = {"n_updates": 1, "batch_size": 2, "log_every": 1, "checkpoint_every": 1, "validate_every": 0,
            "watchdog_share": None, "num_warmup_steps": 0, "compile": False}  # fmt: skip
    config = config.with_overrides({f"train.{key}": value for key, value in once.items()}, "doctor")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arrays = made_up_histories(task_family(config.env), config.source.steps_per_stream)
    learner = build_training(config, arrays)
    with tempfile.TemporaryDirectory(prefix="cad-doctor-") as folder:
        learner.fit(Path(folder), run_id="doctor", device=device, stop=StopFlag())
        stored = load_newest(Path(folder) / "checkpoints", "doctor")
    for name, tensor in learner.trained.state_dict().items():
        if stored is None or not torch.equal(stored.tensors[f"model/{name}"], tensor.cpu()):
            raise CadError(f"the checkpoint does not give back {name}")
        if not tensor.isfinite().all():
            raise CadError(f"{name} is not finite after one update")
    parameters = sum(p.numel() for p in learner.model.parameters())
    return f"{parameters:,} parameters; forward, backward and checkpoint on {device.type}"


def _tool(name: str, commands: tuple[str, ...], advice: str) -> Check:
    command = next(filter(None, map(shutil.which, commands)), None)
    if command is None:
        return Check(name, "missing", f"no {' or '.join(commands)} on the path", advice)
    try:
        done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, "missing", f"{command} does not answer ({error})", advice)
    lines = (done.stdout or done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
    if done.returncode:
        return Check(name, "missing", f"{command} fails: {lines[-1]}", advice)
    return Check(name, "ok", f"{lines[0]} ({command})")


def _existing(root: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    folder = root.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _locks(root: Path) -> Check:
    """Take the lock that keeps two processes out of one stage."""
    folder = _existing(root)
    try:
        with tempfile.TemporaryDirectory(prefix="cad-doctor-", dir=folder) as name:
            with folder_lock(Path(name), "the doctor's folder"):
                pass
            flock = has_flock(Path(name))
    except (CadError, OSError) as error:
        return Check("locks", "broken", str(error), "choose a --root on another file system")
    if flock:
        return Check("locks", "ok", f"flock works in {folder}")
    advice = "it works too, slower: a killed run's lock is free after ten minutes on other machines"
    return Check("locks", "missing", f"no flock in {folder}; folders are locks there", advice)


def _disk(root: Path) -> Check:
    folder = _existing(root)
    free = shutil.disk_usage(folder).free / 2**30
    detail = f"{free:.1f} GiB free for {root.absolute()}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("disk", "broken", f"cannot write in {folder}: {error.strerror}", "choose another --root")
    if free < LEAST_GIB:
        return Check("disk", "broken", detail, f"free at least {LEAST_GIB:g} GiB or choose another --root")
    return Check("disk", "ok", detail)
