"""Arms whose state is to have as many bytes as another arm's."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cad.errors import UsageError
from cad.experiments.plan.cells import expand
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.run.local_run import dry_run_text
from cad.schema import ExperimentConfig

COMPRESSED = {"name": "C", "set": {"model.kind": "compressed_ad"}, "grid": {"model.n_latent": [1, 16]}}
SIXTEEN = {"to": "C", "at": {"model.n_latent": 16}}
# Window 40, four layers, width 64: keys, values and embeddings of 56 places.
BYTES = (40 + 16) * 64 * (2 * 4 + 1) * 4


def cells_of(tmp_path: Path, *arms: dict, base: dict | None = None):
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump({"name": "e", "base": base or {}, "arms": [COMPRESSED, *arms]}))
    return open_experiment(path, [], tmp_path)


@pytest.mark.parametrize(
    ("settings", "key", "value", "bytes_"),
    [
        ({"model.kind": "ad"}, "n_transit", 56, BYTES),
        ({"model.kind": "ad", "model.n_layer": 3}, "n_transit", 72, 72 * 64 * 7 * 4),  # 73 would be too many
        ({"model.kind": "gru"}, "n_hidden", 8064, BYTES),
        ({"model.kind": "linear_attention"}, "head_width", 44, 4 * 4 * 44**2 * 4),
    ],
)
def test_the_largest_state_that_is_not_above_the_other_is_chosen(settings, key, value, bytes_, tmp_path):
    arm = {"name": "equal", "set": settings, "equal_state": SIXTEEN}
    opened = cells_of(tmp_path, arm, base={"env": {"horizon": 20}, "source": {"steps_per_stream": 1000}})
    cell = opened.cells[-1]
    assert BYTES == 129_024 == opened.cells[1].config.spec.state_bytes(opened.cells[1].config.model)
    assert getattr(cell.config.model, key) == value
    assert cell.config.spec.state_bytes(cell.config.model) == bytes_ <= BYTES
    line = (
        f"  equal, seed 0 (model.{key}={value}: a state of {bytes_:,} bytes for the 129,024 of C, 16 latents)"
    )
    assert line in dry_run_text(opened).splitlines()


def test_the_chosen_value_is_a_plain_one(tmp_path):
    plain = {"name": "equal", "set": {"model.kind": "ad", "model.n_transit": 56}}
    chosen = {"name": "equal", "set": {"model.kind": "ad"}, "equal_state": SIXTEEN}
    names = [[s.name for s in cells_of(tmp_path, arm).cells[-1].stages] for arm in (plain, chosen)]
    assert names[0] == names[1]


def test_every_point_of_a_grid_has_its_own(tmp_path):
    arm = {
        "name": "AD",
        "set": {"model.kind": "ad"},
        "grid": {"model.n_layer": [2, 4]},
        "equal_state": SIXTEEN,
    }
    chosen = [c.config.model.n_transit for c in cells_of(tmp_path, arm).cells if c.arm == "AD"]
    assert chosen == [100, 56]  # 129,024 / (64 x 5 x 4) = 100.8


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"equal_state": {"to": "D"}}, "to='D' is not an arm without an equal_state of its own (C)"),
        ({"equal_state": {"to": "AD"}}, "to='AD' is not an arm without an equal_state of its own (C)"),
        (
            {"equal_state": {"to": "C"}},
            "say with at: which model of arm 'C' is meant (C, 1 latent: 94,464 bytes; C, 16 latents: ",
        ),
        (
            {"equal_state": {"to": "C", "at": {"model.n_latent": 4}}},
            "at: model.n_latent=4 is not in the grid of arm 'C' (1, 16)",
        ),
        (
            {"equal_state": {"to": "C", "at": {"model.n_embd": 64}}},
            "at: model.n_embd is not a key of the grid of arm 'C' (model.n_latent)",
        ),
        (
            {"set": {"model.kind": "ad", "model.n_transit": 9}},
            "it chooses model.n_transit, which the arm sets too",
        ),
        ({"set": {"model.kind": "compressed_ad"}}, "the size of the state of model.kind=compressed_ad"),
        (
            {"set": {"model.kind": "ad", "model.n_layer": 64, "model.n_embd": 512}},
            "a state of 129,024 bytes (C, 16 latents) is too small: model.n_transit=1 has 264,192",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_its_line(arm, message, tmp_path):
    path = tmp_path / "e.yaml"
    arm = {"name": "AD", "set": {"model.kind": "ad"}, "equal_state": SIXTEEN, **arm}
    path.write_text(
        f"name: e\narms:\n  - {yaml.safe_dump(COMPRESSED, default_flow_style=True, width=1000)}"
        f"  - name: AD\n    set: {yaml.safe_dump(arm['set'], default_flow_style=True, width=1000)}"
        f"    equal_state: {yaml.safe_dump(arm['equal_state'], default_flow_style=True, width=1000)}"
    )
    with pytest.raises(UsageError) as error:
        open_experiment(path, [], tmp_path)
    assert f"{path}:6: arm 'AD': equal_state: {message}" in str(error.value)


def test_a_wrong_setting_of_an_arm_is_refused_with_its_line(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("name: e\narms:\n  - name: A\n  - name: B\n    set: {model.n_latnt: 3}\n")
    with pytest.raises(UsageError, match=r"e\.yaml:5: arm 'B': model\.n_latnt: unknown key"):
        open_experiment(path, [], tmp_path)


def test_without_a_file_messages_name_what_is_expanded():
    arms = [{"name": "A", "set": {"model.n_latnt": 3}}]
    with pytest.raises(UsageError, match=r"^x: arm 'A': model\.n_latnt: unknown key"):
        expand(ExperimentConfig.model_validate({"name": "e", "arms": arms}), "x")
