"""Recomputed attention against the models' fused attention."""

from __future__ import annotations

import pytest
import torch

from cad.evaluation.probes.attention import attention_weights, latent_shares, uniform_share


def test_attention_weights_are_the_layers_own(model):
    """Weights times values, through the output layer, are what the fused attention gives."""
    torch.manual_seed(0)
    steps, latents = torch.randn(3, 6, 16), torch.randn(3, 3, 16)
    attention, heard = model.decoder.blocks.layers[0].attention, {}
    attention.qkv.register_forward_hook(lambda _m, _i, out: heard.update(qkv=out))
    attention.register_forward_hook(lambda _m, _i, out: heard.update(y=out))
    with torch.inference_mode():
        shares = latent_shares(model, steps, latents)
        weights = attention_weights(attention, heard["qkv"], model.decoder.mask[:9, :9])
        values = heard["qkv"].view(3, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)[2]
        y = attention.out((weights @ values).transpose(1, 2).reshape(3, 9, 16))
    torch.testing.assert_close(y, heard["y"])
    assert shares.shape == (2, 3, 2, 6)
    torch.testing.assert_close(shares[0], weights[:, :, 3:, :3].sum(-1))
    attention.qkv._forward_hooks.clear()
    attention._forward_hooks.clear()


def test_indifferent_attention_gives_the_uniform_share(config, loud_model):
    model = loud_model(config)
    for layer in model.decoder.blocks.layers:
        torch.nn.init.zeros_(layer.attention.qkv.weight)
        torch.nn.init.zeros_(layer.attention.qkv.bias)
    with torch.inference_mode():
        shares = latent_shares(model, torch.randn(2, 8, 16), torch.randn(2, 3, 16))
    assert shares.mean().item() == pytest.approx(uniform_share(3, 8))
    assert uniform_share(3, 2) == pytest.approx((3 / 4 + 3 / 5) / 2)
    assert not any(layer.attention.qkv._forward_hooks for layer in model.decoder.blocks.layers)
