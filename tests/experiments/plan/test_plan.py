"""Which cells share which stages, and what a stage's name depends on."""

from __future__ import annotations

from collections import Counter

import pytest

from cad.errors import CadError, UsageError
from cad.experiments.plan.cells import Cell, distinct_stages, expand
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.run.training_stages import _named_file
from cad.schema import Config, ExperimentConfig


def cell(**overrides: object) -> Cell:
    settings = {key.replace("__", "."): value for key, value in overrides.items()}
    return Cell("", "", Config().with_overrides(settings, "test"))


def kinds(actual: Cell) -> list[str]:
    return [stage.kind for stage in actual.stages]


def test_by_default_nothing_is_pretrained():
    assert kinds(cell()) == ["histories", "train", "evaluate"]


def test_pretraining_is_a_stage_before_training():
    actual = cell(pretrain__enabled=True)
    assert kinds(actual) == ["histories", "pretrain", "train", "evaluate"]
    assert actual.training.inputs == (actual.histories, actual.pretraining)
    assert actual.training.name != cell().training.name


SAME_ENCODER = {"model__n_layer": 2, "train__n_updates": 7, "train__learning_rate": 0.1,
                "evaluation__seed": 3,
                "pretrain__freeze": True, "pretrain__checkpoint_every": 50, "train__label_smoothing": 0.1,
                "pretrain__collapse_variance": 0.5}  # fmt: skip
OTHER_ENCODER = {"model__n_latent": 2, "model__n_embd": 32, "model__dropout": 0.5, "seed": 1,
                 "pretrain__n_updates": 7, "pretrain__objective": "embeddings", "env__split_seed": 1,
                 "model__max_compression_depth": 2, "source__seed": 4}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [*SAME_ENCODER.items(), *OTHER_ENCODER.items()])
def test_cells_with_the_same_encoder_share_its_pretraining(key, value):
    plain, changed = cell(pretrain__enabled=True), cell(pretrain__enabled=True, **{key: value})
    assert plain.pretraining and changed.pretraining
    assert (plain.pretraining.name == changed.pretraining.name) == (key in SAME_ENCODER)


def test_seeds_can_share_an_encoder():
    cells = [cell(pretrain__enabled=True, pretrain__seed=5, seed=seed) for seed in (0, 1)]
    assert cells[0].pretraining.name == cells[1].pretraining.name
    assert cells[0].training.name != cells[1].training.name


@pytest.mark.parametrize(
    "settings", [{"pretrain__n_updates": 7}, {"pretrain__seed": 1}, {"pretrain__objective": "embeddings"}]
)
def test_settings_of_a_pretraining_that_is_off_change_nothing(settings):
    assert cell(**settings).training.name == cell().training.name


def test_freezing_changes_training_alone():
    fine, frozen = (cell(pretrain__enabled=True, pretrain__freeze=freeze) for freeze in (False, True))
    assert fine.pretraining.name == frozen.pretraining.name
    assert fine.training.name != frozen.training.name


def test_the_auxiliary_loss_depends_on_how_it_reconstructs():
    how = ({}, {"pretrain__objective": "embeddings"}, {"pretrain__decoder_n_layer": 1})
    names = {cell(train__reconstruction_weight=0.1, **settings).training.name for settings in how}
    names.add(cell(train__reconstruction_weight=0.1, pretrain__n_updates=3).training.name)
    assert len(names | {cell().training.name}) == 4


def test_a_warm_start_shares_the_training_of_an_ad_arm():
    warm = cell(train__init_from_ad="stage", train__burn_in=1)
    assert kinds(warm) == ["histories", "train", "train", "evaluate"]
    assert warm.warm_start.name == cell(model__kind="ad").training.name
    assert warm.training.name != cell(train__burn_in=1).training.name
    Config.model_validate(warm.warm_start.config.model_dump())


def test_a_file_may_be_in_the_home_but_not_behind_a_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").write_bytes(b"1")
    there, home = (cell(train__init_from_ad=path).training.name for path in (str(tmp_path / "a"), "~/a"))
    assert there == home
    with pytest.raises(
        UsageError, match=r"train\.init_from_ad: cannot read \$HOME/a .*not replaced in a config"
    ):
        _ = cell(train__init_from_ad="$HOME/a").training.name
    with pytest.raises(UsageError, match="no home is known for '~nobody-at-all'"):
        _ = cell(train__init_from_ad="~nobody-at-all/a").training.name


@pytest.mark.parametrize("key", ["pretrained_encoder_path", "init_from_ad"])
def test_a_file_counts_by_its_content(key, tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (cell(**{f"train__{key}": str(tmp_path / name)}).training.name for name in "abc")
    assert a == b != c
    with pytest.raises(UsageError, match=rf"train\.{key}: cannot read .*none \(No such file"):
        _ = cell(**{f"train__{key}": str(tmp_path / "none")}).training.name


def test_a_file_that_changes_before_it_is_loaded_is_refused(tmp_path):
    """Else a stage would hold what came of other weights than its name says."""
    file = tmp_path / "a"
    file.write_bytes(b"1")
    stage = cell(train__init_from_ad=str(file)).training
    assert stage.name and _named_file(stage, "init_from_ad") == file
    file.write_bytes(b"2")
    with pytest.raises(CadError, match=rf"{file} was changed after {stage.name} was named .* run the same"):
        _named_file(stage, "init_from_ad")


def test_a_range_of_kinds():
    cells = (cell(pretrain__enabled=True), cell())
    assert Counter(s.kind for s in distinct_stages(cells)) == {
        "histories": 1, "pretrain": 1, "train": 2, "evaluate": 2,
    }  # fmt: skip
    assert [s.kind for s in distinct_stages(cells, last="pretrain")] == ["histories", "pretrain"]
    assert {s.kind for s in distinct_stages(cells, "train")} == {"train", "evaluate"}


def test_pretraining_is_an_axis():
    grid = {"pretrain": [{"enabled": False}, {"enabled": True}, {"enabled": True, "freeze": True}]}
    experiment = ExperimentConfig.model_validate({"name": "x", "arms": [{"name": "C", "grid": grid}]})
    cells = expand(experiment, "x.yaml")
    assert [c.label for c in cells] == [
        "C, from scratch", "C, pre-trained, fine-tuned", "C, pre-trained, frozen",
    ]  # fmt: skip
    assert [(c.config.pretrain.enabled, c.config.freezes_encoder) for c in cells] == [
        (False, False), (True, False), (True, True),
    ]  # fmt: skip


def test_a_reference_that_is_not_a_model_is_refused_before_anything_runs():
    report = {"reference": "A"}
    experiment = ExperimentConfig.model_validate({"name": "x", "arms": [{"name": "AD"}], "report": report})
    with pytest.raises(UsageError, match=r"x.yaml: report.reference='A' is not a model; choose one of: AD"):
        expand(experiment, "x.yaml")


def test_an_arm_may_have_its_own_seeds():
    arms = [{"name": "claimed", "seeds": [0, 1, 2]}, {"name": "looked at"}]
    experiment = ExperimentConfig.model_validate({"name": "x", "arms": arms, "seeds": [4]})
    cells = expand(experiment, "x.yaml")
    assert [(c.label, c.config.seed) for c in cells] == [
        ("claimed", 0), ("claimed", 1), ("claimed", 2), ("looked at", 4),
    ]  # fmt: skip
    arms[0]["seeds"] = [1, 1]
    with pytest.raises(UsageError, match=r"x.yaml: arm 'claimed': a seed is listed twice in seeds=\[1, 1\]"):
        expand(ExperimentConfig.model_validate({"name": "x", "arms": arms}), "x.yaml")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("seeds: [1, 2, 1]\narms: [{name: A}]", 2, "a seed is listed twice in seeds=[1, 2, 1]"),
        ("arms:\n  - name: A\n  - name: B\n  - name: A", 5, "two arms share the name 'A'; rename one"),
        (
            "arms:\n  - name: A\n    seeds: [0, 0]", 4, "arm 'A': a seed is listed twice in seeds=[0, 0]",
        ),
        (
            "arms:\n  - name: X\n    grid: {model.n_latent: [4]}\n  - name: X, 4 latents\n    "
            "set: {model.kind: gru}",
            5,
            "arms 'X' and 'X, 4 latents' both have a model 'X, 4 latents' (a grid's values are part of it)",
        ),
        (
            "steps_per_update: 100\nbase: {train: {batch_size: 8}}\narms:\n  - name: A", 2,
            "steps_per_update chooses train.batch_size, which base sets too",
        ),
        (
            f"arms:\n  - name: A\n    grid: {{env.size: {[*range(200)]}, env.horizon: {[*range(101)]}}}",
            3,
            "arm 'A' has 20,200 cells; an arm may have 20,000",
        ),
        (
            "arms:\n  - name: A\n    set:\n      train.init_from_ad: nowhere", 5,
            "arm 'A': train.init_from_ad: cannot read nowhere",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line_alone(text, line, words, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(f"name: x\n{text}\n")
    with pytest.raises(UsageError) as raised:
        open_experiment(file, [], tmp_path)
    assert str(raised.value).startswith(f"{file}:{line}: {words}")
    assert str(raised.value).count(f"{file}") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pretrain.enabled": True, "model.kind": "ad"}, "pretrain.enabled is for model.kind=compressed_ad"),
        ({"pretrain.enabled": True, "model.max_compression_depth": 0}, "max_compression_depth above 0"),
        ({"pretrain.enabled": True, "pretrain.batch_size": 1}, "pretrain.batch_size=1"),
        ({"pretrain.enabled": True, "pretrain.depth_weights": [1, 2]}, "depth_weights has 2 entries"),
        ({"pretrain.enabled": True, "train.pretrained_encoder_path": "x"}, "choose one"),
        ({"train.freeze_encoder": True}, "train.freeze_encoder needs train.pretrained_encoder_path"),
        ({"train.init_from_ad": "x", "pretrain.enabled": True}, "both bring a step embedding"),
        ({"train.init_from_ad": "x", "model.kind": "ad"}, "train.init_from_ad is for"),
        ({"train.reconstruction_weight": 1, "model.kind": "ad"}, "train.reconstruction_weight is for"),
        ({"evaluation.greedy": True, "evaluation.first_temperature": 1.2}, "first_temperature has no effect"),
        ({"evaluation.knock_out": "noise", "model.kind": "ad"}, "compresses nothing"),
        (
            {"train.burn_in": 2, "model.kind": "gru", "model.n_unroll": 600},
            "train.burn_in=2 has no room: with it a training window takes at least 1200 steps, and a history "
            "has source.steps_per_stream=1000",
        ),
        (
            {"train.burn_in": 1, "model.n_transit": 200, "model.min_compress_length": 200,
             "model.max_compression_depth": 4},
            "train.burn_in=1 has no room: with it a training window takes at least 1200 steps",
        ),
        (
            {"evaluation.knock_out": "noise", "model.max_compression_depth": 0},
            "evaluation.knock_out=noise replaces what",
        ),
        (
            {"evaluation.knock_out": "other", "env.n_heldout": 1},
            "evaluation.knock_out=other needs two evaluated tasks",
        ),
        (
            {"evaluation.knock_out": "noise", "evaluation.n_episodes": 20},
            "knock_out_episode=26 is after the last of n_episodes=20",
        ),
        (
            {"evaluation.demonstrated_episodes": 50},
            "demonstrated_episodes=50 leaves the model none of n_episodes=50 to act in",
        ),
        (
            {"evaluation.knock_out": "noise", "evaluation.demonstrated_episodes": 26},
            "knock_out_episode=26 is one of demonstrated_episodes=26, where a model's return is not its own",
        ),
        ({"pretrain.checkpoint_every": 7}, "not a multiple of pretrain.log_every"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(settings, words):
    with pytest.raises(UsageError, match=words.replace(".", r"\.")):
        Config().with_overrides(settings, "test")


def test_what_is_evaluated_is_no_part_of_the_training():
    held_out, watched = cell(), cell(evaluation__tasks="validation")
    assert watched.training.name == held_out.training.name
    assert watched.evaluation.name != held_out.evaluation.name
    # Evaluations written before this setting existed stay valid.
    stored = held_out.evaluation.identity["config"]["evaluation"]
    later = {"tasks", "first_temperature", "anneal_episodes", "knock_out", "knock_out_episode"}
    later |= {"demonstrated_episodes"}
    assert not later & stored.keys()
    annealed = cell(evaluation__first_temperature=1.2, evaluation__anneal_episodes=20)
    replaced = cell(evaluation__knock_out="noise")
    shown, more = (cell(evaluation__demonstrated_episodes=n) for n in (3, 4))
    assert len({each.evaluation.name for each in (held_out, annealed, replaced, shown, more)}) == 5
    assert replaced.training.name == shown.training.name == held_out.training.name
    assert cell(evaluation__demonstrated_episodes=0).evaluation.name == held_out.evaluation.name


def test_validation_tasks_have_to_be_there():
    with pytest.raises(UsageError, match=r"evaluation.tasks=validation needs env.n_validation of at least 1"):
        cell(env__n_validation=0, train__validate_every=0, evaluation__tasks="validation")
