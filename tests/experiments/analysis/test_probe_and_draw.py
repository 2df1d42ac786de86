"""`cad probe` and `cad watch-rollout` on real, small cells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import yaml
from typer.testing import CliRunner

from cad.cli.app import build
from cad.envs.split import Split, split_tasks
from cad.errors import CadError, UsageError
from cad.evaluation.probes.result import load_probe, save_probe
from cad.experiments.analysis.draw_rollout import draw_rollout
from cad.experiments.analysis.probe import probe_cell
from cad.experiments.plan.experiment import open_experiment
from cad.interrupt import StopFlag

# Of the small experiment, whose histories are there: models that hardly train.
CHANGES = """
train: {n_updates: 2, batch_size: 4, validate_every: 0, watchdog_share: null}
evaluation: {n_episodes: 7, n_rollouts: 2}
"""
ARMS = """
- name: AD
  set: {model.kind: ad}
- name: CompressedAD
  set: {model.kind: compressed_ad, model.max_compression_depth: 1}
"""


def cad(*words: object) -> str:
    done = CliRunner().invoke(build(), [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def experiment(small, with_histories, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("probed") / "probed.yaml"
    settings = yaml.safe_load(small.read_text()) | {"name": "probed", "arms": yaml.safe_load(ARMS)}
    settings["base"] |= yaml.safe_load(CHANGES)
    path.write_text(yaml.safe_dump(settings))
    with_histories(path.parent / "runs")
    cad("run", path, "--root", path.parent / "runs", "--inline", "--device", "cpu", "--no-figures")
    return path


@pytest.fixture(scope="module")
def opened(experiment):
    return open_experiment(experiment, [], experiment.parent / "runs")


@pytest.fixture(scope="module")
def evaluated(opened) -> Path:
    return opened.root / "stages" / opened.cells[1].evaluation.name


def split(opened) -> Split:
    return split_tasks(opened.cells[0].config.env)


@pytest.fixture
def as_before_checksums(evaluated) -> Iterator[None]:
    """The evaluation's DONE as an earlier version wrote it, which may have kept no actions."""
    marker = evaluated / "DONE"
    kept = marker.read_text()
    later = ("stage", "outputs", "seal")
    marker.write_text(json.dumps({k: v for k, v in json.loads(kept).items() if k not in later}))
    yield
    marker.write_text(kept)


@pytest.mark.usefixtures("as_before_checksums")
def test_every_cell_is_probed_once_and_the_report_shows_it(experiment, opened, evaluated):
    words = ("probe", experiment, "--root", opened.root, "--device", "cpu")
    report = opened.folder / "report/report.html"
    assert "What a roll-out looks like" in report.read_text()
    assert "What is in the latents?" not in report.read_text()
    lines = [line for line in cad(*words).splitlines() if line.startswith("cell ")]
    assert lines == ["cell 1, AD, seed 0: skipped: no latents", "cell 2, CompressedAD, seed 0: probed"]
    file, actions = evaluated / "probe.json", evaluated / "actions.h5"
    first, before = file.read_bytes(), actions.read_bytes()
    stamp = file.stat().st_mtime_ns
    assert "cell 2, CompressedAD, seed 0: done before" in cad(*words)
    assert file.stat().st_mtime_ns == stamp
    # A probe of an earlier version stays, and is said to lack what this one measures.
    probe = load_probe(file)
    save_probe(file, replace(probe, counts=(1,), targets=()))
    lacks = "by an earlier version, without goal and anything after more than 1 compressions"
    assert f"done before, {lacks}; delete {file} to probe again" in cad(*words)
    # An evaluation without stored actions is run again for them; same bits.
    file.unlink()
    actions.unlink()
    cad(*words)
    assert (file.read_bytes(), actions.read_bytes()) == (first, before)
    cad("report", experiment, "--root", opened.root, "--no-figures")
    assert "What is in the latents?" in report.read_text()
    # Actions of other roll-outs are detected.
    file.unlink()
    results = evaluated / "returns.h5"
    kept = results.read_bytes()
    with h5py.File(results, "a") as stored:
        stored["returns"][0, 0, 0] += 1
    with pytest.raises(CadError, match=r"actions\.h5 is damaged \(it does not give the returns"):
        probe_cell(opened.root, opened.cells[1], "cpu", StopFlag())
    actions.unlink()
    with pytest.raises(CadError, match="its roll-outs cannot be reproduced here"):
        probe_cell(opened.root, opened.cells[1], "cpu", StopFlag())
    assert not file.exists()
    results.write_bytes(kept)
    actions.write_bytes(before)
    file.write_bytes(first)


def test_cells_that_are_not_there_yet_are_skipped(opened, tmp_path):
    assert probe_cell(tmp_path, opened.cells[1], "cpu", StopFlag()) == "skipped: not evaluated yet"
    with pytest.raises(CadError, match="is not trained yet"):
        draw_rollout(tmp_path, opened.cells[0], split(opened).heldout[0], 1, None, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("as_before_checksums")
def test_stored_roll_outs_and_those_made_again_look_alike(opened, evaluated, tmp_path):
    cell, actions = opened.cells[1], evaluated / "actions.h5"
    task = int(h5py.File(evaluated / "returns.h5")["task_ids"][1])
    stored, origin = draw_rollout(opened.root, cell, task, 2, None, tmp_path / "stored.png")
    assert origin == "from the evaluation"
    assert stored.compression_steps == (20, 40, 60)
    kept = actions.read_bytes()
    actions.unlink()
    again, origin = draw_rollout(opened.root, cell, task, 2, None, tmp_path / "again.png")
    actions.write_bytes(kept)
    assert origin == "rolled out now; the same returns as in the evaluation"
    assert again.compression_steps == stored.compression_steps
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "stored.png").read_bytes()
    longer, origin = draw_rollout(opened.root, cell, task, 2, 9, tmp_path / "longer.png")
    assert origin == "rolled out now; the same returns as in the evaluation"
    assert list(longer.returns[:7]) == list(stored.returns)
    shorter, origin = draw_rollout(opened.root, cell, task, 2, 3, tmp_path / "shorter.png")
    assert (list(shorter.returns), shorter.compression_steps) == (list(stored.returns[:3]), (20,))


def test_what_is_demonstrated_is_drawn_as_such(opened, tmp_path):
    shown = open_experiment(opened.file, ["base.evaluation.demonstrated_episodes=3"], opened.root).cells[1]
    task = split(opened).heldout[0]
    drawn, origin = draw_rollout(opened.root, shown, task, 2, None, tmp_path / "shown.png")
    assert origin == "rolled out now"
    assert drawn.title.endswith("roll-out 2; episodes 1 to 3 are demonstrated")
    best = drawn.paths.family.optimal_return(task)
    assert (drawn.returns[:3] == best).all() and (drawn.returns[3:] < best).any()
    assert probe_cell(opened.root, shown, "cpu", StopFlag()).startswith("skipped: evaluation.demonstrated_")


def test_the_command_draws_any_task_of_any_cell(experiment, opened):
    output = cad("watch-rollout", experiment, 1, "--root", opened.root, "--episodes", 2).splitlines()
    first = int(output[0].partition("task ")[2].partition(",")[0])
    assert output[0].endswith(", held out; roll-out 1: from the evaluation")
    gif = opened.folder / f"rollouts/cell-1-task-{first}-rollout-1.gif"
    assert output[-1] == str(gif)
    assert gif.read_bytes().startswith(b"GIF89a")
    trained = split(opened).train[0]
    target = gif.with_name("strip.png")
    output = cad("watch-rollout", experiment, 2, "--task", trained, "--root", opened.root, "--out", target)
    assert "training; roll-out 1: rolled out now" in output
    for words, message in (
        ((2, "--task", 99), r"--task 99: not a task of darkroom with these settings; held out are \d+, \d+"),
        ((2, "--out", "a.mp4"), r"--out a\.mp4: the name must end in \.gif or \.png"),
        ((3,), "there is no cell 3"),
    ):
        with pytest.raises(UsageError, match=message):
            cad("watch-rollout", experiment, *words, "--root", opened.root)


def test_settings_are_chosen_without_a_look_at_held_out_tasks(experiment):
    overrides = ["name=chosen", "base.evaluation.tasks=validation"]
    root = ("--root", experiment.parent / "runs")
    cad("run", experiment, *overrides, *root, "--inline", "--device", "cpu", "--no-figures")
    opened = open_experiment(experiment, overrides, experiment.parent / "runs")
    report = (opened.folder / "report" / "report.md").read_text()
    assert "on 2 validation goals" in report and "Return on each validation goal" in report
    with h5py.File(opened.root / "stages" / opened.cells[1].evaluation.name / "returns.h5") as file:
        assert tuple(file["task_ids"][:]) == split_tasks(opened.cells[1].config.env).validation
