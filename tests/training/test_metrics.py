"""The metrics of a training on disk."""

from __future__ import annotations

import pytest

from cad.errors import CadError
from cad.training.metrics import MetricsLog, read_metrics


def write(folder, step, *steps):
    with MetricsLog(folder, step) as metrics:
        for number in steps:
            metrics.write(number, {"loss": number / 10, "accuracy": 0.25})


def steps_in(folder):
    return [record["step"] for record in read_metrics(folder / "metrics.jsonl")]


def test_lines_come_back(tmp_path):
    write(tmp_path, 0, 5, 10)
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 5, "loss": 0.5, "accuracy": 0.25},
        {"step": 10, "loss": 1.0, "accuracy": 0.25},
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_going_on_drops_what_came_later(tmp_path):
    write(tmp_path, 0, 5, 10, 15)
    write(tmp_path, 10, 15, 20)
    assert steps_in(tmp_path) == [5, 10, 15, 20]


def test_a_last_line_cut_short_is_left_out(tmp_path):
    write(tmp_path, 0, 5, 10)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-8])
    assert steps_in(tmp_path) == [5]
    write(tmp_path, 5, 10)
    assert steps_in(tmp_path) == [5, 10]


def test_a_damaged_line_is_named(tmp_path):
    write(tmp_path, 0, 5, 10)
    path = tmp_path / "metrics.jsonl"
    path.write_text("{bad\n" + path.read_text())
    with pytest.raises(CadError, match=r"metrics\.jsonl is damaged \(line 1 "):
        read_metrics(path)


NO_RECORDS = [b"\xff\xfe\n", b"[1]\n", b"{}\n", b'{"step": "5"}\n', b"[" * 20000 + b"\n"]


@pytest.mark.parametrize("content", NO_RECORDS)
def test_what_is_no_record_is_named(content, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(CadError, match=r"metrics\.jsonl is damaged \(line 1 "):
        read_metrics(path)


def test_no_file_is_no_record(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []
