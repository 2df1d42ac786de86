"""The command line in a forked child: a process of its own, without importing torch once more."""

from __future__ import annotations

import gc
import importlib
import logging
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from cad.experiments.run.local_launcher import PRELOADED

ENVIRONMENT = {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
# What commands import, so that children find it imported.
_HEAVY = ("cad.experiments.reporting.report", "cad.experiments.run.stages", "cad.training.learner")


def run_cli(
    words: Sequence[str],
    cwd: Path | None = None,
    timeout: float = 800,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """``cad *words`` in a child of this process; raises ``TimeoutExpired`` as :mod:`subprocess` does.

    ``environment`` is added to the child's, but not to that of the stages of ``cad run``.
    """
    for module in _HEAVY:
        importlib.import_module(module)
    if multiprocessing.forkserver._forkserver._forkserver_pid is None:
        os.environ.update(ENVIRONMENT)
        multiprocessing.forkserver.set_forkserver_preload(PRELOADED)
        multiprocessing.forkserver.ensure_running()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        gc.freeze()
        child = os.fork()
        if child == 0:
            _become_cli(list(words), cwd, environment or {}, out.fileno(), err.fileno())
        code = _wait(child, words, timeout)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(["cad", *words], code, *texts)


def _wait(child: int, words: Sequence[str], timeout: float) -> int:
    deadline = time.monotonic() + timeout
    ended = False
    try:
        while time.monotonic() < deadline:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                ended = True
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        raise subprocess.TimeoutExpired(["cad", *words], timeout)
    finally:
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _become_cli(
    words: list[str], cwd: Path | None, environment: Mapping[str, str], out: int, err: int
) -> None:
    """Run the command line and end the process; never returns."""
    code = 1
    try:
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 - to the end
        os.environ.update({**ENVIRONMENT, **environment})
        if cwd is not None:
            os.chdir(cwd)
        sys.argv = ["cad", *words]
        # What pytest captures of warnings and logs goes to standard error again.
        importlib.reload(warnings)
        logging.getLogger().handlers.clear()
        # Processes that it starts would import pytest again.
        sys.modules["__main__"] = types.ModuleType("__main__")
        server = multiprocessing.forkserver._forkserver
        if words[:1] == ["run"]:  # its stages, which log to files, are forked from pytest's server
            server.ensure_running = lambda: None
        else:
            server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None
        # Consoles read the environment when they are made.
        for name in [name for name in sys.modules if name == "cad.cli" or name.startswith("cad.cli.")]:
            del sys.modules[name]
        importlib.import_module("cad.cli").main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
