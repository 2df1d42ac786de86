"""No command writes over what it reads, nor into a stage's directory."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cad.cli.app import _GROUPS, _PANELS, build
from cad.errors import UsageError

STAGE = "runs/stages/train-0123456789ab"
EXPERIMENT = """
include: base.yaml
name: outputs
arms: [{name: AD, set: {model.kind: ad, train.weights: m.safetensors}}]
"""
# Every command with an output, and the files that it must not replace.
COMMANDS = {
    ("histories", "plot", "h.h5"): ("--out", ["h.h5"]),
    ("histories", "export", "h.h5"): ("--to", []),  # refuses whatever is there
    ("histories", "import", "h.h5"): ("--to", []),
    ("evaluate", "--model", "m.safetensors"): ("--out", ["m.safetensors"]),
    ("export", "copied/train-0123456789ab"): ("--out", ["copied/train-0123456789ab/DONE"]),
    ("export", "train-0123456789ab"): ("--out", []),
    ("export-table", "e.yaml"): ("--out", ["e.yaml", "base.yaml", "m.safetensors"]),
    ("watch-rollout", "e.yaml", "1"): ("--out", ["e.yaml", "base.yaml", "m.safetensors"]),
    ("report", "e.yaml"): ("--publish", []),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files that are inputs of some command."""
    monkeypatch.chdir(tmp_path)
    for folder in (STAGE, "copied/train-0123456789ab"):
        Path(folder).mkdir(parents=True)
        Path(folder, "DONE").write_text("done")
    for name in ("h.h5", "m.safetensors"):
        Path(name).write_text(name)
    Path("base.yaml").write_text("base: {train: {n_updates: 3}}\n")
    Path("e.yaml").write_text(EXPERIMENT)
    return tmp_path


def refusal(*words: str) -> str:
    """What a command says that has to refuse; nothing may have changed."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    error = CliRunner().invoke(build(), words).exception
    assert isinstance(error, UsageError), (words, error)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    return str(error)


def test_every_command_with_an_output_is_tested() -> None:
    named = {words[:2] if words[0] == "histories" else words[:1] for words in COMMANDS}
    found = set()
    groups = [((), commands) for _, commands in _PANELS]
    groups += [((name,), commands) for _, name, _, commands in _GROUPS]
    for group, commands in groups:
        for command in commands:
            if {"out", "to", "publish_to"} & inspect.signature(command).parameters.keys():
                found.add((*group, command.__name__.rstrip("_").replace("_", "-")))
    assert found == named


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_inputs_are_not_replaced(words: tuple[str, ...], here: Path) -> None:
    option, inputs = COMMANDS[words]
    Path("link.safetensors").symlink_to("m.safetensors")
    for name in inputs:
        for path in {name, str(here / name), f"copied/../{name}"}:
            said = refusal(*words, option, path)
            assert said.startswith(f"{option} {path}: ") and "the command reads" in said
    if "m.safetensors" in inputs:
        assert "that is what the command reads" in refusal(*words, option, "link.safetensors")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_nothing_is_written_into_a_stage(words: tuple[str, ...], here: Path) -> None:
    option, _ = COMMANDS[words]
    Path("elsewhere").symlink_to(STAGE)
    for name in ("DONE", "new.h5", "checkpoints/00000010/new", "."):
        for folder in (STAGE, "elsewhere", here / STAGE):
            path = Path(folder, name)
            if words[0] == "histories" and words[1] != "plot" and path.exists():
                continue  # refused as it is there already
            why = f"{option} {path}: it lies in the directory of the stage {Path(STAGE).name}"
            assert refusal(*words, option, str(path)).startswith(why)


def test_a_plot_beside_histories_of_its_name_is_refused(here: Path) -> None:
    (here / "h.png").write_text("histories")
    assert "that is what the command reads" in refusal("histories", "plot", "h.png")
