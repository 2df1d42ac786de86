"""`cad evaluate --trace`: every compression is printed, now or from what is stored."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from cad.evaluation.results import load_results
from cad.experiments.plan.cells import Cell
from cad.experiments.run.local_run import run_cell
from cad.models.registry import MODELS
from cad.schema import Config

# Of the small experiment, whose histories are there: models that hardly train.
CHANGES = """
model: {n_embd: 16, n_layer: 1, n_head: 2, encoder_n_layer: 1, n_transit: 20, n_latent: 2,
        max_compression_depth: 1, compress_interval: 20}
train: {n_updates: 2, batch_size: 4, validate_every: 0, watchdog_share: null}
evaluation: {n_episodes: 7, n_rollouts: 2}
"""
CASES = {
    "ad": ({}, "0 compressions in 6 roll-outs: ad does not compress, it drops the oldest 5 steps"),
    "compressed_ad": (
        {},
        "18 compressions in 6 roll-outs, 0 by </compress>, 18 because a window was full",
    ),
    "compressed_ad, depth 0": (
        {"max_compression_depth": 0},
        "0 compressions in 6 roll-outs: at max_compression_depth=0 a full window is forgotten",
    ),
    "region_ad": ({"n_transit": 44}, "compressions in 6 roll-outs, "),
}


@pytest.fixture(scope="module")
def root(with_histories, tmp_path_factory) -> Path:
    return with_histories(tmp_path_factory.mktemp("trace") / "runs")


def evaluate(config: Config, root: Path, trace: bool = True) -> tuple[Path, list[str]]:
    """Where the results are, and the lines that were printed."""
    out = io.StringIO()
    path = run_cell(Cell("", "", config), "evaluate", root, 1, "cpu", Console(file=out), trace=trace)
    return path, out.getvalue().splitlines()


@pytest.mark.parametrize("case", CASES)
def test_every_compression_is_printed_as_it_happens_and_again_from_what_is_stored(case, cad, small, root):
    changes, summary = CASES[case]
    settings = yaml.safe_load(small.read_text())["base"] | yaml.safe_load(CHANGES)
    kind = case.partition(",")[0]
    keys = MODELS[kind].config_class.model_fields
    settings["model"] = {k: v for k, v in settings["model"].items() if k in keys} | {"kind": kind, **changes}
    config = Config.model_validate(settings)
    path, printed = evaluate(config, root)
    lines = [line for line in printed if line.startswith("step ")]
    stored = load_results(path / "returns.h5")
    assert {int(line.split()[1]) for line in lines} == set(
        stored.compression_steps[stored.compression_steps > 0].tolist()
    )
    assert bool(lines) == (stored.compressions.sum() > 0) == (not summary.startswith("0 "))
    assert summary in printed[-1]
    assert any("done: evaluate" in line for line in printed)
    _, again = evaluate(config, root)
    assert again[-len(lines) - 1 :] == [*lines, printed[-1]]
    assert again[0].startswith("evaluated before; from ")
    assert evaluate(config, root, trace=False)[1] == []
    if case == "region_ad":
        file = root / "cell.yaml"
        file.write_text(yaml.safe_dump(settings))
        done = cad("evaluate", file, "--root", root, "--trace")
        assert done.stdout.splitlines()[: len(again)] == again
