"""`cad repair`: what the messages advise works, and gives back what was there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import shutil
from pathlib import Path

import h5py
import pytest

from cad import checksums
from cad.checksums import DamagedFileError
from cad.errors import CadError
from cad.experiments.plan.directory import StageDirectory, StageFile, stage_name
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.reporting.comparison import side_by_side
from cad.experiments.run.repair import repair_stage
from cad.histories.audit import require_sound
from cad.schema import Config
from cad.storage import UnreadableError
from cad.training.checkpoint import load_newest


def flip(path: Path, place: int = -30) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def stages(root: Path, kind: str) -> list[StageDirectory]:
    return [StageDirectory(root, path.name) for path in sorted((root / "stages").glob(f"{kind}-*"))]


def advised(message: str) -> list[str]:
    """The command in a message, as one would copy it."""
    words = shlex.split(message.split("'")[1])
    assert words[0] == "cad"
    return words[1:]


def fingerprint(root: Path) -> str:
    return json.loads((root / "small/report/report.json").read_text())["fingerprint"]


def test_what_is_damaged_is_set_aside_and_made_again(cad, small, finished, same_results, copy):
    (histories,), trainings, evaluations = (stages(copy, kind) for kind in ("histories", "train", "evaluate"))
    file = histories.path / "histories.h5"
    cut = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(cut)
    flip(trainings[0].path / "model.safetensors")
    (trainings[1].path / "metrics.jsonl").write_bytes(b"")
    (evaluations[0].path / "returns.h5").unlink()

    refused = cad("report", small, "--root", copy)
    assert refused.returncode == 1
    assert "is damaged" in refused.stderr and "Traceback" not in refused.stderr
    command = advised(refused.stderr)
    assert command == ["repair", str(small), "--root", str(copy)]

    looked = cad(*command, "--dry-run")
    assert looked.returncode == 0, looked.stderr
    for name in ("histories.h5", "model.safetensors", "metrics.jsonl", "returns.h5"):
        assert name in looked.stdout
    assert all(stage.done for stage in (histories, *trainings, *evaluations))

    done = cad(*command, "--inline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{histories.name}: made again, the same bytes as before" in done.stdout
    assert f"{trainings[0].name}: made again, the same bytes as before" in done.stdout
    assert (histories.path / "set-aside/histories.h5").read_bytes() == cut
    assert (trainings[0].path / "set-aside/DONE").exists()
    assert not (trainings[2].path / "set-aside").exists()  # what is sound is left alone
    same_results(copy, finished)

    again = cad(*command)
    assert again.returncode == 0
    assert "nothing is damaged" in again.stdout
    assert cad("report", small, "--root", copy, "--no-figures").returncode == 0
    assert fingerprint(copy) == fingerprint(finished)


def test_a_stage_alone_is_set_aside_and_the_next_run_makes_it_again(cad, small, copy, finished, same_results):
    model = stages(copy, "train")[0].path / "model.safetensors"
    for evaluation in stages(copy, "evaluate"):
        (evaluation.path / "DONE").unlink()
    flip(model)
    refused = cad("run", small, "--root", copy, "--inline", "--no-report")
    assert refused.returncode == 1
    assert f"{model} is damaged" in refused.stderr
    message = next(line for line in refused.stderr.splitlines() if "model.safetensors is damaged" in line)
    command = advised(message)
    assert command == ["repair", str(model.parent)]
    assert cad(*command).returncode == 0
    done = cad("run", small, "--root", copy, "--inline", "--no-report")
    assert done.returncode == 0, done.stderr
    same_results(copy, finished)


@pytest.mark.parametrize("lost", [slice(2, 4), slice(3, None), slice(1, 2)])
def test_lost_lines_of_an_unfinished_training_are_noticed(lost, cad, small, copy, finished, same_results):
    """A training that goes on does not seal a gap as whole: it begins anew."""
    training = stages(copy, "train")[0]
    (training.path / "DONE").unlink()
    metrics = training.path / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    del lines[lost]
    metrics.write_text("".join(lines))
    for run in ("run", "repair"):
        told = cad(
            run, small, "--root", copy, "--inline", *(["--no-report"] if run == "run" else ["--dry-run"])
        )
        assert "damaged (the line of update " in told.stdout + told.stderr
        assert told.returncode == (1 if run == "run" else 0)
    assert cad("repair", small, "--root", copy, "--inline").returncode == 0
    assert cad("run", small, "--root", copy, "--inline", "--no-report").returncode == 0
    same_results(copy, finished)
    assert len(metrics.read_text().splitlines()) > len(lines)


@pytest.mark.parametrize("stray", ["file", "folder"])
def test_a_stray_checkpoint_asks_for_no_lines(stray, copy):
    """Nothing is lost of a training for the sake of an update that it never came to."""
    training = stages(copy, "train")[0]
    (training.path / "DONE").unlink()
    place = training.path / "checkpoints/00009999"
    if stray == "file":
        place.write_text("stray")
    else:
        place.mkdir()
    (damage,) = repair_stage(training).damages
    assert damage.path == place and not place.exists()
    assert training.saved_update() == 120 and (training.path / "metrics.jsonl").exists()


@pytest.fixture
def training(copy) -> StageDirectory:
    return stages(copy, "train")[0]


def test_a_damaged_record_or_identity_means_that_the_stage_goes_on_from_its_checkpoint(training):
    kept = {name: (training.path / name).read_bytes() for name in ("DONE", "stage.json")}
    for name in kept:
        flip(training.path / name)
        found = repair_stage(training)
        assert found.again and [damage.path.name for damage in found.damages] == [name]
        assert not training.done and not (training.path / name).exists()
        assert (training.path / "model.safetensors").exists() and training.saved_update() == 120
        for other, data in kept.items():
            (training.path / other).write_bytes(data)
    assert repair_stage(training) is None
    # A second time nothing that was set aside is written over.
    assert {path.name for path in (training.path / "set-aside").iterdir()} == {
        "DONE", "DONE.2", "stage.json",
    }  # fmt: skip


@pytest.mark.parametrize("text", [b"", b"\xff{", b"[]", b"{}"])
def test_an_identity_that_is_no_json_is_set_aside_too(text, tmp_path):
    directory = StageDirectory(tmp_path, "histories-0123456789ab")
    file = directory.path / "stage.json"
    directory.path.mkdir(parents=True)
    file.write_bytes(text)
    with pytest.raises(DamagedFileError, match=r"stage\.json is damaged \(.*'cad repair .*' sets it aside"):
        directory.identity()
    assert [damage.path for damage in repair_stage(directory).damages] == [file]
    assert (directory.path / "set-aside/stage.json").read_bytes() == text and not file.exists()


@pytest.mark.parametrize("finished", [False, True])
def test_histories_without_a_checksum_that_another_program_holds_are_left_alone(finished, tmp_path):
    """Those of an unfinished stage, or of a version that recorded none."""
    identity = {"kind": "histories"}
    directory = StageDirectory(tmp_path, stage_name(identity))
    file = directory.file(StageFile.HISTORIES)
    directory.path.mkdir(parents=True)
    directory.file(StageFile.IDENTITY).write_text(json.dumps(identity))
    if finished:
        directory.file(StageFile.DONE).write_text("{}")
    with h5py.File(file, "w"):
        pass
    with file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as HDF5 does
        with pytest.raises(
            UnreadableError, match=rf"cannot read {file}: process {os.getpid()} .*for writing"
        ):
            repair_stage(directory)
        with pytest.raises(UnreadableError, match=rf"cannot read {file}"):
            require_sound(file, Config().env)
    assert file.exists() and not directory.file(StageFile.SET_ASIDE).exists()


def test_a_damaged_checkpoint_is_set_aside_and_the_stage_stays_done(training):
    newest = max(path for path in (training.path / "checkpoints").iterdir())
    flip(newest / "state.safetensors")
    found = repair_stage(training)
    assert not found.again and training.done and not newest.exists()
    assert (training.path / "set-aside" / newest.name / "state.safetensors").exists()
    assert load_newest(training.path / "checkpoints", training.name).step < 120
    assert repair_stage(training) is None


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
@pytest.mark.parametrize(
    ("kind", "name", "again"),
    [
        ("train", "DONE", True),
        ("train", "stage.json", True),
        ("train", "metrics.jsonl", True),
        ("train", "model.safetensors", True),
        ("train", "FAILED", False),
        ("train", "progress.json", False),
        ("train", "job.json", False),
        ("histories", "histories.h5", True),
        ("evaluate", "returns.h5", True),
        ("evaluate", "actions.h5", True),
        ("evaluate", "probe.json", False),
    ],
)
@pytest.mark.parametrize("recorded", [True, False], ids=["with checksums", "without"])
def test_what_is_no_file_is_set_aside(kind, name, again, put, recorded, finished, tmp_path):
    there = stages(finished, kind)[0]
    directory = StageDirectory(tmp_path, there.name)
    shutil.copytree(there.path, directory.path)
    if not recorded:
        directory.file(StageFile.DONE).write_text("{}")
    place = directory.path / name
    place.unlink(missing_ok=True)
    put(place)
    what = "a folder" if place.is_dir() else "a pipe or a device"
    assert directory.failure() is None and directory.progress() is not None and directory.job() is None
    found = repair_stage(directory)
    (damage,) = found.damages
    assert str(damage).startswith(f"{place} is damaged ({what} is in its place); 'cad repair ")
    assert found.again == again and directory.done != again
    assert not place.exists() and (directory.path / "set-aside" / name).exists()
    assert repair_stage(directory) is None


def test_what_is_in_the_place_of_an_unfinished_stages_files_is_set_aside(tmp_path):
    directory = StageDirectory(tmp_path, stage_name({"kind": "train"}))
    directory.path.mkdir(parents=True)
    directory.file(StageFile.IDENTITY).write_text(json.dumps({"kind": "train"}))
    for name in (StageFile.FAILED, StageFile.RETURNS, StageFile.METRICS):
        directory.file(name).mkdir()
    directory.file(StageFile.CHECKPOINTS).write_text("no folder")
    assert directory.failure() == f"{directory.file(StageFile.FAILED)} is damaged"
    found = repair_stage(directory)
    names = {"FAILED", "returns.h5", "metrics.jsonl", "checkpoints"}
    assert {damage.path.name for damage in found.damages} == names and not found.again
    assert {path.name for path in directory.file(StageFile.SET_ASIDE).iterdir()} == names
    assert repair_stage(directory) is None


def test_an_attempt_forgets_a_failure_that_is_no_file(tmp_path):
    directory = StageDirectory(tmp_path, "train-0123456789ab")
    directory.file(StageFile.FAILED).mkdir(parents=True)
    directory.clear_failure()
    assert not directory.file(StageFile.FAILED).exists()
    assert (directory.path / "set-aside/FAILED").is_dir()


def test_a_stage_of_an_earlier_version_stays_valid_and_gets_checksums(training):
    """Its DONE has none: what opens and fits is kept; from then on it is checked."""
    record = training.record()
    marker = training.path / "DONE"
    old = {key: value for key, value in record.items() if key not in ("stage", "outputs")}
    marker.write_text(json.dumps(old))
    assert repair_stage(training, change=False) is None
    assert json.loads(marker.read_text()) == old
    assert repair_stage(training) is None
    assert training.record() == record
    # A shorter record of metrics is noticed without checksums too.
    marker.write_text(json.dumps(old))
    metrics = training.path / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-3]))
    (damage,) = repair_stage(training, change=False).damages
    assert "metrics.jsonl is damaged (its last update is 105, not 120)" in str(damage)


def test_what_cannot_be_read_is_not_set_aside(training, monkeypatch):
    """The system's error cannot be had from a real disk here."""

    def refuse(_: Path) -> str:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    before = sorted(path.name for path in training.path.iterdir())
    monkeypatch.setattr(checksums, "sha256_file", refuse)
    monkeypatch.setattr(checksums, "_known", {})
    with pytest.raises(CadError, match=r"Stale file handle \(errno 116\); nothing was changed") as caught:
        repair_stage(training)
    assert not isinstance(caught.value, DamagedFileError)
    assert sorted(path.name for path in training.path.iterdir()) == before


def test_messages_of_several_experiments_name_the_one_that_has_the_stage(small, one, finished):
    opened = [open_experiment(file, [], finished) for file in (small, one)]
    only = opened[0].cells[0].evaluation
    with (
        pytest.raises(DamagedFileError, match=r"cad repair .*small\.yaml"),
        side_by_side(opened).naming_repair(),
    ):
        raise DamagedFileError(StageDirectory(finished, only.name).path / "returns.h5", "x", "y")
