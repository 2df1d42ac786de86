"""Checkpoints: intact, damaged, of another run, of another version."""

from __future__ import annotations

import errno
import logging
import os
import resource
from pathlib import Path

import pytest
import torch

from cad.checksums import read_sealed, write_sealed
from cad.errors import CadError
from cad.training.checkpoint import Checkpoint, damaged_checkpoints, load_newest, newest_meta, save_checkpoint


def save(folder: Path, step: int, keep: int = 3, run_id: str = "run") -> None:
    tensors = {"a": torch.full((50,), float(step)), "b": torch.tensor(step)}
    save_checkpoint(folder, Checkpoint(step, step / 2, 8 * step, tensors), run_id, keep)


def steps_of(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


def edit_meta(checkpoint: Path, **changes: object) -> None:
    path = checkpoint / "meta.json"
    write_sealed(path, {**read_sealed(path, ""), **changes})


def test_the_newest_comes_back(tmp_path):
    for step in (10, 9_999_999, 20):
        save(tmp_path, step)
    actual = load_newest(tmp_path, "run")
    assert (actual.step, actual.seconds) == (9_999_999, 9_999_999 / 2)
    assert torch.equal(actual.tensors["a"], torch.full((50,), 9_999_999.0))
    assert actual.tensors["b"].dtype == torch.int64


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert load_newest(tmp_path, "run") is None
    assert load_newest(tmp_path / "absent", "run") is None


def test_only_the_newest_are_kept(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep=2)
    assert steps_of(tmp_path) == [4, 5]


def test_what_a_killed_save_left_is_no_checkpoint_and_is_removed(tmp_path):
    save(tmp_path, 1)
    leftover = tmp_path / ".00000002.abc.tmp"
    leftover.mkdir()
    (leftover / "state.safetensors").write_bytes(b"half")
    assert load_newest(tmp_path, "run").step == 1
    save(tmp_path, 3)
    assert not leftover.exists()
    assert steps_of(tmp_path) == [1, 3]


def test_a_file_in_the_place_of_a_checkpoint_is_passed_over(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, 10)
    stray = folder / "00009999"
    stray.write_text("stray")
    assert [path for path, _ in damaged_checkpoints(folder, "run")] == [stray]
    assert newest_meta(folder)["step"] == 10
    assert load_newest(folder, "run").step == 10 and stray.exists()
    assert load_newest(folder, "run", set_damaged_aside=True).step == 10
    assert (tmp_path / "set-aside/00009999").read_text() == "stray" and not stray.exists()


@pytest.mark.parametrize("name", ["meta.json", "state.safetensors"])
def test_a_folder_in_the_place_of_its_file_is_a_damage(name, tmp_path):
    for step in (10, 20):
        save(tmp_path, step)
    (tmp_path / "00000020" / name).unlink()
    (tmp_path / "00000020" / name).mkdir()
    ((path, why),) = damaged_checkpoints(tmp_path, "run")
    assert path.name == "00000020" and why == f"{name}: a folder is in its place"
    assert load_newest(tmp_path, "run").step == 10


def truncate_state(path: Path) -> None:
    state = path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-20])


def empty_state(path: Path) -> None:
    (path / "state.safetensors").write_bytes(b"")


def flip_byte_of_state(path: Path) -> None:
    state = path / "state.safetensors"
    data = bytearray(state.read_bytes())
    data[-30] ^= 1
    state.write_bytes(data)


def remove_state(path: Path) -> None:
    (path / "state.safetensors").unlink()


def remove_meta(path: Path) -> None:
    (path / "meta.json").unlink()


def truncate_meta(path: Path) -> None:
    meta = path / "meta.json"
    meta.write_text(meta.read_text()[:-10])


def rename_key_of_meta(path: Path) -> None:
    meta = path / "meta.json"
    meta.write_text(meta.read_text().replace('"format"', '"fornat"'))


def change_step_of_meta(path: Path) -> None:
    edit_meta(path, step=21)


DAMAGES = [
    truncate_state, empty_state, flip_byte_of_state, remove_state,
    remove_meta, truncate_meta, rename_key_of_meta, change_step_of_meta,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(damage, tmp_path, caplog):
    save(tmp_path, 10)
    save(tmp_path, 20)
    damage(tmp_path / "00000020")
    with caplog.at_level(logging.WARNING):
        actual = load_newest(tmp_path, "run")
    assert actual.step == 10
    assert torch.equal(actual.tensors["a"], torch.full((50,), 10.0))
    assert "00000020" in caplog.text
    assert "damaged" in caplog.text


def test_two_damaged_ones_and_all_damaged(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step)
    truncate_state(tmp_path / "00000030")
    remove_meta(tmp_path / "00000020")
    assert load_newest(tmp_path, "run").step == 10
    flip_byte_of_state(tmp_path / "00000010")
    assert load_newest(tmp_path, "run") is None


def test_going_on_from_before_a_damaged_one_keeps_the_new_ones(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, 10, keep=1)
    flip_byte_of_state(folder / "00000010")
    damaged = (folder / "00000010/state.safetensors").read_bytes()
    assert load_newest(folder, "run", set_damaged_aside=True) is None
    save(folder, 5, keep=1)  # the run started again and got this far
    assert load_newest(folder, "run").step == 5
    assert (tmp_path / "set-aside/00000010/state.safetensors").read_bytes() == damaged


def test_reading_moves_nothing(tmp_path):
    save(tmp_path, 10)
    flip_byte_of_state(tmp_path / "00000010")
    assert load_newest(tmp_path, "run") is None
    assert steps_of(tmp_path) == [10]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES, errno.EIO, errno.ENOENT])
@pytest.mark.parametrize("name", ["meta.json", "state.safetensors"])
def test_what_the_system_refuses_to_read_is_not_damaged(number, name, tmp_path, monkeypatch):
    """The system's errors cannot be had here from a real disk; everything above the read is real."""
    for step in (10, 20):
        save(tmp_path, step)
    opened = os.open

    def refuse(path, *how, **more):
        if Path(path).name == name and Path(path).parent.name == "00000020":
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *how, **more)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CadError, match=rf"00000020/{name}"):
        load_newest(tmp_path, "run", set_damaged_aside=True)
    monkeypatch.undo()
    assert steps_of(tmp_path) == [10, 20]
    assert load_newest(tmp_path, "run").step == 20


def test_a_run_of_another_config_is_refused(tmp_path):
    save(tmp_path, 10, run_id="other")
    with pytest.raises(CadError, match="another config"):
        load_newest(tmp_path, "run")


def test_a_newer_format_is_refused(tmp_path):
    save(tmp_path, 10)
    save(tmp_path, 20)
    edit_meta(tmp_path / "00000020", format=999)
    with pytest.raises(CadError, match=r"00000020 .*newer version"):
        load_newest(tmp_path, "run")


def test_a_newer_format_that_looks_different_is_refused_too(tmp_path):
    save(tmp_path, 10)
    save(tmp_path, 20)
    (tmp_path / "00000020" / "meta.json").write_text('{"format": 999, "shards": ["a", "b"]}')
    with pytest.raises(CadError, match="newer version"):
        load_newest(tmp_path, "run")


def test_a_disk_that_takes_no_more_costs_nothing_that_was_there(tmp_path):
    save(tmp_path, 10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(CadError, match="00000020"):
            save(tmp_path, 20, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert steps_of(tmp_path) == [10]
    assert load_newest(tmp_path, "run").step == 10
