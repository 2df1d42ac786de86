"""Learning-rate schedule, which optimiser moves what, and its state as tensors."""

from __future__ import annotations

import math

import pytest
import torch

from cad.config import TrainConfig
from cad.training.learner import build_model
from cad.training.optimiser import Optimiser, rate_factor, step_together

SCHEDULE = TrainConfig(n_updates=110, num_warmup_steps=10, min_lr_ratio=0.1)
OPTIMISERS = ["adamw", "muon"]


@pytest.mark.parametrize(
    ("update", "factor"),
    [
        (0, 0.1),  # warm-up does not start at zero
        (4, 0.5),
        (9, 1.0),
        (10, 1.0),
        (35, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))),
        (60, 0.55),
        (85, 0.1 + 0.9 * 0.5 * (1 + math.cos(3 * math.pi / 4))),
        (110, 0.1),
    ],
)
def test_the_rate_warms_up_and_falls_as_a_cosine(update, factor):
    assert rate_factor(SCHEDULE, update) == pytest.approx(factor)


def test_the_rate_without_warm_up_and_with_nothing_else():
    assert rate_factor(TrainConfig(n_updates=10, num_warmup_steps=0), 0) == 1.0
    only = TrainConfig(n_updates=5, num_warmup_steps=10)
    assert [rate_factor(only, u) for u in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def block_matrix(name: str, parameter: torch.Tensor) -> bool:
    return ".blocks." in name and parameter.ndim == 2


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_only_matrices_decay(optimizer, tiny_config):
    torch.manual_seed(0)
    model = build_model(tiny_config())
    settings = {"learning_rate": 0.2, "muon_learning_rate": 0.4, "weight_decay": 0.5}
    optimiser = Optimiser(model, TrainConfig(optimizer=optimizer, **settings))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step(0.5)
    for name, parameter in model.named_parameters():
        rate = 0.2 if optimizer == "muon" and block_matrix(name, parameter) else 0.1
        shrunk = before[name] * (1 - rate * 0.5) if parameter.ndim >= 2 else before[name]
        torch.testing.assert_close(parameter.detach(), shrunk, msg=name)
        assert parameter.grad is None


def test_adamws_first_step_is_the_rate_in_the_direction_of_the_gradients_sign(tiny_config):
    torch.manual_seed(0)
    model = build_model(tiny_config())
    optimiser = Optimiser(model, TrainConfig(optimizer="adamw", learning_rate=0.2, weight_decay=0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    optimiser.step(0.25)
    for name, parameter in model.named_parameters():
        expected = before[name] - 0.05 * gradients[name].sign()
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-4, msg=name)


def test_muon_orthogonalises_the_updates_of_block_matrices(tiny_config):
    torch.manual_seed(0)
    model = build_model(tiny_config())
    settings = {"learning_rate": 0.2, "muon_learning_rate": 0.5, "weight_decay": 0}
    optimiser = Optimiser(model, TrainConfig(optimizer="muon", **settings))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimiser.step(1.0)
    for name, parameter in model.named_parameters():
        update = (before[name] - parameter).detach()
        if block_matrix(name, parameter):
            # All singular values but tiny ones are about equal, and as large as AdamW's step.
            values = torch.linalg.svdvals(update)
            assert values.max() < 2 * values.median(), name
            assert values.quantile(0.2) > values.median() / 2, name
            assert float(update.square().mean().sqrt()) == pytest.approx(0.5 * 0.2, rel=0.3), name
        else:
            torch.testing.assert_close(update.abs(), torch.full_like(update, 0.2), rtol=0, atol=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_restored_state_continues_bit_for_bit(optimizer, tiny_config):
    config = tiny_config(train={"optimizer": optimizer})

    def updates(model, optimiser, seeds):
        for seed in seeds:
            rng = torch.Generator().manual_seed(seed)
            for name, parameter in model.named_parameters():
                # The encoder learns nothing in the first two updates and so has no state then.
                if seed >= 2 or not name.startswith("encoder."):
                    parameter.grad = torch.randn(parameter.shape, generator=rng)
            optimiser.step(0.5)

    torch.manual_seed(0)
    whole = build_model(config)
    optimiser = Optimiser(whole, config.train)
    updates(whole, optimiser, range(2))
    stored = {name: tensor.clone() for name, tensor in optimiser.tensors().items()}
    assert "decoder.positions/exp_avg_sq" in stored
    assert ("decoder.blocks.layers.0.expand.weight/momentum_buffer" in stored) == (optimizer == "muon")
    assert not any(name.startswith("encoder.") for name in stored)
    resumed = build_model(config)
    resumed.load_state_dict(whole.state_dict())
    second = Optimiser(resumed, config.train)
    second.load_tensors(stored)
    updates(whole, optimiser, range(2, 5))
    updates(resumed, second, range(2, 5))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_beta2_decides_how_far_past_gradients_count(tiny_config):
    def weights_after_three_updates(beta2: float) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = build_model(tiny_config())
        optimiser = Optimiser(model, TrainConfig(optimizer="adamw", beta2=beta2, learning_rate=0.01))
        for size in (1.0, 3.0, 0.5):  # equal gradients would hide it
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, size)
            optimiser.step(1.0)
        return [parameter.detach() for parameter in model.parameters()]

    usual, again, other = map(weights_after_three_updates, (0.98, 0.98, 0.5))
    assert all(torch.equal(a, b) for a, b in zip(usual, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(usual, other, strict=True))


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_a_step_together_is_a_step_of_each(optimizer, tiny_config):
    """Models of different rates, in different updates, one with parameters that got no gradient."""

    def fresh() -> list[tuple[torch.nn.Module, Optimiser]]:
        made = []
        for seed, rate in enumerate((0.1, 0.1, 0.02)):
            torch.manual_seed(seed)
            model = build_model(tiny_config())
            settings = {"learning_rate": rate, "muon_learning_rate": 2 * rate, "weight_decay": 0.1 * seed}
            made.append((model, Optimiser(model, TrainConfig(optimizer=optimizer, **settings))))
        return made

    def give_gradients(model: torch.nn.Module, seed: int, update: int) -> None:
        rng = torch.Generator().manual_seed(10 * update + seed)
        for name, parameter in model.named_parameters():
            if seed != 1 or update != 1 or not name.startswith("encoder."):
                parameter.grad = torch.randn(parameter.shape, generator=rng)

    each, together = fresh(), fresh()
    for update in range(3):
        # The first model joins late.
        factors = [0.5 + 0.1 * seed for seed in range(3)]
        for seed in range(update == 0, 3):
            for model, _ in (each[seed], together[seed]):
                give_gradients(model, seed, update)
            each[seed][1].step(factors[seed])
        joined = range(update == 0, 3)
        step_together([together[seed][1] for seed in joined], [factors[seed] for seed in joined])
    for (_, mine), (model, theirs) in zip(each, together, strict=True):
        assert all(parameter.grad is None for parameter in model.parameters())
        one, other = mine.tensors(), theirs.tensors()
        assert one.keys() == other.keys()
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], msg=name)
    for (mine, _), (theirs, _) in zip(each, together, strict=True):
        for (name, x), y in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            # Batched products in bf16 may round otherwise.
            torch.testing.assert_close(
                x, y, rtol=1e-5, atol=2e-3 if block_matrix(name, x) else 1e-6, msg=name
            )
