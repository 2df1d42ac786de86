"""Trainings that unroll many compressions: a curriculum over depth, and activation checkpointing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cad.interrupt import StopFlag
from cad.models.compressed_ad.curriculum import DepthCurriculum
from cad.training.learner import Learner, build_training, training_sampler
from cad.training.metrics import read_metrics

DEEP = {"model": {"max_compression_depth": 5, "max_compress_length": 8}}


@pytest.mark.parametrize(
    ("segments", "share", "expected"),
    [
        (8, 0.75, [1] * 4 + [2] * 4 + [4] * 4 + [8] * 4),
        (6, 0.75, [1] * 4 + [2] * 4 + [4] * 4 + [6] * 4),
        (2, 0.5, [1] * 8 + [2] * 8),
        (5, 0.0, [5] * 16),
    ],
)
def test_segments_double_up_to_all(segments, share, expected):
    curriculum = DepthCurriculum(segments, share, n_updates=16)
    assert [curriculum.segments(update) for update in range(16)] == expected


def test_windows_grow_with_the_update(tiny_config, toy_histories):
    train = {"depth_curriculum": 0.75, "n_updates": 16}
    model = {**DEEP["model"], "min_compress_length": 8}
    sampler = training_sampler(tiny_config(model=model, train=train), toy_histories)
    lengths = [sampler.batch(update).actions.shape[1] for update in range(16)]
    assert lengths == [8] * 4 + [16] * 4 + [32] * 4 + [48] * 4


def test_metrics_are_of_the_depths_that_were_trained(tiny_config, toy_histories, tmp_path):
    train = {"depth_curriculum": 0.5, "n_updates": 20, "depth_weights": [1, 2, 5]}
    learner = build_training(tiny_config(train=train), toy_histories)
    learner.fit(tmp_path, run_id="run", device=torch.device("cpu"), stop=StopFlag())
    start, *lines = read_metrics(tmp_path / "metrics.jsonl")
    assert start == {"step": 0, **{f"loss_weight_depth_{k}": w / 8 for k, w in enumerate((1, 2, 5))}}
    # Updates 1 to 5 have one segment, 6 to 10 two, the others three.
    for line, weights in zip(lines, ([1], [1, 2], [1, 2, 5], [1, 2, 5]), strict=True):
        by_depth = [line[key] for key in line if key.startswith("loss_depth_")]
        assert len(by_depth) == len(weights)
        expected = sum(w * loss for w, loss in zip(weights, by_depth, strict=True)) / sum(weights)
        assert line["loss"] == pytest.approx(expected)
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]


def test_a_depth_that_only_some_updates_had_is_averaged_over_them(tiny_config, toy_histories, random_batch):
    learner = build_training(tiny_config(train={"depth_curriculum": 0.5}), toy_histories)
    columns = [
        learner.objective(learner.model(random_batch(4, n * 8, 8)), random_batch(4, n * 8, 8)).columns
        for n in (1, 3)
    ]
    means = torch.stack(columns).mean(0).tolist()
    values = learner.objective.values(means)
    assert values["loss_depth_2"] == pytest.approx(float(columns[1][2]))
    assert values["loss_depth_0"] == pytest.approx(float(columns[0][0] + columns[1][0]) / 2)
    assert values["accuracy_depth_1"] == pytest.approx(float(columns[1][4]))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"reconstruction_weight": 0.1},
            "depth_curriculum and train.reconstruction_weight do not go together",
        ),
        ({"depth_weights": [0, 1, 1]}, "begins with depth 0, whose train.depth_weights is zero"),
    ],
)
def test_a_curriculum_that_begins_with_nothing_is_refused(train, message, tiny_config):
    with pytest.raises(ValueError, match=message):
        tiny_config(train={"depth_curriculum": 0.5, **train})


def kept_bytes_and_gradients(learner: Learner) -> tuple[int, dict[str, Tensor]]:
    """What the forward pass keeps for the backward pass, weights not counted, and the gradients."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in learner.model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = learner.sampler.batch(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = learner.objective(learner.trained(batch), batch).loss
    loss.backward()
    return sum(kept.values()), {n: p.grad for n, p in learner.model.named_parameters()}


@pytest.mark.parametrize("last", [{}, {"min_uncompressed_length": 3, "max_uncompressed_length": 3}])
def test_activation_checkpointing_keeps_little_and_changes_no_gradient(last, tiny_config, toy_histories):
    (plain, expected), (little, gradients) = (
        kept_bytes_and_gradients(
            build_training(
                tiny_config(model={**DEEP["model"], **last}, train={"activation_checkpointing": again}),
                toy_histories,
            )
        )
        for again in (False, True)
    )
    assert little < plain / 5
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6)
        assert gradient.abs().max() > 0, name
