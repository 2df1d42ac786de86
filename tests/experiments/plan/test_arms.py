"""What cannot vary is refused where it stands, with its line, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cad.errors import UsageError
from cad.experiments.plan.experiment import open_experiment

TWO_LINES = "name: e\nbase: {model: {kind: KIND}}\n"
REFUSED = [
    ("grid: {seed: [0, 1, 2]}", [], r"e\.yaml:5: arm 'A': grid: seed: seed has no effect .*write seeds:"),
    ("set: {seed: 5}", [], r"e\.yaml:5: arm 'A': set: seed: seed has no effect"),
    ("seeds: [1]", ["base.seed=7"], r"override: base\.seed: seed has no effect"),
    ("grid: {model.n_latent: [2, 4, 2]}", [], r"e\.yaml:5: arm 'A': grid: model.n_latent lists 2 twice"),
    ("grid: {model.n_latent: []}", [], r"e\.yaml:5: arm 'A': grid: model.n_latent has no values"),
    ("grid: {train.checkpoint_every: [50, 100]}", [],
     r"e\.yaml:5: arm 'A': .* are one model: train.checkpoint_every changes no result"),
    ("grid: {pretrain.n_updates: [50, 100]}", [], r"e\.yaml:5: .* pretrain.n_updates changes no result"),
    ("grid: {train.n_updates: [50, 100], train.engine: [plain, accelerate]}", [],
     r"e\.yaml:5: .*train\.engine changes no result"),
    ("{grid: {model.n_latent: [4, 8]}, set: {model.n_latent: 2}}", [],
     r"model.n_latent is also in 'set', which has no effect"),
    ("grid: {train.learning_rate: [1, 1.0]}", [], r"e\.yaml:5: .* grid: train.learning_rate lists 1 twice"),
    ("{grid: {train.n_updates: [50, 100]}, set: {train: {n_updates: 75}}}", [],
     r"grid: train.n_updates sets train.n_updates, as train in 'set' does; keep one"),
    ("set: {train.n_updates: 50, train: {n_updates: 75}}", [],
     r"e\.yaml:5: arm 'A': set: train sets train.n_updates, as train.n_updates in 'set' does"),
    ("grid: {model: [{kind: ad}, {kind: gru}], model.kind: [ad]}", [],
     r"grid: model.kind sets model.kind, as model in 'grid' does"),
    ("{grid: {evaluation.temperature: [0.5, 1.0]}, set: {evaluation.greedy: true}}", [],
     r"are one model: evaluation.temperature changes no result there"),
    ("{grid: {train.muon_learning_rate: [0.1, 0.2]}, set: {train.optimizer: adamw}}", [],
     r"are one model: train.muon_learning_rate changes no result there"),
    ("{grid: {train.validation_rollouts: [1, 2]}, set: {train.validate_every: 0}}", [],
     r"are one model: train.validation_rollouts changes no result there"),
    ("grid: {model.n_latens: [4]}", [], r"e\.yaml:5: arm 'A': model.n_latens: unknown key"),
]  # fmt: skip


def written(folder: Path, arm: str, kind: str = "compressed_ad") -> Path:
    file = folder / "e.yaml"
    body = arm.strip("{}") if arm.startswith("{") else arm
    arm = f"arms:\n- name: A\n  {arm}\n" if body == arm else f"arms:\n- {{name: A, {arm[1:]}\n"
    file.write_text(TWO_LINES.replace("KIND", kind) + arm)
    return file


@pytest.mark.parametrize(("arm", "overrides", "says"), REFUSED, ids=[arm for arm, _, _ in REFUSED])
def test_what_cannot_vary_is_refused_with_its_line(arm, overrides, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        open_experiment(written(tmp_path, arm), overrides, tmp_path)


def test_ad_has_no_latents_to_vary(tmp_path):
    file = written(tmp_path, "grid: {model.n_latent: [4, 8]}", "ad")
    with pytest.raises(UsageError, match=r"e\.yaml:5: arm 'A': model.n_latent: unknown key; it is a key of"):
        open_experiment(file, [], tmp_path)


def test_a_seed_in_an_included_base_is_refused_where_it_stands(tmp_path):
    (tmp_path / "cell.yaml").write_text("# a cell\nseed: 3\n")
    (tmp_path / "e.yaml").write_text("name: e\nbase: {include: cell.yaml}\narms: [{name: A}]\n")
    with pytest.raises(UsageError, match=r"cell\.yaml:2: base\.seed: seed has no effect"):
        open_experiment(tmp_path / "e.yaml", [], tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [('""', 'found ""'), ('" "', 'found " "'), ('"a\\nb"', "found "), ("x" * 201, "at most 200 characters")],
)
def test_an_arm_has_a_name_of_one_line(name, says, tmp_path):
    file = tmp_path / "e.yaml"
    file.write_text(f"name: e\narms:\n- name: {name}\n")
    with pytest.raises(UsageError, match=rf"e\.yaml:3: arms\[0\]\.name: expected text .*{says}"):
        open_experiment(file, [], tmp_path)
    file.write_text(f"name: {'n' * 101}\narms: [{{name: A}}]\n")
    with pytest.raises(UsageError, match=r"e\.yaml:1: name: expected text .*at most 100 characters"):
        open_experiment(file, [], tmp_path)


def test_one_model_is_not_reported_as_that_of_two_arms(tmp_path):
    file = tmp_path / "e.yaml"
    arms = "- {name: A, set: {model.kind: ad}}\n- {name: B, grid: {model: [{kind: gru}, {kind: ad}]}MORE}\n"
    file.write_text("name: e\narms:\n" + arms.replace("MORE", ""))
    with pytest.raises(UsageError, match=r"e\.yaml:4: 'A' and .B, model .* are one model with seed 0: "):
        open_experiment(file, [], tmp_path)
    file.write_text("name: e\narms:\n" + arms.replace("MORE", ", seeds: [1]"))
    assert len(open_experiment(file, [], tmp_path).cells) == 3


def test_seeds_and_axes_that_vary_are_taken(tmp_path):
    file = written(tmp_path, "{seeds: [0, 1], grid: {model.n_latent: [2, 4], pretrain.enabled: [true]}}")
    cells = open_experiment(file, [], tmp_path).cells
    assert [(c.config.seed, c.config.model.n_latent) for c in cells] == [(0, 2), (1, 2), (0, 4), (1, 4)]
    assert len({c.training.name for c in cells}) == 4
