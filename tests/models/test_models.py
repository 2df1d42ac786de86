"""What AD's and CompressedAD's logits depend on, and where gradients go."""

from __future__ import annotations

import dataclasses

import pydantic
import pytest
import torch
from torch import Tensor

from cad.histories.batch import Batch
from cad.models.registry import spec_of

L, N_LATENT = 8, 3


def changed(batch: Batch, t: int) -> Batch:
    """The same windows with all inputs of step ``t`` different."""
    steps = {}
    for name, values in dataclasses.asdict(batch.steps).items():
        other = values.clone()
        other[:, t] = (other[:, t] + 1) % 2
        steps[name] = other
    return dataclasses.replace(batch, steps=type(batch.steps)(**steps))


def forward(model, batch: Batch) -> Tensor:
    """Logits (B, segments, T, actions) of segments of one length."""
    output = model(batch)
    return output if isinstance(output, Tensor) else torch.cat(output, dim=1)


def movement(model, batch: Batch, t: int) -> Tensor:
    """How far the logits of each position move when step ``t`` changes, (T,)."""
    with torch.no_grad():
        difference = (forward(model, changed(batch, t)) - forward(model, batch)).abs()
    return difference.amax(dim=(0, -1)).flatten()


@pytest.mark.parametrize("t", [0, 1, 5, L - 1])
def test_ad_sees_its_whole_past_and_no_future(t, tiny_config, loud_model, random_batch):
    moved = movement(loud_model(tiny_config("ad")), random_batch(4, L), t)
    assert (moved[:t] < 1e-5).all()
    assert (moved[t:] > 1e-3).all()


@pytest.mark.parametrize("t", [0, 5, 7, 8, 13, 23])
def test_compressed_ad_sees_its_whole_past_and_no_future(t, tiny_config, loud_model, random_batch):
    moved = movement(loud_model(tiny_config()), random_batch(4, 3 * L, L), t)
    assert (moved[:t] < 1e-5).all()
    assert (moved[t:] > 1e-3).all()


def test_segments_depend_on_earlier_ones_only_through_latents(tiny_config, loud_model, random_batch):
    model, batch = loud_model(tiny_config()), random_batch(4, 3 * L, L)
    model.encoder.forward = lambda latents, _steps: latents  # nothing gets through any more
    moved = movement(model, batch, 3)
    assert (moved[3:L] > 1e-3).all()
    assert (moved[L:] < 1e-5).all()


def test_a_segment_is_decoded_behind_the_latents_of_all_before_it(tiny_config, loud_model, random_batch):
    model, batch = loud_model(tiny_config()), random_batch(4, 3 * L, L)
    with torch.no_grad():
        tokens = model.embed(batch.steps)
        latents = model.initial_latents(4)
        for k in range(3):
            segment = tokens[:, k * L : (k + 1) * L]
            torch.testing.assert_close(forward(model, batch)[:, k], model.decoder(segment, latents))
            latents = model.encoder(latents, segment)


@pytest.mark.parametrize("last", [3, L])
def test_a_last_segment_of_its_own_length(last, tiny_config, loud_model, random_batch):
    model = loud_model(tiny_config())
    batch = dataclasses.replace(random_batch(4, 3 * 5 + last, 5, 1), uncompressed_length=last)
    with torch.no_grad():
        folded, decoded = model(batch)
        tokens = model.embed(batch.steps)
        latents = model.initial_latents(4)
        for k in range(3):
            latents = model.encoder(latents, tokens[:, 5 * k : 5 * k + 5])
            segment = tokens[:, 5 * k + 5 : 5 * k + 10]
            if k < 2:
                torch.testing.assert_close(folded[:, k], model.decoder(segment, latents))
        torch.testing.assert_close(decoded[:, 0], model.decoder(tokens[:, 15:], latents))
    assert (folded.shape[1], decoded.shape[1:3]) == (2, (1, last))


def test_shorter_segments_use_the_same_weights(tiny_config, loud_model, random_batch):
    model = loud_model(tiny_config())
    with torch.no_grad():
        assert forward(model, random_batch(4, 15, 5)).shape == (4, 3, 5, 5)
        whole = forward(model, random_batch(4, L, L))
        part = forward(model, random_batch(4, L, L // 2))
    # The first segment is the beginning of the longer one.
    torch.testing.assert_close(part[:, 0], whole[:, 0, : L // 2])


def test_latents_see_each_other_in_both_directions(tiny_config, loud_model):
    decoder = loud_model(tiny_config()).decoder
    steps = torch.randn(1, L, 16)
    latents = torch.randn(1, N_LATENT, 16, requires_grad=True)
    hidden = []
    decoder.blocks.layers[0].register_forward_hook(lambda _m, _i, out: hidden.append(out))
    decoder(steps, latents)
    # After the first layer, latent i moves with latent j for every i and j, but with no step.
    for i in range(N_LATENT):
        (gradient,) = torch.autograd.grad(hidden[0][0, i].square().sum(), latents, retain_graph=True)
        assert (gradient[0].abs().amax(-1) > 1e-4).all()
    with torch.no_grad():
        decoder(steps + 1, latents)
    assert torch.equal(hidden[0][:, :N_LATENT], hidden[1][:, :N_LATENT])


def test_new_latents_depend_on_all_latents_and_all_steps(tiny_config, loud_model):
    encoder = loud_model(tiny_config()).encoder
    latents = torch.randn(1, N_LATENT, 16, requires_grad=True)
    steps = torch.randn(1, L, 16, requires_grad=True)
    new = encoder(latents, steps)
    for i in range(N_LATENT):
        inputs = torch.autograd.grad(new[0, i, 0], (latents, steps), retain_graph=True)
        assert all((gradient[0].abs().amax(-1) > 1e-5).all() for gradient in inputs)


def rows_apart(random_batch, burn_in: int = 0) -> Batch:
    """Three segments that carry loss (+ burn-in), whose row is the number of the segment."""
    batch = random_batch(4, (3 + burn_in) * L, L, burn_in)
    batch.steps.observation[..., 0] = torch.arange(3 + burn_in).repeat_interleave(L)
    return batch


def gradient_of_rows(model) -> Tensor:
    """Gradient that reached the row embeddings, (rows,)."""
    return model.embed.table.weight.grad[:5].abs().sum(-1)


def test_the_last_segments_loss_teaches_the_encoder_and_the_first_segment(
    tiny_config, loud_model, random_batch
):
    model = loud_model(tiny_config())
    forward(model, rows_apart(random_batch))[:, -1].square().mean().backward()
    assert (gradient_of_rows(model)[:3] > 1e-6).all()
    assert all(
        p.grad.abs().sum() > 0 for name, p in model.encoder.named_parameters() if "qkv.bias" not in name
    )
    assert model.first_latents.grad.abs().sum() > 0


def test_the_first_segments_loss_teaches_no_later_one(tiny_config, loud_model, random_batch):
    model = loud_model(tiny_config())
    forward(model, rows_apart(random_batch))[:, 0].square().mean().backward()
    assert gradient_of_rows(model)[0] > 1e-6
    assert (gradient_of_rows(model)[1:3] == 0).all()
    assert all(p.grad is None or (p.grad == 0).all() for p in model.encoder.parameters())


def test_burn_in_feeds_the_latents_without_gradient(tiny_config, loud_model, random_batch):
    model = loud_model(tiny_config())
    batch = rows_apart(random_batch, burn_in=2)
    logits = forward(model, batch)
    assert logits.shape == (4, 3, L, 5)
    logits.square().mean().backward()
    gradient = gradient_of_rows(model)
    assert (gradient[:2] == 0).all()
    assert (gradient[2:] > 1e-6).all()
    # The values are those of a window without burn-in that is as long.
    with torch.no_grad():
        whole = forward(model, dataclasses.replace(batch, burn_in=0))
    torch.testing.assert_close(logits, whole[:, 2:])


@pytest.mark.parametrize("kind", ["gru", "linear_attention"])
def test_burn_in_feeds_a_recurrent_state_without_gradient(kind, tiny_config, loud_model, random_batch):
    model = loud_model(tiny_config(kind))
    batch = dataclasses.replace(rows_apart(random_batch, burn_in=2), burn_in=4)
    logits = forward(model, batch)
    assert logits.shape == (4, 1, L, 5)
    logits.square().mean().backward()
    gradient = gradient_of_rows(model)
    assert (gradient[:4] == 0).all()
    assert gradient[4] > 1e-6
    with torch.no_grad():
        whole = forward(model, dataclasses.replace(batch, segment_length=5 * L, burn_in=0))
    torch.testing.assert_close(logits, whole[:, :, 4 * L :])


@pytest.mark.parametrize("kind", ["ad", "compressed_ad"])
def test_dropout_is_on_in_training_only(kind, tiny_config, loud_model, random_batch):
    model = loud_model(tiny_config(kind, model={"dropout": 0.3}))
    batch = random_batch(2, L)
    assert torch.equal(forward(model, batch), forward(model, batch))
    model.train()
    torch.manual_seed(1)
    first = forward(model, batch)
    assert not torch.equal(first, forward(model, batch))
    torch.manual_seed(1)
    assert torch.equal(first, forward(model, batch))


def test_heads_must_divide_the_width(tiny_config):
    with pytest.raises(pydantic.ValidationError, match="n_head=3 does not divide n_embd=16"):
        tiny_config(model={"n_head": 3})


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((3, None), "set both"),
        ((None, 3), "set both"),
        ((4, 3), "min_uncompressed_length=4 is above max_uncompressed_length=3"),
        ((3, 9), "max_uncompressed_length=9 is above the window n_transit=8"),
    ],
)
def test_uncompressed_lengths_must_fit(lengths, message, tiny_config):
    keys = ("min_uncompressed_length", "max_uncompressed_length")
    with pytest.raises(pydantic.ValidationError, match=message):
        tiny_config(model=dict(zip(keys, lengths, strict=True)))


def test_uncompressed_lengths_count_in_the_training_window(tiny_config):
    model = tiny_config(model={"min_uncompressed_length": 2, "max_uncompressed_length": 3}).model
    assert spec_of(model).training_window(model) == 2 * 8 + 3
