"""As many steps an update for every model, whatever its window."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cad.errors import UsageError
from cad.experiments.plan.experiment import open_experiment

ARMS = [
    {"name": "AD", "set": {"model.kind": "ad"}, "grid": {"model.n_transit": [40, 300]}},
    {
        "name": "C",
        "set": {"model.kind": "compressed_ad", "model.n_transit": 40},
        "grid": {"model.max_compression_depth": [1, 3]},
    },
    {"name": "own", "set": {"model.kind": "ad", "model.n_transit": 40, "train.batch_size": 5}},
]


def opened(tmp_path: Path, **more: object):
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump({"name": "e", "arms": ARMS, **more}))
    return open_experiment(path, [], tmp_path)


def test_the_batch_follows_from_the_window(tmp_path: Path) -> None:
    cells = opened(tmp_path, steps_per_update=3200).cells
    # Depth 1 unrolls two segments of 40 steps, depth 3 four; an arm's own batch size stays.
    assert [cell.config.train.batch_size for cell in cells] == [80, 11, 40, 20, 5]
    plain = opened(tmp_path, base={"train": {"batch_size": 80}}).cells[0]
    assert cells[0].training.name == plain.training.name


def test_two_owners_of_the_batch_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"e\.yaml:\d+: .*steps_per_update chooses train\.batch_size, which"):
        opened(tmp_path, steps_per_update=3200, base={"train": {"batch_size": 80}})
