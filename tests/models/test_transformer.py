"""Blocks, masks, initialisation and step tokens."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from cad.envs.family import Spaces
from cad.histories.batch import Steps
from cad.models.ad.config import ADConfig
from cad.models.blocks import transformer
from cad.models.blocks.step_embedding import StepEmbedding
from cad.models.blocks.transformer import Attention, Blocks, attend, prefix_attention, prefix_mask
from cad.training.learner import build_model, build_training

KINDS = ["ad", "compressed_ad"]

SPACES = Spaces(("row", "column"), (5, 5), 5, 2)


def test_prefix_mask_is_two_way_in_the_prefix_and_causal_behind_it():
    assert prefix_mask(2, 3).tolist() == [
        [True, True, False, False, False],
        [True, True, False, False, False],
        [True, True, True, False, False],
        [True, True, True, True, False],
        [True, True, True, True, True],
    ]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("n_out", [1, 4, 7])
def test_leaving_out_unneeded_positions_changes_nothing(masked, n_out):
    torch.manual_seed(0)
    blocks = Blocks(ADConfig(n_embd=16, n_head=2), n_layer=3)
    x = torch.randn(2, 7, 16)
    mask = prefix_mask(2, 5) if masked else None
    whole = blocks(x, mask, 7)
    assert whole.std() > 0.1
    torch.testing.assert_close(blocks(x, mask, n_out), whole[:, -n_out:], rtol=0, atol=1e-6)


def test_attention_is_softmax_of_scaled_products():
    torch.manual_seed(0)
    attention = Attention(n_embd=6, n_head=2)
    x, mask = torch.randn(1, 4, 6), prefix_mask(1, 3)
    q, k, v = attention.qkv(x)[0].split(6, dim=-1)
    heads = []
    for h in (slice(0, 3), slice(3, 6)):
        scores = (q[:, h] @ k[:, h].T / math.sqrt(3)).masked_fill(~mask, -torch.inf)
        heads.append(scores.softmax(-1) @ v[:, h])
    expected = attention.out(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x, mask, 4)[0], expected)


def test_under_bf16_attention_on_a_cpu_is_that_of_fp32():
    """Its products are in bfloat16 all the same; the result is rounded for the next one."""
    torch.manual_seed(0)
    attention, x, mask = Attention(n_embd=16, n_head=2), torch.randn(2, 7, 16), prefix_mask(2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = attention(x, mask, 7)
        q, k, v = attention.qkv(x).view(2, 7, 3, 2, 8).permute(2, 0, 3, 1, 4)
        attended = attend(q, k, v, mask)
    assert y.dtype == q.dtype == attended.dtype == torch.bfloat16
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    assert torch.equal(attended, expected.bfloat16())
    torch.testing.assert_close(y.float(), attention(x, mask, 7), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_other_types_attend_in_their_own(dtype):
    attention = Attention(n_embd=16, n_head=2).to(dtype)
    assert attention(torch.randn(2, 7, 16, dtype=dtype), prefix_mask(2, 5), 7).dtype is dtype


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("n_out", [1, 4, 5, 6, 7])
def test_prefix_attention_is_that_of_the_mask(prefix, n_out):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 7, 8)
    q = q[:, :, 7 - n_out :]
    expected = attend(q, k, v, prefix_mask(prefix, 7 - prefix)[7 - n_out :])
    torch.testing.assert_close(prefix_attention(q, k, v, prefix), expected, rtol=0, atol=1e-6)


class Masks(TorchFunctionMode):
    """Notes the masks of all calls of attention."""

    def __init__(self):
        super().__init__()
        self.given = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.given.append((kwargs or {}).get("attn_mask"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["ad", "compressed_ad", "region_ad"])
def test_where_flash_attention_is_no_training_needs_a_mask(kind, tiny_config, toy_histories, monkeypatch):
    torch.manual_seed(0)
    learner = build_training(tiny_config(kind, model={"dropout": 0.0}), toy_histories)

    def outputs() -> list[torch.Tensor]:
        out = learner.trained(learner.sampler.batch(0))
        return pytree.tree_leaves(out)

    masked = outputs()
    monkeypatch.setattr(transformer, "has_flash_attention", lambda _q: True)
    with Masks() as masks:
        flash = outputs()
    assert len(masks.given) >= 2 and all(mask is None for mask in masks.given)
    for ours, theirs in zip(flash, masked, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_initial_weights_follow_from_the_seed(kind, tiny_config):
    def weights(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return list(build_model(tiny_config(kind)).parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights(3), weights(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(3), weights(4), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_initial_spread(kind, tiny_config):
    torch.manual_seed(0)
    encoder = {"encoder_n_layer": 8} if kind != "ad" else {}
    model = build_model(tiny_config(kind, model={"n_embd": 128, "n_layer": 8, **encoder}))
    seen_residual = 0
    for name, weights in model.named_parameters():
        parameter = weights.detach()
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            ends_a_residual_branch = name.endswith(("attention.out.weight", "contract.weight"))
            seen_residual += ends_a_residual_branch
            expected = 0.02 / math.sqrt(2 * 8) if ends_a_residual_branch else 0.02
            # A sample's standard deviation has a relative error of 1 / sqrt(2 n).
            tolerance = 4 / math.sqrt(2 * parameter.numel())
            assert float(parameter.std()) == pytest.approx(expected, rel=tolerance), name
            assert abs(float(parameter.mean())) < 4 * expected / math.sqrt(parameter.numel()), name
    assert seen_residual == (16 if kind == "ad" else 32)


# Checkpoints and transfers are keyed by these names: renaming one breaks every stored model.
BLOCK = [
    f"{part}.{end}"
    for part in (
        "attention.out",
        "attention.qkv",
        "attention_norm",
        "contract",
        "expand",
        "feed_forward_norm",
    )
    for end in ("bias", "weight")
]
EMBED = ["embed.norm.bias", "embed.norm.weight", "embed.table.weight"]


def stack(module: str, layers: int, own: list[str]) -> list[str]:
    blocks = [f"{module}.blocks.layers.{i}.{name}" for i in range(layers) for name in BLOCK]
    norms = [f"{module}.{norm}.{end}" for norm in ("input_norm", "output_norm") for end in ("bias", "weight")]
    return [*blocks, *norms, *(f"{module}.{name}" for name in own)]


DECODER = stack("decoder", 2, ["head.bias", "head.weight", "positions"])
ENCODER = stack("encoder", 2, ["positions", "queries"])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("ad", DECODER + EMBED), ("compressed_ad", DECODER + EMBED + ENCODER + ["first_latents"])],
)
def test_stored_names_are_stable(kind, expected, tiny_config):
    model = build_model(tiny_config(kind))
    assert sorted(model.state_dict()) == sorted(expected)
    assert sorted(name for name, _ in model.named_parameters()) == sorted(expected)


def steps_with(**fields: int) -> Steps:
    values = {"row": 0, "column": 0, "previous_action": 0, "previous_reward": 0, "first": 0, **fields}
    one = {name: torch.tensor([[value]]) for name, value in values.items()}
    observation = torch.stack([one.pop("row"), one.pop("column")], dim=-1)
    return Steps(observation, **one)


def test_every_field_of_a_step_shows_in_its_token():
    torch.manual_seed(0)
    embed = StepEmbedding(SPACES, 8)
    changes = [
        {"row": 1}, {"column": 1}, {"row": 4}, {"column": 4}, {"previous_action": 5},
        {"previous_reward": 1}, {"first": 1},
    ]  # fmt: skip
    tokens = [embed(steps_with(**change)).flatten() for change in [{}, *changes]]
    distances = torch.pdist(torch.stack(tokens))
    assert distances.min() > 0.1


def test_a_token_is_the_normed_sum_of_its_fields_embeddings():
    torch.manual_seed(0)
    embed = StepEmbedding(SPACES, 8)
    rows, columns, actions, rewards, firsts = embed.table.weight.split([5, 5, 6, 2, 2])
    step = steps_with(row=3, column=1, previous_action=2, previous_reward=1, first=1)
    expected = embed.norm(rows[3] + columns[1] + actions[2] + rewards[1] + firsts[1])
    torch.testing.assert_close(embed(step)[0, 0], expected)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("latents", [0, 3])
def test_a_single_step_without_modules_has_the_modules_numbers(norm, latents, tiny_config, loud_model):
    """Roll-outs step in eval mode; without dropout training mode, which calls the modules, is the same."""
    kind = "compressed_ad" if latents else "ad"
    decoder = loud_model(tiny_config(kind, model={"norm": norm, "dropout": 0.0})).decoder
    rng = torch.Generator().manual_seed(0)
    before = torch.randn(5, latents + 2, 16, generator=rng)
    caches, outputs = [decoder.new_cache(5) for _ in range(2)], []
    with torch.inference_mode():
        for training, cache in zip((False, True), caches, strict=True):
            decoder.train(training)
            steps = torch.Generator().manual_seed(1)
            logits = [decoder.extend(before, cache)]
            logits += [decoder.extend(torch.randn(5, 1, 16, generator=steps), cache) for _ in range(4)]
            outputs.append(torch.stack(logits))
    assert torch.equal(*outputs)
    lengths = {cache.length for cache in caches}
    assert lengths == {latents + 6}
    filled = [cache.keys[..., : latents + 6, :] for cache in caches]
    assert torch.equal(*filled)
