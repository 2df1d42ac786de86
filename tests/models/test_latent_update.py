"""Latents that are mixed with what they were."""

from __future__ import annotations

import pytest
import torch

GATED = {"latent_update": "gated"}


def of(model, latents, steps, gate: float | None = None):
    """The latents after ``steps``; all of the gate's logits are ``gate`` (None: as they are)."""
    with torch.no_grad():
        if gate is not None:
            model.encoder.gate.weight.zero_()
            model.encoder.gate.bias.fill_(gate - model.encoder._STAYS)
        return model.encoder(latents, steps)


@pytest.fixture
def inputs():
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 16, generator=drawn), torch.randn(2, 8, 16, generator=drawn)


def test_a_gate_says_how_much_stays(tiny_config, loud_model, inputs):
    old, steps = inputs
    model = loud_model(tiny_config(model={"n_latent": 3, **GATED}))
    new = of(model, old, steps, -100.0)
    assert (new - old).abs().mean() > 0.5
    torch.testing.assert_close(of(model, old, steps, 100.0), old)
    share = torch.sigmoid(torch.tensor(0.7))
    torch.testing.assert_close(of(model, old, steps, 0.7), share * old + (1 - share) * new)


def test_it_sees_what_a_latent_was_and_what_it_would_become(tiny_config, loud_model, inputs):
    old, steps = inputs
    model = loud_model(tiny_config(model={"n_latent": 3, **GATED}))
    mixed, new = of(model, old, steps), of(model, old, steps, -100.0)
    weight = model.encoder.gate.weight
    with torch.no_grad():
        weight.zero_()[0, 0] = 3.0  # the first number goes by that of the old latent
        weight[1, 17] = 3.0  # the second one by that of the new one
    model.encoder.gate.bias.data.zero_()
    gated = of(model, old, steps)
    for number, by in ((0, old), (1, new)):
        stays = torch.sigmoid(3 * by[..., number] + 1)
        expected = stays * old[..., number] + (1 - stays) * new[..., number]
        torch.testing.assert_close(gated[..., number], expected)
    assert not torch.allclose(mixed, gated)


def test_three_quarters_stay_at_first(tiny_config, inputs):
    from cad.training.learner import build_model

    old, steps = inputs
    torch.manual_seed(0)
    model = build_model(tiny_config(model={"n_latent": 3, **GATED}))
    with torch.no_grad():
        mixed, new = model.encoder(old, steps), of(model, old, steps, -100.0)
    assert (mixed - (0.731 * old + 0.269 * new)).abs().mean() < 0.1 * (new - old).abs().mean()


def test_costs_count_the_gates(tiny_config):
    from cad.models.blocks.costs import encoder_work

    config = tiny_config(model={"n_latent": 4, **GATED}).model
    more = encoder_work(config, 8, gated=True) - encoder_work(config, 8)
    assert more == pytest.approx(4 * 32 * 16 / 1e6)
