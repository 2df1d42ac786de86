"""Groups of latents: what each of them holds after a compression."""

from __future__ import annotations

import pytest
import torch

SIZE = 8


def parts(model, latents):
    return latents.split(list(model.config.latent_groups), dim=1)


@pytest.fixture
def compressed(tiny_config, loud_model):
    """``compressed(groups)``: a model, and its latents after 0, 1, ... 5 windows, one input each."""

    def make(groups, inputs):
        settings = {
            "n_latent": sum(groups),
            "latent_groups": groups,
            "max_compression_depth": len(groups) + 1,
        }
        model = loud_model(tiny_config(model=settings))
        after = [model.initial_latents(2)]
        with torch.no_grad():
            for steps in inputs:
                after.append(model.encoder(after[-1], steps))
        return model, [parts(model, latents) for latents in after]

    return make


def inputs(n: int, seed: int = 0) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, SIZE, 16, generator=rng) for _ in range(n)]


def test_groups_of_one_size_pass_on_what_they_hold_and_the_last_one_folds_it(compressed):
    _, after = compressed([3, 3, 3], inputs(5))
    for k in range(1, 6):
        assert torch.equal(after[k][1], after[k - 1][0])
        assert not torch.isclose(after[k][2], after[k - 1][1]).any(dim=-1).all()
        assert not torch.isclose(after[k][0], after[k - 1][0]).all()


@pytest.mark.parametrize("groups", [[3, 3, 3, 3], [4, 3, 2, 1]])
def test_a_group_is_reached_one_compression_later_than_the_one_before_it_and_never_left(groups, compressed):
    """A change of the first window shows in group k after k + 1 compressions, in the last one for good."""
    first, *rest = inputs(7)
    _, a = compressed(groups, [first, *rest])
    _, b = compressed(groups, [first + 1, *rest])
    moved = [[not torch.equal(x, y) for x, y in zip(a[n], b[n], strict=True)] for n in range(8)]
    for n in range(1, 4):
        assert moved[n] == [True] * n + [False] * (4 - n)
    assert all(moved[n][-1] for n in range(4, 8))


def test_one_group_is_the_model_without_groups(tiny_config, loud_model):
    one, none = (loud_model(tiny_config(model={"latent_groups": groups})) for groups in ([3], None))
    steps = inputs(1)[0]
    with torch.no_grad():
        assert torch.equal(*(model.encoder(model.initial_latents(2), steps) for model in (one, none)))
    assert [n for n, _ in one.named_parameters()] == [n for n, _ in none.named_parameters()]


def test_groups_are_all_of_the_latents(tiny_config):
    with pytest.raises(ValueError, match=r"latent_groups=\[2, 2\] are 4 latents, n_latent=3"):
        tiny_config(model={"latent_groups": [2, 2]})


def test_training_must_fold_what_the_last_group_holds(tiny_config):
    with pytest.raises(ValueError, match=r"max_compression_depth=2 never folds .* at least 3"):
        tiny_config(model={"n_latent": 4, "latent_groups": [2, 2], "max_compression_depth": 2})
    tiny_config(model={"n_latent": 4, "latent_groups": [2, 2], "max_compression_depth": 3})


def test_costs_count_every_compression(tiny_config):
    """Of tokens: 10 latents and 8 steps into 4; then 4 into 3; then 3 and 3 into 3."""
    from cad.models.blocks.costs import blocks_work, encoder_work

    config = tiny_config(model={"n_latent": 10}).model
    expected = sum(blocks_work(config, 2, n, n) for n in (10 + 8 + 4, 4 + 3, 3 + 3 + 3))
    assert encoder_work(config, 8, (4, 3, 3)) == pytest.approx(expected)
    assert encoder_work(config, 8) == pytest.approx(blocks_work(config, 2, 28, 28))
