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
from typing import IO

from cad.experiments.run.local_launcher import PRELOADED

ENVIRONMENT = {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
# What commands import, so that children find it imported.
_HEAVY = (
    "cad.experiments.reporting.report",
    "cad.experiments.run.stages",
    "cad.training.learner",
    "torch._dynamo",
)


def run_cli(
    words: Sequence[str],
    cwd: Path | None = None,
    timeout: float = 800,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """``cad *words`` in a child of this process; raises ``TimeoutExpired`` as :mod:`subprocess` does.

    ``environment`` is added to the child's, but not to that of the stages of ``cad run``.
    """
    with StartedCli(words, cwd, environment) as child:
        return child.wait(timeout)


class StartedCli:
    """``cad *words`` in a child of this process, which goes on beside it; the end of the block ends it."""

    def __init__(
        self, words: Sequence[str], cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        for module in _HEAVY:
            importlib.import_module(module)
        if multiprocessing.forkserver._forkserver._forkserver_pid is None:
            os.environ.update(ENVIRONMENT)
            multiprocessing.forkserver.set_forkserver_preload(PRELOADED)
            multiprocessing.forkserver.ensure_running()
        self._words = list(words)
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - both are closed at the end of the block
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self._code: int | None = None
        gc.freeze()
        self._pid = os.fork()
        if self._pid == 0:
            _become_cli(self._words, cwd, environment or {}, self._out.fileno(), self._err.fileno())

    def __enter__(self) -> StartedCli:
        return self

    def __exit__(self, *_: object) -> None:
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        self._out.close()
        self._err.close()

    @property
    def stdout(self) -> str:
        """What it has written by now."""
        return _text(self._out)

    def wait(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Its outcome; raises ``TimeoutExpired`` after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
                texts = (_text(self._out), _text(self._err))
                return subprocess.CompletedProcess(["cad", *self._words], self._code, *texts)
            time.sleep(0.01)
        raise subprocess.TimeoutExpired(["cad", *self._words], timeout)


def _text(file: IO[bytes]) -> str:
    """A file's text, read without moving the place where the child writes."""
    descriptor = file.fileno()
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode().replace("\r\n", "\n")


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
