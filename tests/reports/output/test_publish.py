"""A report put into a repository: small, whole, and never over something else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cad.cli.app import build
from cad.errors import UsageError
from cad.reports import publish


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    for part in ("csv", "figures"):
        (folder / part).mkdir(parents=True)
    (folder / "report.md").write_text("# Title")
    (folder / "report.html").write_text("<html>")
    (folder / "csv/cells.csv").write_text("a,b\n1,2\n")
    (folder / "csv/training.csv").write_text("1,2\n" * 60_000)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "figures/grid.png")
    (folder / "figures/grid.pdf").write_bytes(b"%PDF")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_text_small_tables_and_small_figures(report, tmp_path):
    assert publish(report, tmp_path / "results/run") == ["training.csv"]
    assert names(tmp_path / "results/run") == ["csv/cells.csv", "figures/grid.png", "report.md"]
    with Image.open(tmp_path / "results/run/figures/grid.png") as image:
        assert image.size == (30, 20) and image.mode == "P"
    assert (tmp_path / "results/run/csv/cells.csv").read_text() == "a,b\n1,2\n"


def test_scores_of_tasks_with_long_names_are_kept(report, tmp_path):
    scores = report / "csv/per_task.csv"
    for rows, left_out in ((60_000, []), (200_000, ["per_task.csv"])):
        scores.write_text("1,2\n" * rows)
        assert publish(report, tmp_path / "run") == [*left_out, "training.csv"]
        assert (tmp_path / "run/csv/per_task.csv").exists() == (not left_out)


def test_a_thin_line_keeps_its_colour(report, tmp_path):
    row, column = np.mgrid[:400, :600]
    pixels = np.stack([row % 256 // 2, column % 256, row % 256 // 2], axis=2).astype(np.uint8)
    pixels[196:208, 100:140] = line = (204, 121, 167)
    Image.fromarray(pixels).save(report / "figures/grid.png")
    publish(report, tmp_path / "run")
    with Image.open(tmp_path / "run/figures/grid.png") as image:
        actual = np.asarray(image.convert("RGB"))[101, 55:65].astype(int)
    assert abs(actual - line).max() < 16


def test_an_earlier_report_is_replaced(report, tmp_path):
    publish(report, tmp_path / "run")
    (report / "figures/grid.png").unlink()
    (report / "report.md").write_text("# Other")
    publish(report, tmp_path / "run")
    assert names(tmp_path / "run") == ["csv/cells.csv", "report.md"]
    assert (tmp_path / "run/report.md").read_text().startswith("# Other\n")


def test_a_report_of_a_version_that_listed_no_files_is_replaced(report, tmp_path):
    publish(report, tmp_path / "run")
    old = "# Old\n\n## How the numbers were made\n"
    (tmp_path / "run/report.md").write_text(old)
    (tmp_path / "run/csv/gone.csv").write_text("a\n")
    publish(report, tmp_path / "run")
    assert names(tmp_path / "run") == ["csv/cells.csv", "figures/grid.png", "report.md"]
    for part in ("csv", "figures"):
        shutil.rmtree(tmp_path / "run" / part)
    (tmp_path / "run/report.md").write_text(old)
    publish(report, tmp_path / "run")
    assert names(tmp_path / "run") == ["csv/cells.csv", "figures/grid.png", "report.md"]


@pytest.mark.parametrize(
    "files",
    [
        ["csv/mine.csv"],
        ["figures/mine.png", "csv/mine.csv"],
        ["report.md"],
        ["report.md", "figures/mine.png"],
        ["figures/mine.tex"],
    ],
)
def test_folders_of_the_same_names_are_no_published_report(files, report, tmp_path):
    for name in files:
        (tmp_path / "paper" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "paper" / name).write_text("mine")
    with pytest.raises(UsageError, match="no published report"):
        publish(report, tmp_path / "paper")
    assert names(tmp_path / "paper") == sorted(files)


@pytest.mark.parametrize(
    "name", ["csv/mine.csv", "figures/mine.png", "figures/mine.tex", "csv/sub/cells.csv"]
)
def test_what_was_added_to_a_published_report_is_left_alone(name, report, tmp_path):
    publish(report, tmp_path / "run")
    (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(UsageError, match=rf"no published report \({name}\)"):
        publish(report, tmp_path / "run")
    assert (tmp_path / "run" / name).read_text() == "mine"


def test_the_folder_that_one_is_in_is_not_taken_away(report, tmp_path, monkeypatch):
    publish(report, tmp_path / "run")
    before = names(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run/csv")
    for folder in (Path(), Path(".."), tmp_path / "run"):
        with pytest.raises(UsageError, match="the folder that you are in, or one above it"):
            publish(report, folder)
    assert names(tmp_path / "run") == before


def test_through_a_link_and_into_no_file(report, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for _ in range(2):
        publish(report, tmp_path / "link")
    assert "report.md" in names(tmp_path / "there") and (tmp_path / "link").is_symlink()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="file is a file, so that nothing can be published in"):
        publish(report, tmp_path / "file/run")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("made", ["file", "folder", "beside a report"])
def test_something_else_is_left_alone(made, report, tmp_path):
    other = tmp_path / "other"
    if made == "beside a report":
        publish(report, other)
    elif made == "folder":
        other.mkdir()
    mine = other if made == "file" else other / "mine.txt"
    mine.write_text("mine")
    with pytest.raises(UsageError, match=r"no published report|is a file"):
        publish(report, other)
    assert mine.read_text() == "mine"


def test_the_option_publishes_a_public_report(tmp_path):
    """``cad report --publish``, on an experiment of which nothing has run."""
    file, folder = tmp_path / "small.yaml", tmp_path / "results/small"
    file.write_text("name: small\narms: [{name: AD, set: {model.kind: ad}}]\n")

    def report(*options):
        return CliRunner().invoke(build(), ["report", str(file), "--root", str(tmp_path / "runs"), *options])

    done = report("--publish", str(folder))
    assert done.exit_code == 0, done.output
    assert f"published: {folder / 'report.md'}" in done.output
    text = (folder / "report.md").read_text()
    assert "No result yet" in text and str(tmp_path) not in text  # as --public has it
    assert "csv/cells.csv" in names(folder)
    (folder / "mine.txt").write_text("mine")
    refused = report("--publish", str(folder))
    assert isinstance(refused.exception, UsageError) and "no published report" in str(refused.exception)
    assert (folder / "mine.txt").read_text() == "mine"
