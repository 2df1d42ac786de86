"""The training loop: what it learns, records and refuses; a stop changes no result."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from packs import CPU, assert_same, final_state, records

from cad.errors import CadError
from cad.histories.batch import Batch
from cad.histories.sampler import HistoryArrays
from cad.interrupt import InterruptedRun, StopFlag
from cad.models.objective import action_loss
from cad.models.registry import MODELS
from cad.schema import Config
from cad.training.learner import build_training, training_objective, training_sampler
from cad.training.metrics import read_metrics

KINDS = list(MODELS)


class Killed(Exception):
    """Stands for SIGKILL: nothing is saved on the way out."""


class DisturbedSampler:
    """Calls ``disturb`` when the batch of update ``at`` is drawn."""

    def __init__(self, sampler, at, disturb):
        self.sampler, self.at, self.disturb = sampler, at, disturb

    def batch(self, update: int, *where) -> Batch:
        if update == self.at:
            self.disturb()
        return self.sampler.batch(update, *where)


def run(
    config: Config,
    arrays: HistoryArrays,
    folder: Path,
    at: int = -1,
    kill: bool = False,
    validate=None,
    **options,
):
    """Train a fresh model; at update ``at`` a stop is asked for, or the process dies. Returns the model."""
    stop = StopFlag()

    def disturb() -> None:
        if kill:
            raise Killed
        stop.request()

    fresh = build_training(config, arrays)
    disturbed = dataclasses.replace(fresh, sampler=DisturbedSampler(fresh.sampler, at, disturb))
    if validate is not None:
        options["validate"] = lambda: validate(fresh.model)
    fresh.model.summary = disturbed.fit(folder, **{"run_id": "run", "device": CPU, "stop": stop, **options})
    return fresh.model


def assert_same_run(a: Path, b: Path) -> None:
    assert any(name.startswith("optimiser/") and name.endswith("exp_avg_sq") for name in final_state(a))
    assert_same(a, b)


@pytest.fixture
def stochastic(tiny_config):
    """Configs that use every source of chance: dropout, burn-in, gaps, segment lengths."""

    def make(kind: str, optimizer: str = "adamw") -> Config:
        burn_in = 2 if "train.burn_in" in MODELS[kind].other_settings else 0
        train = {"label_smoothing": 0.1, "burn_in": burn_in, "optimizer": optimizer}
        return tiny_config(kind, model={"dropout": 0.2}, train=train)

    return make


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        ("ad", "muon"),
        ("compressed_ad", "muon"),
        ("compressed_ad", "adamw"),
        ("region_ad", "muon"),
        ("gru", "adamw"),
    ],
)
@pytest.mark.parametrize("stops", [(0,), (9,), (12,), (3, 12, 18)], ids=str)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    kind, optimizer, stops, stochastic, toy_histories, tmp_path
):
    config = stochastic(kind, optimizer)
    run(config, toy_histories, tmp_path / "whole")
    for at in stops:
        with pytest.raises(InterruptedRun, match=rf"update {at + 1} of 20"):
            run(config, toy_histories, tmp_path / "stopped", at)
    model = run(config, toy_histories, tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    stored = final_state(tmp_path / "stopped")
    assert all(torch.equal(tensor, stored[f"model/{name}"]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "train"),
    [("gru", {}), ("linear_attention", {}), ("compressed_ad", {"depth_curriculum": 0.8})],
    ids=["gru", "linear_attention", "curriculum"],
)
def test_a_stop_between_two_metric_lines_changes_nothing(kind, train, tiny_config, toy_histories, tmp_path):
    config = tiny_config(kind, train=train)
    run(config, toy_histories, tmp_path / "whole")
    with pytest.raises(InterruptedRun):
        run(config, toy_histories, tmp_path / "stopped", 7)
    run(config, toy_histories, tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("at", [0, 7, 14, 19])
def test_a_killed_run_equals_an_uninterrupted_one(at, stochastic, toy_histories, tmp_path):
    config = stochastic("compressed_ad")
    run(config, toy_histories, tmp_path / "whole")
    with pytest.raises(Killed):
        run(config, toy_histories, tmp_path / "killed", at, kill=True)
    run(config, toy_histories, tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_cut_checkpoint_costs_its_interval_only(stochastic, toy_histories, tmp_path, caplog):
    config = stochastic("compressed_ad")
    run(config, toy_histories, tmp_path / "whole")
    with pytest.raises(InterruptedRun):
        run(config, toy_histories, tmp_path / "cut", at=13)
    state = tmp_path / "cut" / "checkpoints" / "00000014" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    run(config, toy_histories, tmp_path / "cut")
    assert "00000014 is damaged" in caplog.text
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_another_seed_is_another_run(tiny_config, toy_histories, tmp_path):
    run(tiny_config(), toy_histories, tmp_path / "a")
    run(tiny_config(seed=1), toy_histories, tmp_path / "b")
    assert records(tmp_path / "a") != records(tmp_path / "b")


def test_a_stop_in_the_last_update_still_finishes(tiny_config, toy_histories, tmp_path):
    model = run(tiny_config(), toy_histories, tmp_path, at=19)
    assert model.summary.updates == 20


def test_a_finished_run_is_not_trained_again(tiny_config, toy_histories, tmp_path):
    first = run(tiny_config(), toy_histories, tmp_path)
    again = run(tiny_config(), toy_histories, tmp_path, at=0, kill=True)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert again.summary.updates == 20
    assert again.summary.supervised_actions == first.summary.supervised_actions
    assert again.summary.seconds == pytest.approx(first.summary.seconds, abs=0.5)


def test_a_run_of_another_config_is_refused(tiny_config, toy_histories, tmp_path):
    run(tiny_config(), toy_histories, tmp_path)
    with pytest.raises(CadError, match="another config"):
        run(tiny_config(), toy_histories, tmp_path, run_id="other")


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind, tiny_config, toy_histories, tmp_path):
    settings = {"n_updates": 120, "log_every": 20, "checkpoint_every": 120}
    run(tiny_config(kind, train=settings), toy_histories, tmp_path)
    first, *_, last = records(tmp_path)[1:]
    assert first["loss"] > 0.5
    assert last["loss"] < 0.1
    assert last["accuracy"] > 0.98


def test_metrics_say_what_they_should(tiny_config, toy_histories, tmp_path):
    settings = {"n_updates": 12, "validate_every": 10, "depth_weights": (1, 1, 6), "watchdog_share": 1}
    config = tiny_config(train=settings)
    validated, seen = [], []

    def validate(model):
        validated.append(model.training)
        return 0.25

    model = run(
        config,
        toy_histories,
        tmp_path,
        validate=validate,
        progress=lambda step, _values: seen.append(step),
    )
    start, *lines = read_metrics(tmp_path / "metrics.jsonl")
    shares = {f"sample_share_depth_{k}": pytest.approx(1 / 3) for k in range(3)}
    weights = {f"loss_weight_depth_{k}": pytest.approx(w / 8) for k, w in enumerate((1, 1, 6))}
    assert start == {"step": 0, **shares, **weights}
    assert [line["step"] for line in lines] == seen == [5, 10, 12]
    for line in lines:
        by_depth = [line[f"loss_depth_{k}"] for k in range(3)]
        accuracy = [line[f"accuracy_depth_{k}"] for k in range(3)]
        assert line["loss"] == pytest.approx(np.dot(by_depth, [1, 1, 6]) / 8, rel=1e-5)
        assert line["accuracy"] == pytest.approx(np.mean(accuracy))
        assert 0 < line["gradient_norm"] < 100
        assert line["supervised_actions_per_second"] > 0
        assert line["tokens_per_second"] == pytest.approx(line["supervised_actions_per_second"])
    assert lines[-1]["learning_rate"] == pytest.approx(
        1e-2 * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * 0.9)))
    )
    assert ["validation_return" in line for line in lines] == [False, True, True]
    assert validated == [False, False]  # in eval mode
    assert model.training
    assert model.summary.updates == 12


def test_checkpoints_are_where_the_config_says(tiny_config, toy_histories, tmp_path):
    config = tiny_config(train={"checkpoint_every": 5, "keep_checkpoints": 3})
    run(config, toy_histories, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "00000010", "00000015", "00000020",
    ]  # fmt: skip


def test_the_checkpoint_of_the_best_validation_is_kept(tiny_config, toy_histories, tmp_path):
    config = tiny_config(train={"keep_checkpoints": 1, "validate_every": 5, "checkpoint_every": 20})

    def validations(*values):
        left = list(values)
        return lambda _model: left.pop(0)

    with pytest.raises(InterruptedRun):
        run(config, toy_histories, tmp_path, at=16, validate=validations(0.2, 0.5, 0.4))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["00000010", "00000017"]
    run(config, toy_histories, tmp_path, validate=validations(0.45))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["00000010", "00000020"]
    meta = json.loads((tmp_path / "checkpoints" / "00000020" / "meta.json").read_text())
    assert meta["best"] == [10, 0.5]


def test_the_watchdog_stops_a_run_that_diverges(tiny_config, toy_histories, tmp_path):
    config = tiny_config(train={"learning_rate": 1e9})
    with pytest.raises(CadError, match=r"diverged: .* at update 5; lower train.learning_rate \(now 1e\+09\)"):
        run(config, toy_histories, tmp_path)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_watchdog_stops_a_run_at_chance_level(smoothing, tiny_config, toy_histories, tmp_path):
    noise = np.random.default_rng(1).integers(0, 5, toy_histories.actions.shape, dtype=np.uint8)
    arrays = dataclasses.replace(toy_histories, actions=noise)
    settings = {"watchdog_share": 0.5, "label_smoothing": smoothing, "learning_rate": 1e-3}
    config = tiny_config(train=settings)
    with pytest.raises(
        CadError, match=r"does not learn: loss 1\.\d+ after 10 of 20 .*learning_rate"
    ) as caught:
        run(config, arrays, tmp_path)
    # What it says of how to switch it off is what does.
    assert "train.watchdog_share: null trains to the end" in str(caught.value)
    run(tiny_config(train=settings | {"watchdog_share": None}), arrays, tmp_path / "without")
    assert records(tmp_path / "without")[-1]["step"] == 20


def test_the_watchdog_lets_a_run_pass_that_learned_under_label_smoothing(
    tiny_config, toy_histories, tmp_path
):
    """With smoothing 0.9 even a perfect model's smoothed loss stays near chance level."""
    settings = {"n_updates": 60, "label_smoothing": 0.9, "checkpoint_every": 60, "watchdog_share": 1}
    run(tiny_config("ad", train=settings), toy_histories, tmp_path)
    assert records(tmp_path)[-1]["accuracy"] > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_stays_finite_and_close_to_fp32(kind, tiny_config, toy_histories, tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        model = run(tiny_config(kind, train={"precision": precision}), toy_histories, tmp_path / precision)
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
        losses.append([record["loss"] for record in records(tmp_path / precision)[1:]])
    assert losses[0] != losses[1]  # it is in effect
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_gradients_are_clipped(tiny_config, toy_histories, tmp_path):
    # AdamW's first step hides the gradient's size; its first moment shows it.
    with pytest.raises(InterruptedRun):
        run(tiny_config(train={"grad_clip": 1e-3, "optimizer": "adamw"}), toy_histories, tmp_path, at=0)
    state = final_state(tmp_path)
    moments = [t for name, t in state.items() if name.endswith("/exp_avg")]
    norm = float(torch.sqrt(sum(m.square().sum() for m in moments)))
    assert norm == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_supervised_actions_are_counted(tiny_config, toy_histories, tmp_path):
    config = tiny_config(train={"burn_in": 1})
    batches = [training_sampler(config, toy_histories).batch(update) for update in range(20)]
    lengths = [batch.segment_length for batch in batches]
    assert len(set(lengths)) > 2
    with pytest.raises(InterruptedRun):
        run(config, toy_histories, tmp_path, at=12)
    summary = run(config, toy_histories, tmp_path).summary
    assert summary.supervised_actions == sum(8 * 3 * length for length in lengths)


def random_logits(batch: Batch, segments: int) -> torch.Tensor:
    B, T = batch.actions.shape
    rng = torch.Generator().manual_seed(3)
    return torch.randn(B, segments, T // segments, 5, generator=rng, requires_grad=True)


def test_depth_weights_weigh(tiny_config, random_batch):
    batch = random_batch(4, 24, 8)
    logits = random_logits(batch, 3)
    log_p = logits.log_softmax(-1).flatten(1, 2).gather(-1, batch.actions[..., None])[..., 0]
    by_hand = -log_p.view(4, 3, 8).mean(dim=(0, 2)).detach()
    assert len(set(by_hand.tolist())) == 3
    equal, by_segment, accuracy = action_loss([logits], batch, tiny_config().train)
    torch.testing.assert_close(by_segment, by_hand)
    torch.testing.assert_close(equal.detach(), by_hand.mean())
    right = (logits.argmax(-1).flatten(1) == batch.actions).float().view(4, 3, 8).mean(dim=(0, 2))
    torch.testing.assert_close(accuracy, right)
    weighted, *_ = action_loss([logits], batch, tiny_config(train={"depth_weights": (0, 1, 3)}).train)
    torch.testing.assert_close(weighted.detach(), (by_hand[1] + 3 * by_hand[2]) / 4)
    weighted.backward()
    reached = logits.grad.abs().sum(dim=(0, 2, 3))
    assert reached[0] == 0
    assert (reached[1:] > 0).all()


def test_a_last_segment_of_another_length_counts_as_one_segment(tiny_config, random_batch):
    batch = dataclasses.replace(random_batch(4, 3 * 8 + 3, 8, 1), uncompressed_length=3)
    rng = torch.Generator().manual_seed(3)
    blocks = [torch.randn(4, 2, 8, 5, generator=rng), torch.randn(4, 1, 3, 5, generator=rng)]
    log_p = torch.cat([block.log_softmax(-1).flatten(1, 2) for block in blocks], dim=1)
    by_step = -log_p.gather(-1, batch.actions[:, 8:, None])[..., 0]
    by_hand = torch.stack([by_step[:, :8].mean(), by_step[:, 8:16].mean(), by_step[:, 16:].mean()])
    loss, by_segment, accuracy = action_loss(blocks, batch, tiny_config().train)
    torch.testing.assert_close(by_segment, by_hand)
    torch.testing.assert_close(loss, by_hand.mean())
    assert accuracy.shape == (3,)
    assert training_objective(tiny_config())(tuple(blocks), batch).supervised == 4 * (2 * 8 + 3)


def test_trains_with_a_last_segment_of_its_own_length(tiny_config, toy_histories, tmp_path):
    lengths = {"min_uncompressed_length": 2, "max_uncompressed_length": 4}
    run(tiny_config(model=lengths), toy_histories, tmp_path)
    assert all(math.isfinite(record["loss"]) for record in records(tmp_path)[1:])


def test_segments_of_the_burn_in_carry_no_loss(tiny_config, random_batch):
    batch = random_batch(4, 40, 8, 2)
    logits = random_logits(random_batch(4, 24, 8), 3)
    shortened = dataclasses.replace(batch, actions=batch.actions[:, 16:], burn_in=0)
    config = tiny_config()
    assert torch.equal(
        action_loss([logits], batch, config.train)[0], action_loss([logits], shortened, config.train)[0]
    )


def test_label_smoothing_mixes_in_all_actions(tiny_config, random_batch):
    batch = random_batch(4, 8)
    logits = random_logits(batch, 1)
    log_p = logits.detach().log_softmax(-1)[:, 0]
    plain = -log_p.gather(-1, batch.actions[..., None]).mean()
    smooth, by_segment, _ = action_loss(
        [logits], batch, tiny_config("ad", train={"label_smoothing": 0.3}).train
    )
    torch.testing.assert_close(smooth.detach(), 0.7 * plain - 0.3 * log_p.mean())
    # Reported losses exclude smoothing, so that they are comparable between settings.
    torch.testing.assert_close(by_segment[0], plain)
