"""`cad evaluate --trace`: every compression is printed, now or from what is stored."""

from __future__ import annotations

import pytest

from cad.evaluation.results import load_results

SETTINGS = """
env: {size: 5, horizon: 10, n_tasks: 6, n_heldout: 2, n_validation: 1}
source: {n_streams: 10, steps_per_stream: 300, n_steps: 20, batch_size: 50, n_epochs: 10, learning_rate: 0.003}
model: {n_embd: 16, n_layer: 1, n_head: 2, encoder_n_layer: 1, n_transit: 20, n_latent: 2,
        max_compression_depth: 1, compress_interval: 20}
train: {n_updates: 2, batch_size: 4, validate_every: 0, watchdog_share: null}
evaluation: {n_episodes: 7, n_rollouts: 2}
"""
KINDS = {
    "ad": "0 compressions in 4 roll-outs: ad does not compress, it drops the oldest 5 steps",
    "compressed_ad": "12 compressions in 4 roll-outs, 0 by </compress>, 12 because a window was full",
    "region_ad": "compressions in 4 roll-outs, ",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    file = tmp_path_factory.mktemp("trace") / "cell.yaml"
    file.write_text(SETTINGS)
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_every_compression_is_printed_as_it_happens_and_again_from_what_is_stored(kind, cad, settings):
    words = ["evaluate", settings, f"model.kind={kind}", "--root", settings.parent]
    words += ["model.n_transit=44"] if kind == "region_ad" else []
    first = cad(*words, "--trace")
    assert first.returncode == 0, first.stderr
    lines = [line for line in first.stdout.splitlines() if line.startswith("step ")]
    stored = load_results(
        next((settings.parent / "stages").glob(first.stdout.split("/")[-1].strip())) / "returns.h5"
    )
    steps = sorted({int(step) for step in stored.moments[stored.moments > 0]})
    assert sorted({int(line.split()[1]) for line in lines}) == steps
    assert bool(lines) == (kind != "ad")
    assert KINDS[kind] in first.stdout
    again = cad(*words, "--trace")
    assert [line for line in again.stdout.splitlines() if line.startswith("step ")] == lines
    assert "evaluated before" in again.stdout
    assert KINDS[kind] in again.stdout
