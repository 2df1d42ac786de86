"""The switches of experiments/ingredients.yaml: each does what it says, in training and in roll-outs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cad.config import load
from cad.envs.family import Spaces
from cad.experiments.plan.cells import Cell, expand
from cad.histories.batch import Steps
from cad.models.blocks.step_embedding import StepEmbedding
from cad.models.blocks.transformer import Block
from cad.models.objective import action_loss
from cad.models.registry import new_memory
from cad.schema import ExperimentConfig
from cad.training.learner import build_model, training_objective

FILE = Path(__file__).parents[2] / "experiments" / "ingredients.yaml"
OFF = [
    {"step_embedding": "cell"},
    {"embedding_norm": False},
    {"norm": "post"},
]

SPACES = Spaces(("row", "column"), (5, 5), 5, 2)


def test_the_experiment_switches_one_ingredient_off_at_a_time():
    cells = expand(load(ExperimentConfig, [FILE], []).value, str(FILE))
    flat = [cell.config.model_dump() for cell in cells]
    differing = [
        {
            f"{section}.{key}"
            for section in ("model", "train")
            for key, value in other[section].items()
            if value != flat[0][section][key]
        }
        for other in flat[1:]
    ]
    assert [keys.pop() for keys in differing] == [
        "model.step_embedding", "train.loss_on", "train.max_episode_gap", "model.max_compression_depth",
        "model.embedding_norm", "model.norm",
    ]  # fmt: skip
    assert not any(differing)
    assert len({cell.training.name for cell in cells}) == 7


@pytest.mark.parametrize("settings", OFF, ids=str)
@pytest.mark.parametrize("kind", ["ad", "compressed_ad"])
def test_roll_outs_decide_as_training_does(settings, kind, tiny_config, loud_model, random_batch):
    """The cached logits of a first window equal those of one forward pass."""
    model = loud_model(tiny_config(kind, model=settings))
    batch = random_batch(4, 8)
    memory = new_memory(model, 4)
    steps = batch.steps
    with torch.inference_mode():
        expected = model(batch)[:, 0] if kind == "ad" else model.decode(
            model.embed(steps)[:, None][:, :0], model.embed(steps), [model.initial_latents(4)]
        )[0][:, 0]  # fmt: skip
        for t in range(8):
            one = Steps(*(field[:, t : t + 1] for field in vars(steps).values()))
            torch.testing.assert_close(memory.observe(one), expected[:, t], atol=1e-4, rtol=1e-4)


def test_a_cell_has_one_embedding():
    embed = StepEmbedding(SPACES, 8, cells=True)
    assert embed.table.num_embeddings == 25 + 6 + 2 + 2
    torch.nn.init.normal_(embed.table.weight)
    none = torch.zeros(25, 1, dtype=torch.long)
    place = torch.cartesian_prod(torch.arange(5), torch.arange(5))[:, None]
    embedded = embed(Steps(place, none, none, none))[:, 0]
    assert len(torch.unique(embedded, dim=0)) == 25
    expected = embed.norm(embed.table.weight[:25] + embed.table.weight[[25, 31, 33]].sum(0))
    torch.testing.assert_close(embedded, expected)


def test_no_norm_touches_the_embeddings(tiny_config):
    model = build_model(tiny_config(model={"embedding_norm": False}))
    norms = {name.rpartition(".")[0] for name, _ in model.named_parameters() if "norm" in name}
    assert not any("input_norm" in name or name.startswith("embed") for name in norms)
    assert {"decoder.output_norm", "encoder.output_norm"} < norms


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_where_a_block_normalises(norm, tiny_config):
    block = Block(tiny_config(model={"norm": norm}).model)
    x = 100 * torch.randn(2, 4, 16)
    out = block(x, None, 4)
    normalised = torch.allclose(out.var(-1, correction=0), torch.ones(2, 4), atol=1e-3)
    assert normalised == (norm == "post")
    torch.testing.assert_close(block(x, None, 2), out[:, 2:])


def test_the_last_token_alone_carries_loss(tiny_config, random_batch):
    config, batch = tiny_config(train={"loss_on": "last"}), random_batch(4, 24, 8)
    logits = torch.randn(4, 3, 8, 5, requires_grad=True)
    loss, by_segment, accuracy = action_loss([logits], batch, config.train)
    last = logits[:, :, -1].log_softmax(-1).gather(-1, batch.actions.view(4, 3, 8)[:, :, -1:])
    torch.testing.assert_close(by_segment, -last.mean(dim=(0, 2)).detach())
    loss.backward()
    assert logits.grad[:, :, :-1].abs().sum() == 0 < logits.grad[:, :, -1].abs().sum()
    assert accuracy.shape == (3,)
    assert training_objective(config)(logits, batch).supervised == 12


def test_switches_at_their_defaults_change_no_name(tiny_config):
    assert "norm" not in Cell("", "", tiny_config()).training.identity["config"]["model"]
