"""What people do wrong: one clear message, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import safetensors.torch

Done = subprocess.CompletedProcess[str]

needs_mount = pytest.mark.skipif(
    os.geteuid() != 0
    or subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0,
    reason="mounting a small file system needs root; run as root (CI does)",
)


def stage(root: Path, kind: str, index: int = 0) -> Path:
    return sorted((root / "stages").glob(f"{kind}-*"))[index]


def refused(done: Done, code: int, *words: str) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def run_training(cad: Callable[..., Done], small: Path, root: Path) -> Done:
    return cad("run", small, "--root", root, "--inline", "--until", "train", "--no-report")


def test_unknown_key(cad, tmp_path):
    file = tmp_path / "e.yaml"
    file.write_text("name: e\nbase: {model: {n_laten: 4}}\narms: [{name: a}]\n")
    refused(cad("run", file, "--root", tmp_path), 2, "e.yaml", "base.model.n_laten", "n_latent")
    assert not (tmp_path / "e").exists()


def test_unknown_key_in_a_grid(cad, tmp_path):
    file = tmp_path / "e.yaml"
    file.write_text("name: e\narms: [{name: a, grid: {model.n_latens: [4]}}]\n")
    refused(cad("run", file, "--root", tmp_path), 2, "e.yaml", "model.n_latens", "n_latent")


def test_wrong_type(cad, tmp_path):
    refused(cad("train", "model.n_latent=many", "--root", tmp_path), 2, "model.n_latent", "many")


def test_cross_field_rule(cad, tmp_path):
    refused(cad("train", "model.n_head=3", "--root", tmp_path), 2, "n_head=3", "n_embd=64")


def test_zero_heldout_tasks(cad, tmp_path):
    refused(cad("train", "env.n_heldout=0", "--root", tmp_path), 2, "n_heldout")
    refused(cad("train", "env.n_heldout=81", "--root", tmp_path), 2, "n_heldout")


GYMNASIUM = """
name: lakes
base:
  env: {name: gymnasium, id: FrozenLake-v1, horizon: 5, n_heldout: 1, n_validation: 0,
        tasks: [{kwargs: {is_slippery: true}}, {kwargs: {is_slippery: false}}, {kwargs: {map_name: 4x4}}]}
  train: {validate_every: 0}
arms: [{name: AD, set: {model.kind: ad, model.n_transit: 20}}]
"""
PROFILE = Path(__file__).parents[3] / "slurm" / "profiles" / "cpu.yaml"


@pytest.mark.parametrize("command", [("run",), ("run", "--dry-run"), ("submit", "--dry-run"), ("submit",)])
@pytest.mark.parametrize(
    ("written", "instead", "words"),
    [
        ("FrozenLake-v1", "FrozenLak-v1", ("env.id=FrozenLak-v1", "task 0", "doesn't exist")),
        ("id: Fro", "kwargs: {maps: 3}, id: Fro", ("task 0", "unexpected keyword argument 'maps'")),
        ("{map_name: 4x4}", "{map: 4x4}", ("task 2", "unexpected keyword argument 'map'")),
    ],
)
def test_an_environment_that_cannot_be_made_is_said_before_anything_runs(
    cad, tmp_path, command, written, instead, words
):
    file = tmp_path / "lakes.yaml"
    file.write_text(GYMNASIUM.replace(written, instead))
    if command == ("submit",) and shutil.which("sbatch") is None:
        pytest.skip("no Slurm here")
    profile = ("--profile", PROFILE) if command[0] == "submit" else ()
    done = cad(*command, file, *profile, "--root", tmp_path / "runs")
    refused(done, 2, f"error: {file}: env.id=", *words)
    assert not list(tmp_path.glob("runs/stages/*"))


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_root_that_cannot_be_made(cad, small, tmp_path, words):
    (tmp_path / "file").touch()
    done = cad("run", small, "--root", tmp_path / "file" / "runs", *words)
    refused(done, 1, "cannot create folder", "a part of this path is a file, not a folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_missing_experiment(cad, tmp_path):
    refused(cad("run", tmp_path / "none.yaml"), 2, "none.yaml")


def test_unknown_option_and_command(cad):
    refused(cad("run", "--nonsense"), 2, "nonsense")
    refused(cad("nonsense"), 2, "nonsense")


def test_debug_shows_the_traceback(cad, tmp_path):
    done = cad("run", tmp_path / "none.yaml", "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_tampered_histories_stop_the_training(cad, small, copy):
    file = stage(copy, "histories") / "histories.h5"
    with h5py.File(file, "r+") as histories:
        group = histories[sorted(k for k in histories if k.startswith("task"))[0]]
        group["rewards"][2, 7] = 1 - group["rewards"][2, 7]
    kept = file.read_bytes()
    shutil.rmtree(stage(copy, "train"))
    refused(run_training(cad, small, copy), 1, "histories.h5", "checksum", f"'cad repair {file.parent}'")
    # An earlier version recorded no checksum: then the audit finds it.
    (file.parent / "DONE").write_text("{}")
    refused(run_training(cad, small, copy), 1, "histories.h5", "reward")
    assert file.read_bytes() == kept


def test_truncated_histories_stop_the_training(cad, small, copy):
    file = stage(copy, "histories") / "histories.h5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    kept = file.read_bytes()
    shutil.rmtree(stage(copy, "train"))
    refused(run_training(cad, small, copy), 1, "histories.h5", "cad repair")
    assert file.read_bytes() == kept


def test_directory_of_another_config(cad, small, copy):
    train = stage(copy, "train")
    (train / "DONE").unlink()
    identity = json.loads((train / "stage.json").read_text())
    identity["config"]["seed"] = 77
    (train / "stage.json").write_text(json.dumps(identity))
    refused(run_training(cad, small, copy), 1, "stage.json", "another config")


def test_directory_of_a_newer_version(cad, small, copy):
    train = stage(copy, "train")
    (train / "DONE").unlink()
    identity = json.loads((train / "stage.json").read_text())
    identity["version"] = 10_000
    (train / "stage.json").write_text(json.dumps(identity))
    refused(run_training(cad, small, copy), 1, "newer version")


def test_checkpoint_cut_short(cad, small, finished, copy):
    """The one before it is used, with a warning; the model that comes out is the same."""
    train = stage(copy, "train")
    for name in ("DONE", "model.safetensors"):
        (train / name).unlink()
    newest = sorted((train / "checkpoints").iterdir())[-1]
    state = newest / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    done = run_training(cad, small, copy)
    assert done.returncode == 0, done.stderr
    assert "damaged" in done.stderr and newest.name in done.stderr
    before = safetensors.torch.load_file(stage(finished, "train") / "model.safetensors")
    after = safetensors.torch.load_file(train / "model.safetensors")
    assert all((before[name] == after[name]).all() for name in before)


def test_read_only_disk(cad, small):
    refused(cad("run", small, "--root", "/proc/runs"), 1, "/proc/runs")


@needs_mount
def test_full_disk_loses_nothing(cad, one, finished, with_histories, same_results, tmp_path):
    """On a tmpfs that is too small the run ends with one message; with room again it resumes.

    It runs in this process, so that this is also the proof that `--inline` gives the same numbers.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320k", "none", str(disk)], check=True)
    try:
        with_histories(disk / "runs")
        refused(cad("run", one, "--root", disk / "runs", "--inline", "--no-report"), 1, "disk is full")
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        done = cad("run", one, "--root", disk / "runs", "--inline", "--no-report")
        assert done.returncode == 0, done.stderr
        same_results(disk / "runs", finished)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
