"""Trackers of experiments through their own clients, without a network."""

from __future__ import annotations

import json
import logging

import pytest
from mlflow.tracking import MlflowClient

from cad.errors import UsageError
from cad.experiments.plan.cells import Cell
from cad.training import trackers
from cad.training.metrics import MetricsLog, read_metrics

VARIABLES = ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI")


@pytest.fixture(autouse=True)
def _own_variables(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-own"))
    monkeypatch.setattr(trackers, "_SECONDS", 2)


def write(folder, loggers, step, *steps):
    with MetricsLog(folder, step, loggers, "train-0123456789ab") as metrics:
        for number in steps:
            metrics.write(number, {"loss": number / 10, "accuracy": 0.25})


def mlflow_runs(folder):
    client = MlflowClient(tracking_uri=(folder / "mlruns").as_uri())
    number = client.get_experiment_by_name("cad").experiment_id
    return client, client.search_runs([number])


def test_they_write_into_the_folder_and_a_resumed_run_is_the_same(tmp_path):
    write(tmp_path, ["wandb", "mlflow"], 0, 5, 10)
    write(tmp_path, ["wandb", "mlflow"], 10, 15)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [5, 10, 15]
    client, (run,) = mlflow_runs(tmp_path)
    assert run.info.status == "FINISHED" and run.data.tags["mlflow.runName"] == "train-0123456789ab"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(5, 0.5), (10, 1.0), (15, 1.5)]
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-train-0123456789ab.wandb"))
    assert files and all(b"accuracy" in file.read_bytes() for file in files)
    assert not (tmp_path / "tensorboard").exists()


def test_a_run_that_cannot_reach_them_goes_on_and_says_so_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING, "cad"):
        write(tmp_path, ["tensorboard", "wandb", "mlflow"], 0, 5, 10)
    said = [record.getMessage() for record in caplog.records if record.name == "cad.training.trackers"]
    assert [text.partition(" fails")[0] for text in said] == ["train.loggers: wandb", "train.loggers: mlflow"]
    assert all(text.endswith("the training goes on without it") for text in said)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2 and (tmp_path / "tensorboard").exists()


def test_one_that_fails_later_is_left_out(tmp_path, monkeypatch, caplog):
    class Lost:
        calls = 0

        def __init__(self, *_):
            pass

        def write(self, step, values):  # noqa: ARG002
            Lost.calls += 1
            raise ConnectionError("gone")

    monkeypatch.setitem(trackers._CLIENTS, "mlflow", Lost)
    with caplog.at_level(logging.WARNING, "cad"):
        write(tmp_path, ["mlflow"], 0, 5, 10, 15)
    assert Lost.calls == 1 and len(caplog.records) == 1 and "ConnectionError: gone" in caplog.text


def test_a_package_that_is_missing_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers._PACKAGES, "wandb", "no_such_package")
    with pytest.raises(UsageError, match=r"names wandb, which is not installed .*cad\[trackers\]"):
        write(tmp_path, ["wandb"], 0)


def test_stages_are_named_without_them(tiny_config):
    plain = Cell("", "", tiny_config())
    tracked = Cell("", "", tiny_config(train={"loggers": ("wandb", "mlflow")}, pretrain={"loggers": ()}))
    assert [stage.name for stage in plain.stages] == [stage.name for stage in tracked.stages]
    assert "loggers" not in json.dumps([stage.identity for stage in tracked.stages])
    with pytest.raises(ValueError, match="lists one twice"):
        tiny_config(train={"loggers": ("mlflow", "mlflow")})
