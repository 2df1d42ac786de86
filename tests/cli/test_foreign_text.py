"""Text of users and files reaches terminals and pipes as it is: no markup, no emoji, no control, no wraps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import run_cli

from cad.cli.app import _with_home
from cad.cli.arguments import split_files
from cad.storage import disk_error

PIPE = {"COLUMNS": "80"}
EXPERIMENT = """
name: e
base: {env: {size: 3, horizon: 4, n_validation: 0}, train: {validate_every: 0}}
arms:
  - {name: "AD [/old] :x:", set: {model.kind: ad}}
  - {name: "[bold]%s", set: {model.kind: gru}}
"""


def test_status_shows_names_as_they_are_and_does_not_wrap(tmp_path: Path) -> None:
    long = "gated recurrent units " * 6
    (tmp_path / "e.yaml").write_text(EXPERIMENT % long)
    done = run_cli(["status", "e.yaml"], tmp_path, environment=PIPE)
    assert (done.returncode, done.stderr) == (3, "")  # all is still to come
    rows = [line for line in done.stdout.splitlines() if "seed 0" in line]
    assert "AD [/old] :x:, seed 0" in rows[0] and f"[bold]{long}, seed 0" in rows[1] and len(rows) == 2
    assert f"logs are under {tmp_path}/runs" in done.stdout


def test_names_of_files_control_no_terminal(tmp_path: Path) -> None:
    done = run_cli(["config", "show", "a\x1b[31m:x:[b]\u202e.yaml"], tmp_path, environment=PIPE)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: a\\x1b[31m:x:[b]\\u202e.yaml: no such file\n"


def test_messages_in_a_pipe_are_one_line(tmp_path: Path) -> None:
    name = "/".join(["folder"] * 30)
    done = run_cli(["config", "show", f"{name}/a.yaml"], tmp_path, environment=PIPE)
    assert done.stderr.splitlines() == [
        f"error: {name}/a.yaml: no such file (its folder {name} is not there either)"
    ]


def test_paths_with_an_equals_sign_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=1.yaml").write_text("seed: 3\n")
    words = ["sweeps/lr=1e-3/cell.yaml", "lr=1.yaml", "seed=1", "train.init_from_ad=a/b.yaml", "none=1.yaml"]
    files, overrides = split_files(words)
    assert files == [Path("sweeps/lr=1e-3/cell.yaml"), Path("lr=1.yaml")]
    assert overrides == words[2:]


def test_a_tilde_after_an_option_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert _with_home("--root=~/x") == "--root=/home/someone/x"
    assert [_with_home(w) for w in ("--root=x~", "report.title=~", "~", "--json")] == [
        "--root=x~", "report.title=~", "~", "--json"
    ]  # fmt: skip


def test_what_the_system_says_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to("runs")
    (tmp_path / "e.yaml").write_text(EXPERIMENT % "x")
    done = run_cli(["report", "e.yaml"], tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: cannot ") and "Errno" not in done.stderr
    said = str(disk_error(PermissionError(13, "Permission denied"), Path("x/DONE"), "reach"))
    assert (
        said
        == "cannot reach x/DONE: Permission denied (errno 13); ask its owner for the permission to read it"
    )
    assert "the disk is full" in str(disk_error(OSError(28, "No space left"), Path("x"), "reach"))


def test_a_home_that_is_not_there(tmp_path: Path) -> None:
    done = run_cli(["train", "--root=~nobody-at-all/x"], tmp_path)
    assert (done.returncode, done.stderr) == (
        2, "error: ~nobody-at-all/x: no home is known for '~nobody-at-all'\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("gpu", "error: --device gpu: choose cpu, cuda, cuda:N (a number) or auto\n"),
        ("mps", "error: --device mps: choose cpu, cuda, cuda:N (a number) or auto\n"),
        ("cuda:99", "error: --device cuda:99: torch finds "),
    ],
)
def test_a_device_that_is_not_there(device: str, says: str, tmp_path: Path) -> None:
    done = run_cli(["train", "--device", device], tmp_path)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_json_of_status_is_still_json(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(EXPERIMENT % "x")
    done = run_cli(["status", "e.yaml", "--json"], tmp_path)
    assert [cell["label"] for cell in json.loads(done.stdout)] == ["AD [/old] :x:", "[bold]x"]
