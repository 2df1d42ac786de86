"""What stages will cost: from measured rates, of finished stages or of a moment's calibration."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cad.errors import CadError
from cad.experiments.cost import calibration
from cad.experiments.cost.estimate import (
    Allocation,
    Estimate,
    Rate,
    Rates,
    estimate,
    rate_key,
    steps_of,
    work_of,
)
from cad.experiments.durations import duration_in_words
from cad.experiments.plan.cells import Cell, distinct_stages
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.run.attempt import StageAttempt
from cad.experiments.run.pack_plan import work_of as training_work
from cad.experiments.run.pack_size import training_bytes
from cad.models.blocks.costs import encoder_work


@pytest.fixture
def training(tiny_config):
    """``training(depth, latents)``: a CompressedAD's training."""

    def make(depth=2, latents=3, **sections):
        model = {"max_compression_depth": depth, "n_latent": latents}
        return Cell("", "", tiny_config(model=model, **sections)).training

    return make


def rate(stage, seconds, factor=1.0):
    """One of the stage's kind whose steps, of ``factor`` times the work, took ``seconds`` each."""
    return Rate(rate_key(stage, "cpu"), factor * work_of(stage), 1 / seconds, "finished")


def seconds_a_step(rates, stage):
    return 1 / Rates(rates).of(stage, "cpu").steps_per_second


def test_the_last_of_a_chain_under_a_throttle(tiny_config):
    cells = [Cell("", "", tiny_config(seed=seed)) for seed in range(5)]
    stages = distinct_stages(tuple(cells))
    lengths = {"histories": 10, "train": 5, "evaluate": 1}
    rates = Rates(rate(stage, lengths[stage.kind] / steps_of(stage)) for stage in stages)

    def seconds(limits):
        return estimate(stages, lambda stage: Allocation(pool=stage.kind), rates, limits).seconds

    # Three rounds of two trainings, then the last one's evaluation.
    assert seconds({"histories": 1, "train": 2, "evaluate": 9}) == pytest.approx(10 + 3 * 5 + 1)
    assert seconds({}) == pytest.approx(10 + 5 + 1)
    assert estimate([], lambda _: Allocation(), rates, {}).seconds == 0


def test_what_waits_for_its_inputs_takes_no_workers_place(tiny_config):
    """As in the runner: with an evaluation at each place that waits, the second training would wait too."""
    cells = [Cell("", "", tiny_config(seed=seed)) for seed in range(2)]
    stages = distinct_stages(tuple(cells))
    assert [stage.kind for stage in stages] == ["histories", "train", "evaluate", "train", "evaluate"]
    lengths = {"histories": 10, "train": 5, "evaluate": 1}
    rates = Rates(rate(stage, lengths[stage.kind] / steps_of(stage)) for stage in stages)

    def seconds(workers):
        return estimate(stages, lambda stage: Allocation(alone=stage.kind == "histories"), rates,
                        {"": workers}).seconds  # fmt: skip

    assert seconds(2) == pytest.approx(10 + 5 + 1)
    assert seconds(1) == pytest.approx(10 + 2 * 5 + 2 * 1)


def test_beside_a_collection_nothing_runs(tiny_config):
    one, other = (Cell("", "", tiny_config(source={"seed": seed})) for seed in range(2))
    stages = (*one.stages[:2], *other.stages[:2])
    rates = Rates(
        rate(stage, {"histories": 10, "train": 5}[stage.kind] / steps_of(stage)) for stage in stages
    )
    given = {"histories": Allocation(alone=True), "train": Allocation()}

    def seconds(stages):
        return estimate(stages, lambda stage: given[stage.kind], rates, {"": 2}).seconds

    # The first training runs before the second collection, or waits for it; never both at once.
    assert seconds(stages) == pytest.approx(10 + 5 + 10 + 5)
    assert seconds(sorted(stages, key=lambda stage: stage.kind)) == pytest.approx(10 + 10 + 5)
    assert estimate(stages, lambda _: Allocation(), rates, {"": 2}).seconds == pytest.approx(15)


def test_work_grows_with_depth_latents_and_batch(training):
    assert work_of(training(depth=0)) < work_of(training(depth=1)) < work_of(training(depth=2))
    assert work_of(training(latents=2)) < work_of(training(latents=8))
    assert work_of(training(train={"batch_size": 16})) == 2 * work_of(training(train={"batch_size": 8}))


@pytest.mark.parametrize("kind", ["gru", "linear_attention"])
def test_a_burn_in_costs_a_third_as_it_has_no_backward_pass_and_takes_no_memory(kind, tiny_config):
    def cell(burn_in):
        return Cell("", "", tiny_config(kind, train={"burn_in": burn_in}))

    # Up to b segments are one half of b on average; 60 steps have room for six of 8 before a window.
    for burn_in, expected in ((2, 1 + 1 / 3), (6, 2), (50, 2)):
        for work in (work_of, training_work):
            ratio = work(cell(burn_in).training) / work(cell(0).training)
            assert ratio == pytest.approx(expected)
        assert training_bytes(cell(burn_in).config) == training_bytes(cell(0).config)


def test_of_a_burn_in_of_segments_only_the_encoder_works(tiny_config):
    def work(burn_in):
        config = tiny_config(model={"min_compress_length": 8}, train={"burn_in": burn_in})
        return work_of(Cell("", "", config).training), encoder_work(config.model, 8)

    without, encoded = work(0)
    # 60 steps hold seven segments of 8, three of which carry loss; eight windows a batch.
    for burn_in, most in ((2, 2), (4, 4), (50, 4)):
        assert work(burn_in)[0] == pytest.approx(without + 8 * most / 2 * encoded / 3)


def test_a_rate_is_exact_where_measured_and_in_proportion_elsewhere(training):
    stage = training()
    measured = [rate(stage, 3.0), rate(stage, 9.0), rate(stage, 2.0)]
    assert seconds_a_step(measured, stage) == pytest.approx(3.0)
    assert seconds_a_step([rate(stage, 3.0, factor=2)], stage) == pytest.approx(1.5)
    assert seconds_a_step([rate(stage, 3.0, factor=0.5)], stage) == pytest.approx(6)
    assert seconds_a_step([rate(stage, 1.0, factor=0.5), rate(stage, 4.5, factor=1.5)], stage) == (
        pytest.approx(3)  # from the nearer one
    )


def test_what_says_nothing_of_a_stage_is_not_used(training):
    stage = training()
    assert Rates([rate(stage, 3.0, factor=5)]).of(stage, "cpu") is None
    assert Rates([rate(stage, 3.0)]).of(stage, "cuda") is None
    other = training(train={"optimizer": "adamw"})
    assert Rates([rate(other, 3.0)]).of(stage, "cpu") is None


def test_hours_by_kind_and_by_device(tiny_config):
    cell = Cell("", "", tiny_config())
    histories, train, evaluate = cell.stages
    rates = [Rate(rate_key(train, "cuda"), work_of(train), 1 / 180, "finished"), rate(histories, 0.25)]
    given = {
        "histories": Allocation(cores=10, workers=10),
        "train": Allocation("cuda", cores=8, gpus=4, ranks=4),
        "evaluate": Allocation(),
    }
    actual = estimate(cell.stages, lambda stage: given[stage.kind], Rates(rates), {})
    # 25 tasks on 10 workers: three rounds of 100 streams x 60 steps.
    assert actual.core_hours == {"histories": pytest.approx(10 * 3 * 6000 * 0.25 / 3600)}
    assert actual.gpu_hours == {"train": pytest.approx(4 * 20 * 180 / 4 / 3600)}
    assert actual.seconds == pytest.approx(3 * 6000 * 0.25 + 20 * 180 / 4)
    assert actual.unknown == {"evaluate": 1} and actual.sources == ("finished",)
    assert steps_of(evaluate) == 50 * 5
    assert str(actual) == (
        "1 GPU-hours (train 1) and 12 core-hours (histories 12) and 1 evaluate that could not be measured; "
        "done in 1 h 30 min (rates: finished)"
    )
    assert "done in 1 h 30 min without queueing (rates" in actual.in_words(" without queueing")


@pytest.mark.parametrize(
    ("actual", "above"),
    [
        (Estimate({"train": 3}, {"train": 4}, 1, (), {}), {3.9: True, 4.0: False}),
        (Estimate({"train": 3, "evaluate": 2}, {}, 1, (), {}), {4.9: True, 5.0: False}),
        (Estimate({}, {}, 0, (), {"train": 1}), {1e9: True}),
    ],
)
def test_above_a_number_of_hours(actual, above):
    assert {hours: actual.exceeds(hours) for hours in above} == above


def test_durations_in_words():
    actual = [duration_in_words(seconds) for seconds in (0.2, 89, 91, 89 * 60, 2 * 3600, 50 * 3600)]
    assert actual == ["1 s", "89 s", "2 min", "89 min", "2 h 00 min", "2 d 2 h"]


def test_finished_stages_tell_their_own_time(small, finished, monkeypatch):
    monkeypatch.setattr(calibration, "calibrate", lambda *_: pytest.fail("nothing is left to measure"))
    stages = distinct_stages(open_experiment(small, ["seeds=[0,1]"], finished).cells)
    assert len(stages) == 1 + 2 * 6
    rates = calibration.measured_rates(finished, stages, lambda _: "cpu")
    stored = calibration.finished_rates(finished)
    assert len(stored) == 7 and {rate.source for rate in stored} == {"finished"}
    ad = next(stage for stage in stages if stage.kind == "train" and stage.config.model.kind == "ad")
    record = StageDirectory(finished, ad.name).record()
    expected = steps_of(ad) / rates.of(ad, "cpu").steps_per_second
    assert expected == pytest.approx(record["train_seconds"])


def test_markers_of_other_versions_are_passed_over(tmp_path, training):
    for number, marker in enumerate(["", "{}", '{"train_seconds": 1}', '{"train_seconds": 1, "updates": 0}']):
        attempt = StageAttempt(tmp_path, training(latents=1 + number))
        attempt.claim()
        attempt.file(StageFile.DONE).write_text(marker)
    assert calibration.finished_rates(tmp_path) == []


KINDS = {
    "compressed_ad": {"train": {"validate_every": 5, "validation_episodes": 2, "validation_rollouts": 1},
                      "pretrain": {"enabled": True}},
    "region_ad": {},
    "ad": {"train": {"learning_rate": 1e9}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_measures_every_kind_of_stage(tiny_config, monkeypatch, tmp_path, caplog, kind):
    monkeypatch.setattr(calibration, "_SECONDS", 0.02)
    stages = Cell("", "", tiny_config(kind, **KINDS[kind])).stages
    rates = calibration.measured_rates(tmp_path, stages, lambda _: "cpu")
    assert "cannot be measured" not in caplog.text
    assert all(0.1 < rates.of(stage, "cpu").steps_per_second < 1e8 for stage in stages)
    actual = estimate(stages, lambda _: Allocation(), rates, {})
    assert actual.sources == ("calibration",)
    assert set(actual.core_hours) == {stage.kind for stage in stages} and not actual.unknown


def test_what_was_measured_is_kept_for_the_next_call(training, monkeypatch, tmp_path):
    measured = training()
    monkeypatch.setattr(calibration, "calibrate", lambda stage, _device: rate(stage, 3.0))
    first = calibration.measured_rates(tmp_path, [measured], lambda _: "cpu")
    monkeypatch.setattr(calibration, "calibrate", lambda *_: pytest.fail("measured again"))
    again = calibration.measured_rates(tmp_path, [measured], lambda _: "cpu")
    actual = again.of(measured, "cpu")
    assert actual is not None and actual == first.of(measured, "cpu")


def test_no_watchdog_judges_a_calibration(tiny_config, monkeypatch):
    """What it learns from is made up: it stays at chance level for as long as it is measured."""
    monkeypatch.setattr(calibration, "_SECONDS", 0.2)
    training = Cell("", "", tiny_config("ad", train={"n_updates": 5, "watchdog_share": 0.2})).training
    assert calibration.calibrate(training, "cpu").steps_per_second > 0


def test_capturing_a_graph_is_no_update(monkeypatch):
    """On a GPU some updates capture graphs and take as long as a hundred others."""
    took = [0.0, 0.5, *[0.01] * 9, 0.4, *[0.01] * 50]
    ticks = iter(np.cumsum(took).tolist())
    watch = calibration._Stopwatch(torch.device("cpu"), graphs=True)
    monkeypatch.setattr(watch, "_clock", lambda: next(ticks))
    done = 0
    while not watch.stop():
        done += 1
        watch(done)
    assert done < 30 and watch.seconds_a_step == pytest.approx(0.01)


@pytest.mark.parametrize(("train", "graphs"), [({}, True), ({"engine": "accelerate"}, False)])
def test_updates_are_measured_as_they_will_be_made(train, graphs, tiny_config, monkeypatch):
    seen = []
    monkeypatch.setattr(calibration, "_update_seconds", lambda learner, _: seen.append(learner.has_graphs))
    calibration._train(tiny_config("ad", train=train), torch.device("cuda"))
    assert seen == [graphs]


def test_what_cannot_be_measured_here_stays_unknown(training, monkeypatch, tmp_path, caplog):
    def fails(*_):
        raise CadError("too large")

    monkeypatch.setattr(calibration, "calibrate", fails)
    rates = calibration.measured_rates(tmp_path, [training()], lambda _: "cpu")
    assert estimate([training()], lambda _: Allocation(), rates, {}).unknown == {"train": 1}
    assert f"how long {training().name} takes cannot be measured here: too large" in caplog.text


def test_a_dry_run_says_what_is_left_to_pay(cad, small, finished):
    done = cad("run", small, "--root", finished, "--dry-run")
    assert "estimate" not in done.stdout
    more = cad("run", small, "seeds=[0,1]", "--root", finished, "--dry-run")
    line = next(line for line in more.stdout.splitlines() if line.startswith("estimate: "))
    assert "core-hours (train " in line and "(rates: finished)" in line
    assert not json.loads((finished / "small/experiment.json").read_text())["experiment"]["seeds"][1:]
