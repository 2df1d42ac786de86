"""Ctrl-C ends a command with exit code 130 and without a traceback, whatever it is doing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from cad.cli import cluster
from cad.interrupt import InterruptedRun

# Ctrl-C comes while a module of the program, or the program itself, is being imported.
IMPORTED = """
import os, signal, sys

class Pressed:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Pressed())
sys.argv[1:] = [sys.argv[1], "status"]
from cad.cli import main
main()
"""


@pytest.mark.parametrize("module", ["cad.cli.app", "typer", "cad.cli.cluster", "rich.table"])
def test_while_it_is_imported(module):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, module], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_at_the_question(monkeypatch):
    def confirm(_question):
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", confirm)
    with pytest.raises(InterruptedRun, match="nothing was submitted"):
        cluster._confirm("Submit anyway?")
