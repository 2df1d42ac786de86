"""What the reconstruction decoder is asked, and what it sees: the latents and nothing else."""

from __future__ import annotations

import dataclasses

import torch

from cad.envs.registry import task_family
from cad.models.compressed_ad.reconstruction import EncoderPretraining, WithReconstruction
from cad.models.compressed_ad.transfer import ENCODER_WEIGHTS
from cad.training.learner import build_model

L, DEPTHS = 8, 2


def pretraining_of(config):
    return EncoderPretraining(config.model, config.pretrain, task_family(config.env).spaces)


def test_every_depth_is_asked_for_every_step_before_it(tiny_config, random_batch):
    actual = pretraining_of(tiny_config())(random_batch(4, DEPTHS * L, L))
    assert [tuple(output.shape) for output in actual.outputs] == [
        (4, L, 5 + 5 + 6 + 2),
        (4, 2 * L, 5 + 5 + 6 + 2),
    ]
    assert actual.latents.shape == (4, DEPTHS, 3, 16)
    assert actual.embedded.shape == (4, DEPTHS * L, 16)
    assert not actual.embedded.requires_grad


def test_embeddings_are_reconstructed_in_their_width(tiny_config, random_batch):
    model = pretraining_of(tiny_config(pretrain={"objective": "embeddings"}))
    assert model(random_batch(4, DEPTHS * L, L)).outputs[1].shape == (4, 2 * L, 16)


def test_only_latents_reach_the_reconstruction(tiny_config, random_batch):
    torch.manual_seed(0)
    model, batch = pretraining_of(tiny_config()), random_batch(4, DEPTHS * L, L)
    other = dataclasses.replace(batch, steps=random_batch(4, DEPTHS * L, L, seed=1).steps)
    model.encoder.forward = lambda latents, _steps: latents  # nothing gets through any more
    for a, b in zip(model(batch).outputs, model(other).outputs, strict=True):
        assert torch.equal(a, b)


def test_the_newest_step_has_the_first_query_at_every_depth(tiny_config, random_batch):
    model, batch = pretraining_of(tiny_config()), random_batch(4, DEPTHS * L, L)
    actual = model(batch)
    grads = [
        torch.autograd.grad(output[:, -1].sum(), model.reconstruction.queries, retain_graph=True)[0]
        for output in actual.outputs
    ]
    assert all(grad[0].abs().sum() > 10 * grad[1:].abs().sum(dim=1).max() for grad in grads)


def test_pretraining_shares_encoder_and_embedding_with_compressed_ad(tiny_config):
    """Every shared weight has the same name and shape; only the decoders differ."""
    config = tiny_config()
    ours = {n: t.shape for n, t in pretraining_of(config).state_dict().items()}
    theirs = {n: t.shape for n, t in build_model(config).state_dict().items()}
    shared = {n: shape for n, shape in ours.items() if not n.startswith("reconstruction.")}
    assert shared == {n: shape for n, shape in theirs.items() if not n.startswith("decoder.")}
    assert {n for n in theirs if n.startswith(ENCODER_WEIGHTS)} == shared.keys()


def test_the_decoder_of_actions_plays_no_part_in_pretraining(tiny_config):
    """Cells that differ in the decoder share the stage: its settings must not change the weights."""
    states = []
    for layers in (1, 3):
        torch.manual_seed(0)
        states.append(pretraining_of(tiny_config(model={"n_layer": layers})).state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_the_auxiliary_decoder_leaves_the_logits_alone(tiny_config, random_batch):
    config, batch = tiny_config(), random_batch(4, 4 * L, L, 1)
    model = build_model(config)
    logits, actual = WithReconstruction(model, config.pretrain)(batch)
    assert torch.equal(logits[0], model(batch)[0])
    assert [output.shape[1] for output in actual.outputs] == [L, 2 * L]
    assert torch.equal(actual.embedded, model.embed(batch.steps)[:, L : 3 * L])


def test_decoder_n_layer_sets_the_depth_of_the_reconstruction_decoder(tiny_config):
    def n_parameters(part: str, layers: int) -> int:
        model = pretraining_of(tiny_config(pretrain={"decoder_n_layer": layers}))
        return sum(parameter.numel() for parameter in getattr(model, part).parameters())

    one, two, four = (n_parameters("reconstruction", layers) for layers in (1, 2, 4))
    assert four - two == 2 * (two - one) > 0  # as many parameters for every layer
    assert n_parameters("encoder", 1) == n_parameters("encoder", 4)
