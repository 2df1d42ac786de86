"""A change of structure changes no number: recorded stage names, and the fingerprint of a small experiment.

`kinds.yaml` has every kind of model, pre-training, a warm start and an auxiliary loss.  Its fingerprint
is recorded for the processors on which it was seen.  Elsewhere rounding differs, so that PPO takes other
actions: there the first losses are compared within 3%.  To record, run this file with CAD_RECORD=1, and
say in the commit why numbers changed.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from cad.config import load
from cad.experiments.plan.cells import expand
from cad.schema import ExperimentConfig
from cad.storage import sha256_json

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECORDED = HERE / "recorded.json"
RELATIVE = 0.03
EXPERIMENTS = sorted([*(ROOT / "experiments").glob("*.yaml"), HERE / "kinds.yaml"])


def recorded() -> dict:
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def record(section: str, key: str, value: object) -> None:
    data = recorded() if RECORDED.exists() else {}
    data.setdefault(section, {})[key] = value
    RECORDED.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def processor() -> str:
    """What decides how sums are rounded, as far as can be told."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line for line in cpuinfo.read_text().splitlines() if line.startswith(("model name", "flags"))
        ]
        model = "|".join(sorted(set(names)))
    settings = {key: value for key, value in os.environ.items() if key.startswith(("OPENBLAS_", "MKL_"))}
    return sha256_json([model, torch.__version__, np.__version__, settings])[:16]


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda path: path.stem)
def test_stage_directories_keep_their_names(file: Path) -> None:
    experiment = load(ExperimentConfig, [file]).value
    names = [
        [cell.label, cell.config.seed, [stage.name for stage in cell.stages]]
        for cell in expand(experiment, str(file))
    ]
    if "CAD_RECORD" in os.environ:
        record("stage_names", file.stem, sha256_json(names))
    assert sha256_json(names) == recorded()["stage_names"][file.stem]


@pytest.mark.timeout(600)
def test_every_kind_and_way_of_training_gives_the_recorded_numbers(cad, tmp_path: Path) -> None:
    done = cad("run", "--inline", HERE / "kinds.yaml", "--root", tmp_path, "--no-figures")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "kinds" / "report" / "report.json").read_text(encoding="utf-8"))
    training = report["tables"]["training"]
    columns = training["columns"]
    label, seed, step, loss = (columns.index(name) for name in ("label", "seed", "step", "loss"))
    first: dict[str, float] = {}
    for row in training["rows"]:
        if row[step] and row[loss] is not None:
            first.setdefault(f"{row[label]}, seed {row[seed]}", row[loss])
    assert len(first) == len(report["cells"])
    if "CAD_RECORD" in os.environ:
        record("fingerprints", processor(), report["fingerprint"])
        record("first_losses", "kinds", first)
    known = recorded()
    if processor() in known["fingerprints"]:
        assert report["fingerprint"] == known["fingerprints"][processor()]
    assert first == pytest.approx(known["first_losses"]["kinds"], rel=RELATIVE)
