"""Kinds of models and task families are known by their registries alone."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest
import torch

from cad.envs.families.grid import GridFamily
from cad.envs.registry import FAMILIES, task_family
from cad.models.registry import MODELS, new_memory
from cad.schema import Config
from cad.training.learner import build_model

PACKAGE = Path(__file__).parents[2] / "cad"


# "gymnasium" is a package too.
OURS = [name for name, family in FAMILIES.items() if family.has_rules]


@pytest.mark.parametrize(("names", "home"), [(MODELS, "models"), (OURS, "envs")])
def test_no_name_is_spelled_out_elsewhere(names, home):
    """A string with a kind's or a family's name outside its folder would be a comparison, or become one."""
    texts = {
        path: path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] != home
    }
    spelled = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value!r}"
        for path, text in texts.items()
        if any(f'"{name}"' in text for name in names)  # as the formatter writes strings
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and node.value in set(names)
    ]
    assert not spelled


@pytest.mark.parametrize("kind", MODELS)
def test_a_kind_is_called_what_its_config_says(kind):
    assert MODELS[kind].kind == kind


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_called_what_its_config_says(name):
    assert FAMILIES[name].config_class.model_fields["name"].default == name


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"n_layer": 1, "n_embd": 24}, {"on_compress": "latents"}, {"n_hidden": 10}, {"head_width": 5}],
)
def test_state_bytes_are_those_of_a_memory(kind, changes, tiny_config):
    changes = {k: v for k, v in changes.items() if k in MODELS[kind].config_class.model_fields}
    config = tiny_config(kind, model=changes)
    with torch.inference_mode():
        memory = new_memory(build_model(config).eval(), 3)
    assert config.spec.state_bytes(config.model) == memory.state_bytes


def test_another_kind_leaves_behind_what_only_the_old_one_has():
    config = Config().with_overrides({"model.n_latent": 4, "model.n_transit": 60}, "test")
    ad = config.with_overrides({"model.kind": "ad"}, "test")
    assert (ad.model.kind, ad.model.n_transit, ad.model.latents) == ("ad", 60, None)
    back = ad.with_overrides({"model": {"kind": "compressed_ad"}}, "test")
    assert (back.model.n_transit, back.model.latents) == (60, 16)


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if issubclass(family, GridFamily)]
)
def test_spaces_hold_every_observation_action_and_reward(name):
    env = FAMILIES[name].config_class(size=3, horizon=12)
    family = task_family(env)
    spaces = family.spaces
    fields = list(itertools.product(*(range(size) for size in spaces.field_sizes)))
    numbers = [sum(a * b for a, b in zip(spaces.strides, values, strict=True)) for values in fields]
    assert sorted(numbers) == list(range(spaces.n_observations))
    assert spaces.field_sizes[:2] == (3, 3)
    assert set(family.landmarks(family.task_ids[1]).values()) <= {(r, c) for r in range(3) for c in range(3)}
