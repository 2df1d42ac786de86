"""`cad run` stopped: killed in the middle, interrupted, run twice at once."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path


def start(file: Path, root: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cad.cli", "run", str(file), "--root", str(root), "--no-report", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def test_killed_at_a_random_moment_ends_with_the_same_numbers(cad, one, finished, same_results, tmp_path):
    process = start(one, tmp_path, "--workers", "2")
    try:
        process.wait(timeout=random.Random(5).uniform(3, 12))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the runner and all its workers, without warning
    process.communicate()
    again = cad("run", one, "--root", tmp_path, "--workers", "2", "--no-report")
    assert again.returncode == 0, again.stderr
    same_results(tmp_path, finished)
    for metrics in (tmp_path / "stages").glob("train-*/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
        assert steps == [0, *range(5, 121, 5)]


def test_interrupt_saves_and_second_run_is_refused_meanwhile(cad, one, finished, same_results, collected):
    process = start(one, collected, "--workers", "2")
    deadline = time.time() + 400
    while not list((collected / "stages").glob("train-*/progress.json")) and time.time() < deadline:
        time.sleep(0.05)
    second = cad("run", one, "--root", collected)
    assert second.returncode == 1
    assert "is in use by process" in second.stderr
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode in (0, 130), errors.decode()
    assert b"Traceback" not in errors
    if process.returncode == 130:
        assert b"run the same command again to go on" in errors
        assert re.search(rb"stopped: .*: saved at update [0-9]+", output), output.decode()
        assert b"failed" not in output
    third = cad("run", one, "--root", collected, "--no-report")
    assert third.returncode == 0, third.stderr
    same_results(collected, finished)


def test_workers_end_when_their_runner_is_killed(one, collected):
    process = start(one, collected, "--workers", "2")
    deadline = time.time() + 400
    while not list((collected / "stages").glob("train-*/.lock")) and time.time() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    deadline = time.time() + 120
    while time.time() < deadline and _members(process.pid):
        time.sleep(0.2)
    assert not _members(process.pid)


def _members(group: int) -> list[int]:
    actual = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            actual.append(int(stat.parent.name))
    return actual
