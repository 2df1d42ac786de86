"""Is this installation well?  Checks that do what the program does, in small, and say what to do."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cad
from cad.config import Config, apply_overrides, load
from cad.errors import CadError

State = Literal["well", "absent", "broken"]

# What `cad` itself imports: package and module.
PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "h5py": "h5py",
    "gymnasium": "gymnasium",
    "stable-baselines3": "stable_baselines3",
    "submitit": "submitit",
    "pydantic": "pydantic",
    "PyYAML": "yaml",
    "typer": "typer",
    "rich": "rich",
    "safetensors": "safetensors",
    "tensorboard": "tensorboard",
    "matplotlib": "matplotlib",
    "scipy": "scipy",
    "Jinja2": "jinja2",
    "pillow": "PIL",
}
# What trainings over several ranks import beside them.
ENGINES = ("accelerate", "deepspeed")
LEAST_GIB = 1.0
"""Free disk below which runs are bound to fail: histories and checkpoints of a small experiment."""

PRESETS = Path(cad.__file__).parents[1] / "configs"


@dataclass(frozen=True)
class Check:
    """One line of the table; ``broken`` is what runs need and do not have, ``absent`` what they can miss."""

    name: str
    state: State
    found: str
    advice: str = ""


def examine(root: Path, presets: Path = PRESETS) -> Iterator[Check]:
    """All checks, one after the other; ``root`` is the folder that will hold the runs."""
    yield _python()
    states = {}
    for check in _packages():
        states[check.name] = check.state
        yield check
    if states["torch"] == "well":  # else none of these can be tried
        yield from _devices()
        yield from _models(presets)
        yield from _engines()
    yield _tool("slurm", ("sbatch",), "experiments run on this machine only")
    yield _tool("apptainer", ("apptainer", "singularity"), "needed only for cluster jobs in an image")
    yield _disk(root)


def _python() -> Check:
    found = f"{platform.python_version()} ({sys.executable}), cad {cad.__version__}"
    return Check("python", "well", found)


def _packages() -> Iterator[Check]:
    for package, module in PACKAGES.items():
        try:
            importlib.import_module(module)
            yield Check(package, "well", importlib.metadata.version(package))
        except Exception as error:  # a broken library may raise anything on import
            advice = "install again: `make clean test`, or pip install -c constraints.txt -e ."
            yield Check(package, "broken", f"{type(error).__name__}: {error}", advice)


def _engines() -> Iterator[Check]:
    import torch

    from cad.training.engines.deepspeed import import_deepspeed

    for package in ENGINES:
        if importlib.util.find_spec(package) is None:
            advice = f"needed only for train.engine={package}: pip install 'cad[engines]'"
            yield Check(package, "absent", "not installed", advice)
            continue
        try:
            if package == "deepspeed":
                import_deepspeed(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            importlib.import_module(package)
            yield Check(package, "well", importlib.metadata.version(package))
        except Exception as error:  # as above; it is needed for some trainings alone
            advice = f"install again before using train.engine={package}"
            yield Check(package, "absent", f"does not load: {type(error).__name__}: {error}", advice)


def _devices() -> Iterator[Check]:
    import torch

    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    wanted = os.environ.get("OMP_NUM_THREADS")
    yield Check("cpu", "well", threads + (f" (OMP_NUM_THREADS={wanted})" if wanted else ""))
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Check("gpu", "well", f"{names}; CUDA {torch.version.cuda}")
    else:
        yield Check("gpu", "absent", "no CUDA device that torch can use", "all runs on the CPU, slower")


def _models(presets: Path) -> Iterator[Check]:
    files = sorted((presets / "model").glob("*.yaml"))
    if not files:
        yield Check(
            "presets", "absent", f"no model presets under {presets}", "run from a checkout, or give --presets"
        )
    for file in files:
        try:
            yield Check(f"model {file.stem}", "well", try_model(load(Config, [file], []).value))
        except Exception as error:  # whatever it is, it would stop a run too
            what = str(error) if isinstance(error, CadError) else f"{type(error).__name__}: {error}"
            yield Check(f"model {file.stem}", "broken", what, f"correct {file}")


def try_model(config: Config) -> str:
    """One real update of the model on made-up histories, checkpointed and read back; what was seen.

    Raises :class:`CadError` where what is read back is not what was trained.
    """
    import numpy as np
    import torch

    from cad.histories.sampler import HistoryArrays, WindowSampler
    from cad.interrupt import StopFlag
    from cad.models import build_model
    from cad.training.checkpoint import load_newest
    from cad.training.loop import train
    from cad.training.regions import model_objective

    once = {"n_updates": 1, "batch_size": 2, "log_every": 1, "checkpoint_every": 1, "validate_every": 0,
            "watchdog_share": None, "num_warmup_steps": 0, "compile": False}  # fmt: skip
    config = apply_overrides(config, {f"train.{key}": value for key, value in once.items()}, "doctor")
    rng, shape = np.random.default_rng(0), (1, 1, config.source.steps_per_stream)
    arrays = HistoryArrays(
        rng.integers(0, config.env.size, (*shape, 2), dtype=np.uint8),
        rng.integers(0, 5, shape, dtype=np.uint8),
        rng.integers(0, 2, shape, dtype=np.uint8),
        config.env.steps_per_episode,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    model = build_model(config)
    with tempfile.TemporaryDirectory(prefix="cad-doctor-") as folder:
        sampler = WindowSampler(config, arrays)
        train(
            config,
            model,
            sampler,
            Path(folder),
            run_id="doctor",
            device=device,
            stop=StopFlag(),
            objective=model_objective(config),
        )
        stored = load_newest(Path(folder) / "checkpoints", "doctor")
    for name, tensor in model.state_dict().items():
        if stored is None or not torch.equal(stored.tensors[f"model/{name}"], tensor.cpu()):
            raise CadError(f"the checkpoint does not give back {name}")
        if not tensor.isfinite().all():
            raise CadError(f"{name} is not finite after one update")
    parameters = sum(p.numel() for p in model.parameters())
    return f"{parameters:,} parameters; forward, backward and checkpoint on {device.type}"


def _tool(name: str, commands: tuple[str, ...], advice: str) -> Check:
    command = next(filter(None, map(shutil.which, commands)), None)
    if command is None:
        return Check(name, "absent", f"no {' or '.join(commands)} on the path", advice)
    try:
        done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, "absent", f"{command} does not answer ({error})", advice)
    said = (done.stdout or done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
    if done.returncode:
        return Check(name, "absent", f"{command} fails: {said[-1]}", advice)
    return Check(name, "well", f"{said[0]} ({command})")


def _disk(root: Path) -> Check:
    folder = root.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    found = f"{free:.1f} GiB free for {root.absolute()}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("disk", "broken", f"cannot write in {folder}: {error.strerror}", "choose another --root")
    if free < LEAST_GIB:
        return Check("disk", "broken", found, f"free at least {LEAST_GIB:g} GiB or choose another --root")
    return Check("disk", "well", found)
