"""The report of a model that decides when to compress."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cad.reports import CellResult, Provenance, write_report
from cad.schema import Config, ReportConfig

Make = Callable[..., CellResult]


def region_cell(cell: Make, on_compress: str = "drop", **changes: object) -> CellResult:
    config = Config.model_validate(
        {"model": {"kind": "region_ad", "n_transit": 328, "on_compress": on_compress, "n_latent": 7}}
    )
    compression_steps = np.full((8, 8, 3), -1, dtype=np.int32)
    chosen = np.zeros(compression_steps.shape, dtype=bool)
    compression_steps[:, :, :2], chosen[:, :, :2] = (80, 160), True
    compression_steps[0, 0], chosen[0, 0] = (90, 252, 300), (True, False, True)
    label = f"RegionAD, {on_compress}"
    values = {
        "label": label,
        "arm": label,
        "config": config,
        "compression_steps": compression_steps,
        "chosen": chosen,
    }
    return cell(**(values | changes))


def test_compression_times_are_described_and_drawn(tmp_path: Path, cell: Make, origin: Provenance) -> None:
    cells = [region_cell(cell), region_cell(cell, "latents"), cell(kind="ad", window=80)]
    page = write_report("r", ReportConfig(), cells, None, origin, tmp_path, figures=False)
    written = json.loads((tmp_path / "report.json").read_text())
    assert "regions" in {figure["name"] for figure in written["figures"]}
    rows = {name: written["tables"][name]["rows"] for name in ("region_moments", "region_lengths")}
    mine = [row[2:] for row in rows["region_moments"] if row[0] == "RegionAD, drop"]
    assert mine == [[80, 63, 0], [90, 1, 0], [160, 63, 0], [252, 0, 1], [300, 1, 0]]
    mine = [row[2:] for row in rows["region_lengths"] if row[0] == "RegionAD, drop"]
    assert mine == [[48, 1, 0], [80, 126, 0], [90, 1, 0], [162, 0, 1]]
    text = (
        "RegionAD, drop closed 99.2% of its 129 regions itself, after 80 steps in the median (5% to 95%: "
        "80 to 80); it was trained on regions of 80."
    )
    assert text in page.read_text()
    actual = [(c["window"], c["max_compression_depth"], c["n_latent"]) for c in written["cells"]]
    assert actual == [(160, None, None), (160, 3, 7), (80, None, None)]
    assert "with window 160" in written["headline"] or "window 160, depth 3, 7 latents" in written["headline"]


def test_results_without_recorded_compression_steps(tmp_path: Path, cell: Make, origin: Provenance) -> None:
    cells = [region_cell(cell, compression_steps=None, chosen=None)]
    write_report("r", ReportConfig(), cells, None, origin, tmp_path, figures=False)
    written = json.loads((tmp_path / "report.json").read_text())
    assert "regions" not in {figure["name"] for figure in written["figures"]}
    assert "region_moments" not in written["tables"]


def test_a_model_that_never_compressed(tmp_path: Path, cell: Make, origin: Provenance) -> None:
    none = {
        "compression_steps": np.zeros((8, 8, 0), dtype=np.int32),
        "chosen": np.zeros((8, 8, 0), dtype=bool),
    }
    cells = [region_cell(cell, **none)]
    page = write_report("r", ReportConfig(), cells, None, origin, tmp_path, figures=False).read_text()
    assert 'id="figure-regions"' not in page and 'id="figure-learning"' in page
