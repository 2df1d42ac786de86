"""No result and no command depends on variables that a shell, a notebook or another launcher left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cad import surroundings
from cad.surroundings import LEFT_OUT, leave_out, left_out, private_cache, usable_cores
from cad.training.engines import start_engine
from cad.training.learner import build_training
from cad.training.ranks import SINGLE_PROCESS

REPOSITORY = Path(__file__).parents[1]

# What real shells, notebooks, launchers and login files leave.
HOSTILE = {
    "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "192.0.2.1",
    "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none", "OMPI_COMM_WORLD_SIZE": "8", "PMI_SIZE": "8",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_FSDP": "true", "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_USE_CPU": "false", "FSDP_OFFLOAD_PARAMS": "true", "DS_ACCELERATOR": "cuda",
    "MPLBACKEND": "module://no_such.backend", "MATPLOTLIBRC": "/nowhere", "SOURCE_DATE_EPOCH": "x",
    "TORCHDYNAMO_DISABLE": "1", "TORCH_COMPILE_DISABLE": "1", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "NVIDIA_TF32_OVERRIDE": "1", "MKL_NUM_THREADS": "7", "OPENBLAS_NUM_THREADS": "7",
    "HDF5_DRIVER": "no_such_driver", "HDF5_PLUGIN_PATH": "/nowhere", "SB3_LOGDIR": "/nowhere",
    "GIT_DIR": "/nowhere", "PYDANTIC_DISABLE_PLUGINS": "",
}  # fmt: skip
# These say what there is, or are about the terminal: kept, and without effect on a result.
HARMLESS = {
    "CUDA_VISIBLE_DEVICES": "", "NCCL_DEBUG": "INFO", "NCCL_ALGO": "Tree", "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "2", "HDF5_USE_FILE_LOCKING": "FALSE", "PYTHONHASHSEED": "7", "LANG": "C",
    "LC_ALL": "C", "COLUMNS": "31", "NO_COLOR": "1", "FORCE_COLOR": "1", "WANDB_MODE": "online",
    "TF_CPP_MIN_LOG_LEVEL": "3", "TORCH_LOGS": "+dynamo", "TORCHINDUCTOR_CACHE_DIR": "/mine",
    "XDG_CACHE_HOME": "/nowhere",
}  # fmt: skip


def test_what_would_change_a_result_is_left_out_and_nothing_else():
    assert left_out([*HOSTILE, *HARMLESS]) == sorted(
        HOSTILE.keys() - {"OPENBLAS_NUM_THREADS", "PYDANTIC_DISABLE_PLUGINS"}  # set instead
    )
    assert "RANK" not in left_out(HOSTILE, places=False) and "DS_ACCELERATOR" in left_out(
        HOSTILE, places=False
    )
    assert all(reason for reason, _ in LEFT_OUT)


def test_libraries_see_none_of_it_when_they_are_imported():
    """matplotlib, for one, refuses to be imported with a backend that it does not know."""
    program = (
        "import os; from cad.surroundings import dropped, leave_out; leave_out(); import matplotlib;"
        "print(matplotlib.get_backend(auto_select=False), os.environ['OPENBLAS_NUM_THREADS'],"
        "os.environ['PYDANTIC_DISABLE_PLUGINS'], len(dropped()))"
    )
    environment = {**os.environ, **HOSTILE, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["None", "1", "__all__", str(len(left_out(environment)))]


def test_modules_in_the_working_folder_are_not_imported(tmp_path):
    """Processes of stages are started by Python's server for them, which looks there first."""
    (tmp_path / "random.py").write_text("raise SystemExit('not this one')")
    program = tmp_path / "elsewhere/program.py"
    program.parent.mkdir()
    program.write_text(
        "import multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    from cad.surroundings import leave_out\n"
        "    leave_out()\n"
        "    child = multiprocessing.get_context('forkserver').Process(target=print, args=('ran',))\n"
        "    child.start()\n"
        "    child.join()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run(
        [sys.executable, str(program)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("ran\n", "")


def test_gradients_do_not_depend_on_another_launchers_settings(tiny_config, toy_histories, monkeypatch):
    def update(engine: str) -> tuple[float, torch.Tensor]:
        config = tiny_config("ad", model={"n_layer": 1}, train={"engine": engine})
        learner = build_training(config, toy_histories)
        started = start_engine(learner.settings, learner.trained, SINGLE_PROCESS, torch.device("cpu"))
        result = started.update([learner.sampler.batch(1)], learner.objective, 1.0)
        weights = torch.cat([p.detach().flatten() for p in learner.model.parameters()])
        return float(result.gradient_norm), weights

    plain, _ = update("plain")
    norm, weights = update("accelerate")
    for name, value in {**HOSTILE, **HARMLESS}.items():
        monkeypatch.setenv(name, value)
    again, same = update("accelerate")
    assert norm == pytest.approx(plain, rel=1e-5)
    assert again == norm
    assert torch.equal(weights, same)


def test_a_long_temporary_folder_does_not_break_sockets(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 100)))
    monkeypatch.setattr(surroundings.tempfile, "tempdir", None)
    leave_out()
    assert "TMPDIR" not in os.environ
    short = "/tmp"
    monkeypatch.setenv("TMPDIR", short)
    leave_out()
    assert os.environ["TMPDIR"] == short


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_as_many_workers_as_cores_that_may_be_used():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)


def test_compilers_use_no_folder_that_another_user_could_write_to(monkeypatch, tmp_path):
    monkeypatch.setattr(surroundings.tempfile, "tempdir", str(tmp_path))
    folder = private_cache()
    assert folder == tmp_path / f"cad-{os.getuid()}" == private_cache()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    fresh = private_cache()
    assert fresh != folder and fresh.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert private_cache() not in (folder, fresh)
    folder.unlink()
    if os.geteuid() == 0:
        folder.mkdir(mode=0o700)
        os.chown(folder, 65534, 65534)
        assert private_cache() != folder
