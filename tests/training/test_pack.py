"""Packs: several trainings in one process are what each is alone, but for rounding."""

from __future__ import annotations

from functools import partial

import pytest
import safetensors.torch
import torch
from packs import ALIKE, CPU, alone, assert_close, assert_same, compare, counted, packed, records, variants

from cad.errors import CadError
from cad.interrupt import InterruptedRun, StopFlag
from cad.models.registry import MODELS
from cad.training.learner import build_training
from cad.training.packed.calls import bags_as_product
from cad.training.packed.captured import CapturedStack
from cad.training.packed.loop import train_together
from cad.training.packed.shape import pack_key
from cad.training.packed.stack import Stack


@pytest.mark.parametrize("kind", MODELS)
def test_a_pack_of_three_is_three_trainings(kind, tiny_config, toy_histories, tmp_path):
    compare(variants(tiny_config, kind), toy_histories, tmp_path)


@pytest.mark.parametrize(("kind", "optimizer"), [*((kind, "adamw") for kind in MODELS), ("ad", "muon")])
def test_over_200_updates(kind, optimizer, tiny_config, toy_histories, tmp_path):
    tolerance = {"adamw": {}, "muon": {"losses": 1e-2, "weights": 1.0}}[optimizer]
    configs = variants(
        tiny_config, kind, n_updates=200, log_every=50, checkpoint_every=100, optimizer=optimizer
    )
    compare(configs, toy_histories, tmp_path, **tolerance)


@pytest.mark.parametrize(
    ("kind", "model", "train"),
    [
        ("compressed_ad", {}, {"optimizer": "muon", "burn_in": 2, "gradient_accumulation": 2}),
        ("compressed_ad", {"latent_update": "gated"}, {"burn_in": 2}),
        ("linear_attention", {}, {"burn_in": 2}),
        ("gru", {}, {"burn_in": 2}),
        ("compressed_ad", ALIKE, {"reconstruction_weight": 0.5, "burn_in": 2}),
        ("compressed_ad", {**ALIKE, "norm": "post"}, {"label_smoothing": 0.1}),
        ("compressed_ad", {}, {"depth_curriculum": 0.8}),
        ("ad", {"step_embedding": "cell", "n_sink": 2}, {"loss_on": "last"}),
    ],
    ids=["lengths", "gated", "linear", "gru", "reconstruction", "post-norm", "curriculum", "sinks"],
)
def test_ways_of_training(kind, model, train, tiny_config, toy_histories, tmp_path):
    configs = variants(tiny_config, kind, model, **train)
    compare(configs, toy_histories, tmp_path, losses=1e-4 if "optimizer" in train else 1e-5)


def test_bf16(tiny_config, toy_histories, tmp_path):
    configs = variants(tiny_config, "ad", precision="bf16")
    compare(configs, toy_histories, tmp_path, losses=1e-2, weights=1e-2)


def test_a_pack_of_unequal_losses_and_lengths(tiny_config, toy_histories, tmp_path):
    configs = [
        tiny_config(
            "ad",
            seed=seed,
            train={"n_updates": n, "label_smoothing": smoothing, "log_every": 1, "watchdog_share": None},
        )
        for seed, (n, smoothing) in enumerate([(4, 0.0), (9, 0.2), (6, 0.0)])
    ]
    compare(configs, toy_histories, tmp_path, losses=1e-4, weights=1e-2)
    left = packed(configs, toy_histories, [tmp_path / "pack" / name for name in "012"])
    assert list(left) == ["0", "1", "2"]  # finished before: nothing is trained again


@pytest.mark.parametrize("way", ["stacked", "captured"])
@pytest.mark.parametrize("kind", ["ad", "compressed_ad", "region_ad"])
def test_each_counts_its_own_predictions(kind, way, tiny_config, toy_histories, tmp_path, request):
    if way == "captured":
        request.getfixturevalue("captured")
    configs = [
        tiny_config(kind, seed=seed, model=ALIKE if kind == "compressed_ad" else {},
                    train={"n_updates": 4, "log_every": 1, "optimizer": "adamw", "loss_on": loss_on,
                           "watchdog_share": None})
        for seed, loss_on in enumerate(("all", "last"))
    ]  # fmt: skip
    compare(configs, toy_histories, tmp_path, weights=1e-3)
    assert counted(tmp_path / "pack" / "0") > counted(tmp_path / "pack" / "1")


@pytest.mark.parametrize("way", [partial(Stack, vmapped=True), CapturedStack], ids=["stacked", "captured"])
def test_a_model_that_leaves_keeps_no_others_in_memory(way, tiny_config, toy_histories, tmp_path):
    trainings = [
        build_training(tiny_config("ad", seed=seed), toy_histories).training(tmp_path, run_id="x", device=CPU)
        for seed in range(3)
    ]
    stack = way(trainings)
    stack.update()
    before = [p.clone() for p in trainings[1].model.parameters()]
    sums = trainings[1].sums.tensor.clone()
    stack.keep([0, 2])
    stack.update()
    assert torch.equal(trainings[1].sums.tensor, sums)
    assert all(map(torch.equal, trainings[1].model.parameters(), before))
    for tensor in (trainings[1].sums.tensor, *trainings[1].model.parameters()):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert [training.step for training in trainings] == [2, 1, 2]


@pytest.mark.parametrize("kind", ["ad", "compressed_ad"])
def test_a_pack_is_stopped_and_goes_on(kind, tiny_config, toy_histories, tmp_path):
    configs = variants(tiny_config, kind, optimizer="muon")
    whole, stopped = ([tmp_path / way / name for name in "abc"] for way in ("whole", "stopped"))
    packed(configs, toy_histories, whole)
    with pytest.raises(InterruptedRun, match="training of 3 models together stopped"):
        packed(configs, toy_histories, stopped, at=6)
    assert all(max((folder / "checkpoints").iterdir()).name == "00000007" for folder in stopped)
    alone(configs[2], toy_histories, stopped[2])  # one goes on alone, and two together
    packed(configs[:2], toy_histories, stopped[:2])
    assert_close(whole[2], stopped[2], losses=1e-4, weights=1e-2)
    for a, b in zip(whole[:2], stopped[:2], strict=True):
        assert_close(a, b, losses=1e-4, weights=1e-2)


def test_the_same_pack_resumed_is_equal_to_the_bit(tiny_config, toy_histories, tmp_path):
    configs = variants(tiny_config, "compressed_ad", optimizer="muon")
    whole, stopped = ([tmp_path / way / name for name in "abc"] for way in ("whole", "stopped"))
    packed(configs, toy_histories, whole)
    for at in (2, 6):
        with pytest.raises(InterruptedRun):
            packed(configs, toy_histories, stopped, at=at)
    packed(configs, toy_histories, stopped)
    for a, b in zip(whole, stopped, strict=True):
        assert_same(a, b)


def test_what_began_alone_goes_on_in_a_pack(tiny_config, toy_histories, tmp_path):
    configs = variants(tiny_config, "ad")
    alone(configs[1], toy_histories, tmp_path / "whole" / "b")
    with pytest.raises(InterruptedRun):
        alone(configs[1], toy_histories, tmp_path / "b", at=5)
    # The others of the pack begin: models need not be at the same update.
    outcomes = packed(configs, toy_histories, [tmp_path / name for name in "abc"])
    assert list(outcomes) == ["b", "a", "c"]
    assert_close(tmp_path / "whole" / "b", tmp_path / "b")


def test_one_that_fails_leaves_the_pack(tiny_config, toy_histories, tmp_path):
    """One diverges, one does not learn, one is of another run: each has its error, and the others go on."""
    configs = [
        *variants(tiny_config, "ad"),
        tiny_config("ad", seed=7, train={"n_updates": 10, "optimizer": "adamw", "learning_rate": 1e9}),
        tiny_config(
            "ad", train={"n_updates": 10, "optimizer": "adamw", "learning_rate": 1e-9, "watchdog_share": 0.5}
        ),
        variants(tiny_config, "ad")[0],
    ]
    folders = [tmp_path / name for name in ("a", "b", "c", "wild", "dull", "other")]
    alone(configs[0], toy_histories, tmp_path / "source")
    (tmp_path / "source").rename(tmp_path / "other")
    outcomes = packed(configs, toy_histories, folders)
    assert {name for name, outcome in outcomes.items() if isinstance(outcome, CadError)} == {
        "wild", "dull", "other",
    }  # fmt: skip
    assert "training diverged: loss" in str(outcomes["wild"])
    assert "training does not learn" in str(outcomes["dull"])
    assert "belongs to another config" in str(outcomes["other"])
    for config, folder in zip(configs[:3], folders[:3], strict=True):
        alone(config, toy_histories, tmp_path / "alone" / folder.name)
        assert_close(tmp_path / "alone" / folder.name, folder)


def test_validation_and_progress_are_each_models_own(tiny_config, toy_histories, tmp_path):
    """The model that is validated has the current weights, in eval mode; its best checkpoint is kept."""
    configs = [
        tiny_config("ad", seed=seed, train={"n_updates": 10, "validate_every": 5, "keep_checkpoints": 1})
        for seed in range(2)
    ]
    folders, stop, seen = [tmp_path / "a", tmp_path / "b"], StopFlag(), []
    trainings = []
    for config, folder in zip(configs, folders, strict=True):
        learner = build_training(config, toy_histories)

        def validate(model=learner.model, name=folder.name) -> float:
            seen.append((name, model.training))
            return -float(sum(p.detach().square().sum() for p in model.parameters()))

        trainings.append(learner.training(folder, run_id=folder.name, device=CPU, validate=validate))
    assert len(list(train_together(trainings, stop))) == 2
    assert seen == [("a", False), ("b", False)] * 2
    for folder in folders:
        state = safetensors.torch.load_file(folder / "checkpoints" / "00000010" / "state.safetensors")
        norm = sum(x.square().sum() for name, x in state.items() if name.startswith("model/"))
        assert records(folder)[-1]["validation_return"] == pytest.approx(-float(norm), rel=1e-5)


def test_which_trainings_go_together(tiny_config):
    first = pack_key(tiny_config())
    assert first is not None
    same = [
        {"model": {"dropout": 0.3}},
        {"train": {"learning_rate": 0.1, "n_updates": 7, "depth_weights": (1, 2, 3), "burn_in": 1}},
        {"env": {"split_seed": 3, "n_validation": 1}, "train": {"validate_every": 5}},
    ]
    assert {pack_key(tiny_config(seed=1, **sections)) for sections in same} == {first}
    others = [
        {"model": {"n_head": 4}},
        {"train": {"batch_size": 4}},
        {"train": {"optimizer": "adamw"}},
        {"train": {"precision": "bf16"}},
        {"train": {"reconstruction_weight": 0.1}},
        {"train": {"depth_curriculum": 0.5}},  # further columns of metrics
        {"env": {"size": 4}},
        {"model": {"embedding_norm": False}},
    ]
    keys = {pack_key(tiny_config(**sections)) for sections in others}
    assert len(keys) == len(others) and first not in keys and None not in keys
    for alone_ in ({"activation_checkpointing": True}, {"compile": True}, {"engine": "accelerate"}):
        assert pack_key(tiny_config(train=alone_)) is None


# --- updates as a GPU computes them --------------------------------------------------------------


def test_bags_are_products_of_counts():
    """How a GPU sums embeddings."""
    torch.manual_seed(0)
    indices = torch.randint(0, 11, (3, 20, 5))
    tables = [torch.randn(3, 11, 8, requires_grad=True) for _ in range(2)]
    tables[1].data.copy_(tables[0].data)
    expected = torch.stack(
        [torch.nn.functional.embedding_bag(i, t, mode="sum") for i, t in zip(indices, tables[0], strict=True)]
    )
    ours = bags_as_product(indices, tables[1])
    assert torch.allclose(ours, expected, atol=1e-6)
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.allclose(tables[0].grad, tables[1].grad, atol=1e-5)
