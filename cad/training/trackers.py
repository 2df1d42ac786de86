"""Trackers of experiments that a training also writes its metrics to: views, like TensorBoard's files.

They write into the training's own folder unless their own variables name a server (``WANDB_MODE=online``,
``MLFLOW_TRACKING_URI``).  What they cannot do never ends a training: it is said once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard.writer import SummaryWriter

from cad.errors import UsageError, first_line

log = logging.getLogger(__name__)

_PROJECT = "cad"
_SECONDS = 20  # to wait for a server


class Tracker(Protocol):
    """A view of one training's metrics."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Show ``values`` at ``step``."""

    def close(self) -> None:
        """Write what is left."""


def open_trackers(names: Sequence[str], folder: Path, run_id: str, step: int) -> list[Tracker]:
    """The trackers of a training in ``folder`` that goes on after ``step``.

    Raises :class:`UsageError` for one whose package is not installed.
    """
    # Neither client is to tell its makers that it runs.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    for name in names:
        try:
            import_module(_PACKAGES[name])
        except ImportError as error:
            raise UsageError(
                f"train.loggers names {name}, which is not installed ({first_line(error)}); "
                "pip install 'cad[trackers]', or leave it out"
            ) from error
    return [
        _TensorBoard(folder, step)
        if name == "tensorboard"
        else _Tolerant(name, lambda name=name: _CLIENTS[name](folder, run_id))  # type: ignore[misc]
        for name in names
    ]


class _TensorBoard:
    """TensorBoard's files; a disk that is full ends the training, as for the record."""

    def __init__(self, folder: Path, step: int) -> None:
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._board.add_scalar(key, value, step)

    def close(self) -> None:
        self._board.close()


class _WandB:
    """Weights & Biases; offline, what ``wandb sync`` sends is in the folder ``wandb``."""

    def __init__(self, folder: Path, run_id: str) -> None:
        wandb = import_module("wandb")
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, x_disable_stats=True, init_timeout=_SECONDS
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT), id=run_id, name=run_id, dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"), resume="allow", settings=settings,
        )  # fmt: skip

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """MLflow; without a server, in the folder ``mlruns``."""

    def __init__(self, folder: Path, run_id: str) -> None:
        # A server that is not there is given up soon; files need no database.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_SECONDS))
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._metric = import_module("mlflow.entities").Metric
        where = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlruns").absolute().as_uri()
        self._client = client = import_module("mlflow.tracking").MlflowClient(tracking_uri=where)
        experiment = client.get_experiment_by_name(_PROJECT)
        number = client.create_experiment(_PROJECT) if experiment is None else experiment.experiment_id
        runs = client.search_runs([number], f"tags.cad_stage = '{run_id}'")
        run = runs[0] if runs else client.create_run(number, run_name=run_id, tags={"cad_stage": run_id})
        self._run: str = run.info.run_id

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [self._metric(k, v, now, step) for k, v in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._run)


_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow.tracking"}
_CLIENTS: dict[str, Callable[[Path, str], Tracker]] = {"wandb": _WandB, "mlflow": _MLflow}


class _Tolerant:
    """A tracker that is left out from its first error on, which is said."""

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self._name = name
        self._tracker: Tracker | None = None
        self._tracker = self._try(make)

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # a client's own errors, of the network and of files
            log.warning(
                "train.loggers: %s fails (%s: %s); the training goes on without it",
                self._name, type(error).__name__, first_line(error),
            )  # fmt: skip
            self._tracker = None
            return None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if (tracker := self._tracker) is not None:
            self._try(lambda: tracker.write(step, values))

    def close(self) -> None:
        if (tracker := self._tracker) is not None:
            self._try(tracker.close)
