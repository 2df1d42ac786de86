"""The benchmarks run, and their JSON and exit codes say what they measured; speed itself is not tested."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "throughput.py"


def surroundings() -> dict[str, str]:
    """One thread; scripts find what lies beside them, whatever commands of this process have set."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return {**kept, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One quick run, in a process of its own: it pins itself to one core."""
    file = tmp_path_factory.mktemp("benchmark") / "numbers.json"
    words = [sys.executable, str(SCRIPT), "--quick", "--check", "--json", str(file)]
    run = subprocess.run(words, capture_output=True, text=True, check=False, env=surroundings())
    return run, file


def test_quick_run_measures_everything(quick: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    run, file = quick
    assert file.exists(), run.stderr
    numbers = json.loads(file.read_text())
    assert numbers["quick"] is True
    assert numbers["threads"] == 1
    parts = [(r["part"], r["expected"]) for r in numbers["results"]]
    assert parts == [
        ("collection", 10.0),
        ("collection", None),
        *[("training", 50.0), ("training", None)] * 2,
        *[("variants", None)] * 4,
        ("roll-outs", 20.0),
        ("roll-outs", None),  # AD's window drops as many steps at once in both
        ("roll-outs", 20.0),
    ]
    shares = [row["share"] for row in numbers["results"] if row["part"] in ("training", "roll-outs")]
    assert all(share > 0 for share in shares)
    for row in numbers["results"]:
        for side in ("ours", "reference"):
            assert all(math.isfinite(row[side][clock]) and row[side][clock] > 0 for clock in ("cpu", "wall"))
        assert row["ratio"] == pytest.approx(row["ours"]["cpu"] / row["reference"]["cpu"])
    assert [g["name"] for g in numbers["growth"]] == ["AD", "CompressedAD"]


def test_check_fails_exactly_when_something_is_below_expectation(
    quick: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    run, file = quick
    numbers = json.loads(file.read_text())
    short = [r for r in numbers["results"] if r["expected"] and r["ratio"] < r["expected"]]
    short += [g for g in numbers["growth"] if g["ratio"] > 1.2]
    assert numbers["ok"] == (not short)
    assert run.returncode == int(bool(short)), run.stderr


def test_report_benchmark_writes_a_sweep_and_measures_its_report(tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    words = [sys.executable, str(SCRIPT.with_name("report_speed.py")), "--quick", "--json", str(file)]
    run = subprocess.run(
        [*words, "--folder", str(tmp_path)], capture_output=True, text=True, check=False, env=surroundings()
    )
    assert file.exists(), run.stderr
    numbers = json.loads(file.read_text())
    assert numbers["cells"] == 2 and numbers["cpu_seconds"] > 0 and 0 < numbers["memory_gb"] < 2
    assert 0 < numbers["checksum_share"] < 0.02
    assert run.returncode == int(not numbers["ok"])
    report = json.loads((tmp_path / "runs" / "made-up" / "report" / "report.json").read_text())
    assert [cell["status"] for cell in report["cells"]] == ["done", "done"]


def test_the_adapter_is_compared_with_a_plain_loop(tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    words = [sys.executable, str(SCRIPT.with_name("adapter.py")), "--quick", "--check", "--json", str(file)]
    run = subprocess.run(words, capture_output=True, text=True, check=False, env=surroundings())
    assert file.exists(), run.stderr
    numbers = json.loads(file.read_text())
    rows = numbers["results"]
    assert [row["env"] for row in rows] == ["FrozenLake-v1", "CartPole-v1", "Acrobot-v1", "Pendulum-v1"]
    assert all(row["cost"] == pytest.approx(row["plain"] / row["ours"]) for row in rows)
    assert run.returncode == int(any(row["cost"] > 1.5 for row in rows)) == int(not numbers["ok"])


def test_the_script_for_a_gpu_runs_on_a_cpu(tmp_path: Path) -> None:
    file, figure = tmp_path / "numbers.json", tmp_path / "figure.png"
    words = [sys.executable, str(SCRIPT.with_name("gpu.py")), "--quick", "--json", str(file)]
    run = subprocess.run(
        [*words, "--figure", str(figure)], capture_output=True, text=True, check=False,
        env=surroundings(),
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    numbers = json.loads(file.read_text())
    assert numbers["quick"] is True and figure.stat().st_size > 1000
    assert numbers["equality"]["packed_and_single"] < 1e-5
    assert (
        numbers["equality"]["device_and_cpu"] == 0.0 and numbers["equality"]["equal_episode_returns"] == 1.0
    )
    assert [row["pack"] for row in numbers["packs"]["rows"]] == [1, 2, 1]
    assert numbers["ablation"]["models"] == 2
    assert all(isinstance(row, dict) for row in numbers["engines"].values()), numbers["engines"]


def test_packing_measures_every_size(tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    words = [sys.executable, str(SCRIPT.with_name("packing.py")), "--quick", "--json", str(file)]
    run = subprocess.run(words, capture_output=True, text=True, check=False, env=surroundings())
    assert run.returncode == 0, run.stderr
    rows = json.loads(file.read_text())["results"]
    assert [(row["kind"], row["differ"], row["pack"]) for row in rows] == [
        (kind, differ, pack)
        for kind, differ in (
            ("AD", "rates"),
            ("CompressedAD", "rates"),
            ("CompressedAD", "seeds"),
            ("linear attention", "rates"),
        )
        for pack in (1, 2)
    ]
    assert all(math.isfinite(row["models_an_hour"]) and row["models_an_hour"] > 0 for row in rows)
    assert all(row["ratio"] == 1 for row in rows if row["pack"] == 1)


def test_packing_measures_unequal_trainings(tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    words = [sys.executable, str(SCRIPT.with_name("packing.py")), "--quick", "--unequal", "--json", str(file)]
    run = subprocess.run(words, capture_output=True, text=True, check=False, env=surroundings())
    assert run.returncode == 0, run.stderr
    found = json.loads(file.read_text())["unequal"]
    assert found["ratio"] > 0 and 1 <= found["ideal"] <= 2 and "times as fast" in run.stdout


def test_two_commits_are_measured_in_turns(tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    words = [sys.executable, str(SCRIPT.with_name("against.py")), str(SCRIPT.parents[1]), "--quick"]
    run = subprocess.run(
        [*words, "--json", str(file)], capture_output=True, text=True, check=False, env=surroundings()
    )
    assert run.returncode == 0, run.stderr
    rows = json.loads(file.read_text())["rows"]
    assert [row["name"] for row in rows] == [
        f"{what} {model}{how}"
        for model in ("AD", "CompressedAD")
        for what, how in (("training", ""), ("roll-outs", ", 8 parallel"))
    ]
    assert all(row["ratio"] == row["now"] / row["before"] > 0 for row in rows)


def test_depth_is_measured_with_and_without_checkpointing(tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    words = [sys.executable, str(SCRIPT.with_name("depth.py")), "--quick", "--json", str(file)]
    run = subprocess.run(words, capture_output=True, text=True, check=False, env=surroundings())
    assert run.returncode == 0, run.stderr
    rows = json.loads(file.read_text())["rows"]
    assert [(row["depth"], row["steps"]) for row in rows] == [(0, 640), (1, 1280)]
    assert all(row[how]["seconds"] > 0 <= row[how]["bytes"] for row in rows for how in ("kept", "again"))
