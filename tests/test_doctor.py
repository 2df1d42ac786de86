"""`cad doctor`: what is ok, missing or broken, and the exit code."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cad import doctor
from cad.cli.app import build
from cad.config import load
from cad.config.presets import PRESETS
from cad.doctor import Check, examine, examine_family, try_model
from cad.errors import CadError, UsageError
from cad.schema import Config
from cad.training import checkpoint


def by_name(checks) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.fixture
def presets(tmp_path):
    """A folder of presets with one small model."""
    (tmp_path / "presets" / "model").mkdir(parents=True)
    (tmp_path / "presets" / "model" / "small.yaml").write_text("model: {n_embd: 16, n_layer: 1, n_head: 2}\n")
    return tmp_path / "presets"


def test_a_sound_installation_is_ok(tmp_path, presets):
    checks = by_name(examine(tmp_path / "not" / "there", presets))
    assert [c for c in checks.values() if c.state == "broken"] == []
    assert {
        "python",
        "torch",
        "h5py",
        "pyyaml",
        "pillow",
        "cpu",
        "gpu",
        "model small",
        "slurm",
        "apptainer",
        "disk",
    } <= checks.keys()
    assert "checkpoint on" in checks["model small"].detail
    assert not (tmp_path / "not").exists()


def test_slurm_and_apptainer_are_ok_or_missing(tmp_path, presets, monkeypatch):
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", str(bin_))
    checks = by_name(examine(tmp_path, presets))
    assert (checks["slurm"].state, checks["apptainer"].state) == ("missing", "missing")
    for name, text in (("sbatch", "echo slurm 22.05.8"), ("singularity", "echo no daemon >&2; exit 3")):
        (bin_ / name).write_text(f"#!/bin/sh\n{text}\n")
        (bin_ / name).chmod(0o755)
    checks = by_name(examine(tmp_path, presets))
    assert checks["slurm"].state == "ok" and "22.05.8" in checks["slurm"].detail
    assert checks["apptainer"].state == "missing" and "no daemon" in checks["apptainer"].detail


def test_engines_are_ok_or_missing(tmp_path, presets, monkeypatch):
    checks = by_name(examine(tmp_path, presets))
    assert {checks[name].state for name in doctor.ENGINES} == {"ok"}
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in doctor.ENGINES else find(name)
    )
    checks = by_name(examine(tmp_path, presets))
    assert {checks[name].state for name in doctor.ENGINES} == {"missing"}
    assert "train.engine=deepspeed: pip install 'cad[engines]'" in checks["deepspeed"].advice


def test_broken_parts_are_named(tmp_path, presets, monkeypatch):
    (presets / "model" / "wrong.yaml").write_text("model: {n_embd: 15}\n")
    required = importlib.metadata.requires("cad")
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [*required, "nonesuch>=1.0"])
    monkeypatch.setattr(doctor, "LEAST_GIB", 1e9)
    checks = by_name(examine(tmp_path, presets))
    broken = {name for name, check in checks.items() if check.state == "broken"}
    assert broken == {"nonesuch", "model wrong", "disk"}
    assert all(checks[name].advice for name in broken)
    assert "n_head=4 does not divide n_embd=15" in checks["model wrong"].detail


def test_a_torch_that_does_not_load_is_named_and_the_rest_is_checked(tmp_path, presets, monkeypatch):
    load = importlib.import_module

    def broken(name: str):
        if name == "torch":
            raise OSError("libtorch_cpu.so: cannot open shared object file")
        return load(name)

    monkeypatch.setattr(importlib, "import_module", broken)
    checks = by_name(examine(tmp_path, presets))
    assert checks["torch"].state == "broken" and "libtorch_cpu.so" in checks["torch"].detail
    assert "model small" not in checks and {"slurm", "apptainer", "disk"} <= checks.keys()


@pytest.mark.parametrize("file", sorted(PRESETS.glob("model/*.yaml")), ids=lambda file: file.stem)
def test_every_preset_trains_and_comes_back(file):
    assert "forward, backward and checkpoint" in try_model(load(Config, [file], []).value)


def test_a_checkpoint_that_differs_is_noticed(tiny_config, monkeypatch):
    read = checkpoint._load

    def altered(path, run_id):
        actual = read(path, run_id)
        actual.tensors["model/decoder.head.bias"] += 1
        return actual

    monkeypatch.setattr(checkpoint, "_load", altered)
    with pytest.raises(CadError, match=r"does not give back decoder\.head\.bias"):
        try_model(tiny_config())


def test_a_root_that_cannot_be_written(tmp_path, presets):
    (tmp_path / "file").write_text("in the way")
    assert by_name(examine(tmp_path / "file" / "runs", presets))["disk"].state == "broken"


def test_the_command_ends_with_1_where_something_is_broken(tmp_path, presets):
    (presets / "model" / "wrong.yaml").write_text("model: {n_embd: 15}\n")
    done = subprocess.run(
        [sys.executable, "-m", "cad.cli", "doctor", "--presets", str(presets), "--root", str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "broken: model wrong" in done.stderr and "Traceback" not in done.stderr
    assert "model small" in done.stdout
    assert shutil.which("sbatch") or "no sbatch on the path" in done.stdout


LAKES = """
name: lakes
base:
  env: {name: gymnasium, id: FrozenLake-v1, horizon: 5, n_heldout: 1, n_validation: 0,
        tasks: [{kwargs: {is_slippery: true}}, {kwargs: {is_slippery: false}}]}
  train: {validate_every: 0}
arms:
  - {name: AD, set: {model.kind: ad}, grid: {env.split_seed: [0, 1]}}
  - {name: dark, set: {model.kind: ad, env.name: darkroom, env.size: 5, env.horizon: 5, env.n_heldout: 3}}
"""


def test_an_experiment_is_checked_with_its_families(tmp_path):
    file = tmp_path / "lakes.yaml"
    file.write_text(LAKES)
    checks = list(examine_family([file], []))
    assert checks[0] == Check("experiment", "ok", f"{file}: cells, whose settings fit: 3; task families: 3")
    assert [c.detail.partition(":")[0] for c in checks if c.name == "family"] == [
        "gymnasium FrozenLake-v1",
        "gymnasium FrozenLake-v1",
        "darkroom of size 5",
    ]
    assert {c.state for c in checks} == {"ok"}
    checks = list(examine_family([file], ["base.env.id=FrozenLak-v1"]))
    (broken, *_) = [c for c in checks if c.state == "broken"]
    assert broken.detail.startswith("env.id=FrozenLak-v1: gymnasium.make fails for task 0")
    assert broken.advice.startswith("correct the section env")
    with pytest.raises(UsageError, match="name one experiment file"):
        list(examine_family([file, file], []))


def test_the_command_takes_an_experiment(tmp_path):
    def doctor(*words):
        return CliRunner().invoke(build(), ["doctor", *map(str, words)], env={"COLUMNS": "200"})

    file = tmp_path / "lakes.yaml"
    file.write_text(LAKES)
    done = doctor(file, "arms=[{name: AD}]")
    assert done.exit_code == 0
    assert "cells, whose settings fit: 1;" in done.output and "gymnasium FrozenLake-v1" in done.output
    assert "leave out --family" in str(doctor(file, "--family", "darkroom").exception)
    assert "base.env.id: expected text" in str(doctor(file, "base.env.id=3").exception)
