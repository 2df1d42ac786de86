"""Help and tables come at once: they load no numerical library, and take little CPU time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["torch", "matplotlib", "scipy", "h5py", "stable_baselines3", "gymnasium", "submitit"]
CPU_SECONDS, TRIES = 0.5, 10
# Of importing the libraries that the command line is made of, on an idle machine, where `status` took 0.33 s.
LIBRARIES, LIBRARY_SECONDS = "import pydantic, rich.table, typer, yaml", 0.14
QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"

CALL = """
import atexit, json, sys
heavy = sys.argv.pop(1).split()
atexit.register(lambda: print(json.dumps([name for name in heavy if name in sys.modules]), file=sys.stderr))
from cad.cli import main
main()
"""


@pytest.fixture(params=["help", "status"])
def words(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    return {"help": ["--help"], "status": ["status", str(QUICKSTART), "--root", str(tmp_path)]}[request.param]


def test_nothing_heavy_is_loaded(words: list[str]) -> None:
    command = [sys.executable, "-c", CALL, " ".join(HEAVY), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr  # 3: `status` of what is still to come
    assert json.loads(done.stderr.splitlines()[-1]) == []
    assert len(done.stdout.splitlines()) > 5


def cpu_seconds(*words: str) -> float:
    """CPU time, user and system, of a Python process of its own."""
    # With compiled modules, as an installed package has them: the first try may write them.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, env=environment)
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    assert process.returncode in (0, 3)
    return usage.ru_utime + usage.ru_stime


def test_the_answer_takes_little_time(words: list[str]) -> None:
    """One of several runs is quick enough, as others on the machine slow single runs down.

    On a slow or busy machine the limit grows as much as the import of libraries does.
    """
    libraries, seconds = [], []
    for _ in range(TRIES):
        libraries.append(cpu_seconds("-c", LIBRARIES))
        seconds.append(cpu_seconds("-m", "cad.cli", *words))
        if min(seconds) < CPU_SECONDS * max(1, min(libraries) / LIBRARY_SECONDS):
            return
    pytest.fail(f"{seconds} s of CPU; libraries alone: {libraries}")
