"""Steps that are kept as they are among the latents."""

from __future__ import annotations

import pytest
import torch

KEPT, SUMMARIES = 3, 2


@pytest.fixture
def model(tiny_config, loud_model):
    settings = {"n_latent": KEPT + SUMMARIES, "kept_steps": KEPT}
    model = loud_model(tiny_config(model=settings))
    with torch.no_grad():  # the score is a step's first number; those of an empty past come last
        model.encoder.score.weight.copy_(torch.eye(1, 16))
        model.encoder.score.bias.zero_()
        model.first_latents[:, 0] = -100
    return model


def windows(n: int) -> torch.Tensor:
    return torch.randn(n, 2, 8, 16, generator=torch.Generator().manual_seed(0))


def test_the_highest_scores_of_all_steps_so_far_are_kept_in_their_order(model):
    latents, steps = model.initial_latents(2), windows(4)
    for n in range(1, 5):
        with torch.no_grad():
            latents = model.encoder(latents, steps[n - 1])
        seen = torch.cat(list(steps[:n]), dim=1)
        for row in range(2):
            best = seen[row, :, 0].argsort(descending=True)[:KEPT].sort().values
            assert torch.equal(latents[row, SUMMARIES:], seen[row, best])


def test_of_steps_that_are_alike_one_is_kept(model):
    """The last one, so that the others' places are left to what scores less."""
    steps = windows(1)[0]
    steps[:, 5:] = steps[:, 3:4]
    steps[:, 3:, 0] = 9.0
    with torch.no_grad():
        latents = model.encoder(model.initial_latents(2), steps)
    for row in range(2):
        others = [t for t in steps[row, :5, 0].argsort(descending=True).tolist() if t != 3][: KEPT - 1]
        assert torch.equal(latents[row, SUMMARIES:], steps[row, [*sorted(others), 7]])


def test_the_score_learns_from_what_follows(model):
    """Its gradient is that of scaling the kept steps; what is kept has the steps' own values."""
    steps = windows(1)[0]
    latents = model.encoder(model.initial_latents(2), steps)
    latents[:, SUMMARIES:].sum().backward()
    kept = latents[:, SUMMARIES:].detach()
    marks = kept[..., 0].sigmoid()
    slope = (marks * (1 - marks) * kept.sum(-1))[..., None] * kept
    torch.testing.assert_close(model.encoder.score.weight.grad[0], slope.sum((0, 1)))


def test_what_does_not_fit_is_refused(tiny_config):
    with pytest.raises(ValueError, match="kept_steps=3 leaves none of n_latent=3 to compress into"):
        tiny_config(model={"n_latent": 3, "kept_steps": 3})
    with pytest.raises(ValueError, match="kept_steps and latent_groups do not go together"):
        tiny_config(
            model={"n_latent": 4, "kept_steps": 1, "latent_groups": [2, 2], "max_compression_depth": 3}
        )


def test_costs_count_the_queries_alone(tiny_config):
    """Of tokens: 10 latents, 8 steps and 6 queries."""
    from cad.models.blocks.costs import blocks_work, encoder_work

    config = tiny_config(model={"n_latent": 10, "kept_steps": 4}).model
    assert encoder_work(config, 8, config.groups) == pytest.approx(blocks_work(config, 2, 24, 24))
