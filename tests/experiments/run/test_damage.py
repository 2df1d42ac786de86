"""Random damage to every output of a stage and to checkpoints: the same numbers, or the file's name.

Fixed seeds; all in this process, so that a signal would end the tests.  ``CAD_DAMAGES=5000`` tries more.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cad.checksums import file_checksum, write_sealed
from cad.errors import CadError
from cad.evaluation.actions_file import load_actions
from cad.evaluation.probes.result import LatentProbe, save_probe
from cad.experiments.plan.directory import OUTPUTS, StageDirectory, StageFile, checked_if_recorded
from cad.experiments.plan.experiment import Experiment, open_experiment
from cad.experiments.reporting.gather import gather_cell, gather_source
from cad.experiments.run.trained_model import load_trained
from cad.histories.collect import _is_part
from cad.training.checkpoint import load_newest
from cad.training.transfer import read_weights, save_weights

CASES = int(os.environ.get("CAD_DAMAGES", "60"))
PRETRAINING = "pretrain-0123456789ab"


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, mostly in one place; a part zeroed; cut short; longer; or of another file."""
    actual = bytearray(data)
    kind = rng.random()
    if kind < 0.7:
        start, spread = rng.randrange(len(data)), rng.choice([1, 16, 512, len(data)])
        for _ in range(rng.choice([1, 1, 2, 40])):
            actual[(start + rng.randrange(spread)) % len(data)] ^= rng.randrange(1, 256)
    elif kind < 0.8:
        start = rng.randrange(len(data))
        end = rng.randrange(start, len(data)) + 1
        actual[start:end] = bytes(end - start)
    elif kind < 0.9:
        del actual[rng.randrange(len(data)) :]
    else:
        actual += rng.randbytes(rng.randrange(1, 64))
    return bytes(actual)


def digest(*parts: object) -> str:
    """A checksum of arrays, tensors and plain values."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, dict):
            total.update(digest(*(item for pair in sorted(part.items()) for item in pair)).encode())
        elif isinstance(part, np.ndarray | torch.Tensor):
            total.update(np.asarray(part).tobytes())
        else:
            total.update(repr(part).encode())
    return total.hexdigest()


@pytest.fixture(scope="module")
def runs(finished: Path, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A finished run that these tests may damage, with a probe and a pre-trained encoder."""
    root = tmp_path_factory.mktemp("damaged") / "runs"
    shutil.copytree(finished, root)
    opened = open_experiment(small, [], root)
    cell = opened.cells[-1]
    evaluation = StageDirectory(root, cell.evaluation.name)
    probe = LatentProbe((1, 2), 3, 4, 5, (1,), (), ((0.5, 0.25),), ((0.1, 0.9),), 0.5)
    save_probe(evaluation.file(StageFile.PROBE), probe, evaluation.name)
    pretraining = StageDirectory(root, PRETRAINING)
    pretraining.path.mkdir()
    model = load_trained(root, cell.training, cell.config)
    save_weights(pretraining.file(StageFile.ENCODER), cell.config, model, stage=pretraining.name)
    pretraining.file(StageFile.METRICS).write_text('{"step": 0}\n')
    pretraining.finish({"updates": 0})
    return opened


def report(runs: Experiment) -> str:
    """What `cad report` reads of a cell, but for the drawn actions."""
    actual = gather_cell(runs.root, runs.cells[-1])
    numbers = (actual.n_parameters, actual.train_seconds, actual.state_bytes, actual.evaluation_seconds)
    return digest(
        actual.status, actual.returns, actual.compressions, actual.compression_steps, actual.metrics,
        numbers, actual.parts, actual.probe, actual.task_ids,
    )  # fmt: skip


def source(runs: Experiment) -> str:
    actual = gather_source(runs.root, runs.cells)
    return digest(actual.returns, actual.task_ids)


def model(runs: Experiment) -> str:
    cell = runs.cells[-1]
    return digest(load_trained(runs.root, cell.training, cell.config).state_dict())


def actions(runs: Experiment) -> str:
    directory = StageDirectory(runs.root, runs.cells[-1].evaluation.name)
    file = directory.checked(StageFile.ACTIONS)
    return digest(load_actions(file, runs.cells[-1].config.evaluated_tasks, directory.name))


def encoder(runs: Experiment) -> str:
    directory = StageDirectory(runs.root, PRETRAINING)
    return digest(read_weights(directory.checked(StageFile.ENCODER), stage=directory.name).tensors)


def identity(runs: Experiment) -> str:
    return digest(StageDirectory(runs.root, runs.cells[-1].training.name).identity())


READERS: list[tuple[str, StageFile, Callable[[Experiment], str]]] = [
    ("histories", StageFile.HISTORIES, source),
    ("training", StageFile.MODEL, model),
    ("training", StageFile.METRICS, report),
    ("training", StageFile.DONE, report),
    ("training", StageFile.IDENTITY, identity),
    ("evaluation", StageFile.RETURNS, report),
    ("evaluation", StageFile.ACTIONS, actions),
    ("evaluation", StageFile.PROBE, report),
    ("evaluation", StageFile.DONE, report),
    ("pretraining", StageFile.ENCODER, encoder),
]


def folder_of(runs: Experiment, stage: str) -> Path:
    name = PRETRAINING if stage == "pretraining" else getattr(runs.cells[-1], stage).name
    return StageDirectory(runs.root, name).path


def same_or_named(path: Path, read: Callable[[], str], seed: str) -> None:
    """Damage ``path`` in many ways: ``read`` gives what it gave before, or names the file."""
    good, data = read(), path.read_bytes()
    named = 0
    try:
        for case in range(CASES):
            path.write_bytes(damaged(data, random.Random(f"{seed} {case}")))
            try:
                assert read() == good, f"case {case}: another number"
            except CadError as error:
                assert path.name in str(error), (case, error)
                named += 1
    finally:
        path.write_bytes(data)
    assert read() == good
    assert named > CASES / 2


def test_every_output_is_damaged_below() -> None:
    covered = {(stage, file) for stage, file, _ in READERS}
    kinds = {
        "histories": "histories",
        "train": "training",
        "evaluate": "evaluation",
        "pretrain": "pretraining",
    }
    wanted = {(kinds[kind], file) for kind, files in OUTPUTS.items() for file in files}
    assert wanted - covered == {("pretraining", StageFile.METRICS)}  # read as a training's are


@pytest.mark.parametrize(("stage", "file", "read"), READERS, ids=[f"{s}/{f}" for s, f, _ in READERS])
def test_a_damaged_output_gives_the_same_numbers_or_is_named(stage, file, read, runs):
    same_or_named(folder_of(runs, stage) / file, lambda: read(runs), f"{stage}/{file}")


@pytest.mark.parametrize(("stage", "file", "read"), [r for r in READERS if r[1].endswith(".h5")])
def test_hdf5_without_a_checksum_is_read_or_named_but_ends_no_process(stage, file, read, runs):
    """As of a version that recorded none: numbers may differ, which nobody can know."""
    path = folder_of(runs, stage) / file
    marker = path.with_name("DONE")
    kept = {name: name.read_bytes() for name in (path, marker)}
    record = json.loads(kept[marker])
    try:
        marker.write_text(
            json.dumps({k: v for k, v in record.items() if k not in ("stage", "outputs", "seal")})
        )
        read(runs)
        named = 0
        for case in range(CASES // 4):
            path.write_bytes(damaged(kept[path], random.Random(f"{stage}/{file} {case}")))
            try:
                read(runs)
            except CadError as error:
                assert file in str(error), (case, error)
                named += 1
        assert named
    finally:
        for name, data in kept.items():
            name.write_bytes(data)


@pytest.mark.parametrize(
    ("words", "stage", "file"),
    [
        (("report", "SMALL", "--root", "ROOT"), "evaluation", StageFile.RETURNS),
        (("export-table", "SMALL", "--root", "ROOT"), "training", StageFile.METRICS),
        (("watch-rollout", "SMALL", "3", "--root", "ROOT"), "evaluation", StageFile.ACTIONS),
        (("histories", "audit", "FILE"), "histories", StageFile.HISTORIES),
        (("histories", "plot", "FILE"), "histories", StageFile.HISTORIES),
        (("evaluate", "--model", "FILE"), "training", StageFile.MODEL),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_commands_end_with_1_and_name_the_damaged_file(words, stage, file, runs, small, cad):
    path = folder_of(runs, stage) / file
    data = path.read_bytes()
    known = {"SMALL": small, "ROOT": runs.root, "FILE": path}
    try:
        path.write_bytes(data[: len(data) // 2] + b"\xff\x00" + data[len(data) // 2 + 2 :])
        done = cad(*(known.get(word, word) for word in words))
    finally:
        path.write_bytes(data)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{path} is damaged" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("file", ["meta.json", "state.safetensors"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(file, runs, caplog):
    folder = folder_of(runs, "training") / "checkpoints"
    newest = max(path for path in folder.iterdir() if path.name.isdigit())
    name = folder.parent.name

    def read() -> str:
        caplog.clear()
        actual = load_newest(folder, name)
        if actual.step != int(newest.name):
            assert str(newest) in caplog.text
            raise CadError(f"{newest / file}: passed over")
        return digest(actual.tensors, actual.step, actual.seconds, actual.supervised_actions, actual.best)

    same_or_named(newest / file, read, file)


@pytest.mark.parametrize("file", ["task_00007.h5", "task_00007.json"])
def test_a_damaged_part_of_a_collection_is_collected_again(file, runs, tmp_path):
    part = tmp_path / "task_00007.h5"
    shutil.copyfile(folder_of(runs, "histories") / "histories.h5", part)
    write_sealed(part.with_suffix(".json"), {"fingerprint": "f", "sha256": file_checksum(part)})

    def read() -> str:
        if not _is_part(part, "f"):
            raise CadError(f"{file}: collected again")
        return file_checksum(part)

    same_or_named(tmp_path / file, read, file)


@pytest.mark.parametrize("file", [StageFile.MODEL, StageFile.RETURNS, StageFile.ACTIONS, StageFile.DONE])
def test_files_of_two_stages_swapped_are_named(file, runs):
    """Each says whose it is: also where DONE is swapped too, or has no checksums."""
    attribute = "training" if file in (StageFile.MODEL, StageFile.DONE) else "evaluation"
    ours, theirs = (getattr(runs.cells[index], attribute) for index in (-1, -2))
    path, other = (StageDirectory(runs.root, stage.name).file(file) for stage in (ours, theirs))
    marker = path.with_name("DONE")
    kept = {name: name.read_bytes() for name in (path, marker)}
    read = {"training": model, "evaluation": report}[attribute] if file != StageFile.ACTIONS else actions
    try:
        path.write_bytes(other.read_bytes())
        with pytest.raises(CadError, match=file):
            read(runs)
        if file != StageFile.DONE:
            marker.write_text('{"parameters": 1, "updates": 120}')  # as an earlier version wrote it
            with pytest.raises(CadError, match=rf"{file} is damaged \(it is that of {theirs.name}"):
                read(runs)
    finally:
        for name, data in kept.items():
            name.write_bytes(data)


def test_a_file_given_by_hand_is_checked_where_it_is_a_stages(runs, tmp_path):
    """As by `cad histories audit FILE`: HDF5 must not be the first to see the damage."""
    path = folder_of(runs, "histories") / StageFile.HISTORIES
    data = path.read_bytes()
    assert checked_if_recorded(path) == path
    try:
        path.write_bytes(data[:100] + b"\xff" + data[101:])
        with pytest.raises(CadError, match=r"histories\.h5 is damaged \(it is not what histories-"):
            checked_if_recorded(path)
    finally:
        path.write_bytes(data)
    assert checked_if_recorded(tmp_path / "histories.h5") == tmp_path / "histories.h5"


def test_a_model_of_an_earlier_version_is_compared_by_its_config(runs):
    """It says neither whose it is nor its checksum, and its DONE has none."""
    path = folder_of(runs, "training") / StageFile.MODEL
    other = StageDirectory(runs.root, runs.cells[-2].training.name).file(StageFile.MODEL)
    marker = path.with_name("DONE")
    kept = {name: name.read_bytes() for name in (path, marker)}
    good = model(runs)
    marker.write_text('{"parameters": 1}')
    try:
        for weights, fits in ((path, True), (other, False)):
            stored = read_weights(weights)
            config = json.dumps(stored.config.model_dump(mode="json"))
            path.write_bytes(safetensors.torch.save(stored.tensors, {"config": config}))
            if fits:
                assert model(runs) == good
            else:
                with pytest.raises(CadError, match=r"it is the model of another config"):
                    model(runs)
    finally:
        for name, data in kept.items():
            name.write_bytes(data)
