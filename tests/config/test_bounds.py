"""Values that were accepted and then ended in a traceback: refused, with reason and the key that was set."""

from __future__ import annotations

import pytest

from cad.config import load
from cad.errors import UsageError
from cad.schema import Config, ExperimentConfig

SMALL = ["env.size=5", "env.horizon=5", "env.n_validation=0", "train.validate_every=0"]


def refused(*overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(Config, [], overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("source.batch_size=1", "source.batch_size: expected a whole number at least 2, found 1"),
        ("source.clip_range=1e308", "at most 1e+09 (more leaves the range of 32-bit numbers), found 1e+308"),
        ("train.muon_learning_rate=1e308", "train.muon_learning_rate: expected at most 1e+09 ("),
        ("train.depth_weights=[1e300]", "train.depth_weights[0]: expected at most 1e+09"),
        ("evaluation.temperature=1e-300", "expected a number at least 1e-06, found 1e-300"),
        ("evaluation.first_temperature=1e-300", "a number at least 1e-06, or null, found"),
        ("source.seed=18446744073709551616", "source.seed: expected at most 9223372036854775807 (ran"),
        ("evaluation.seed=9223372036854775808", "evaluation.seed: expected at most 9223372036854775807 ("),
        ("seed=20251128025400", "seed: expected at most 10000000000000 (an update draws with"),
        ("pretrain.seed=20251128025400", "pretrain.seed: expected at most 10000000000000 (an update draws"),
        ("model.n_embd=10000000000000", "model.n_embd: expected at most 1000000000 (more can neither"),
        ("source.loads=[]", "source.loads: expected a list of at least 1 (each a whole number"),
        ("env.n_tasks=1e30", "env.n_tasks: expected"),
    ],
)  # fmt: skip
def test_bounds_give_their_reason(override: str, says: str) -> None:
    assert says in refused(override)


def test_the_largest_values_that_are_taken() -> None:
    value = load(Config, [], ["seed=10000000000000", "source.seed=9223372036854775807"]).value
    assert (value.seed, value.source.seed) == (10**13, 2**63 - 1)


def test_seeds_of_an_experiment() -> None:
    with pytest.raises(UsageError, match=r"seeds\[0\]: expected at most 10000000000000 \(an update draws"):
        load(ExperimentConfig, [], ["name=e", "arms=[{name: a}]", "seeds=[9223372036854775808]"])


def test_goals_that_cannot_be_reached() -> None:
    message = refused("env.size=5", "env.horizon=2", "env.n_tasks=16", "env.n_heldout=6")
    assert (
        "env.horizon=2: darkroom of size 5 has tasks whose goal is 4 steps away: their optimum would be 0"
        in message
    )
    assert "(env.horizon: override)" in message
    permuted = ["env.name=darkroom_permuted", "source.steps_per_stream=1001"]
    assert "env.horizon=7: darkroom_permuted of size 5 has tasks whose goal is 8 steps away" in refused(
        *permuted, "env.size=5", "env.horizon=7"
    )


def test_a_rule_names_the_key_that_was_set() -> None:
    # The rule names n_heldout and n_validation, both defaults here.
    message = refused("env.size=2")
    assert "n_heldout" in message and "env.size: override" in message
    assert "(source.steps_per_stream: default; env.horizon: override)" in refused("env.horizon=13")


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("source.seed=18446744073709551616", "source.seed: expected at most"),
        ("source.learner=5", "source.learner: expected text"),
        ("source.n_streams=0", "source.n_streams: expected"),
    ],
)
def test_a_key_is_named_where_its_section_has_a_kind_of_the_same_name(override: str, names: str) -> None:
    assert names in refused("source.kind=learner", "env.name=cued_darkroom", override)


@pytest.mark.parametrize(
    ("set_so", "says", "advice"),
    [
        (
            ["env.n_validation=0"],
            "train.validate_every=500 rolls out in validation tasks, and env.n_validation=0 splits off none; "
            "set train.validate_every: 0",
            ["train.validate_every=0"],
        ),
        (
            ["source.n_streams=5"],
            "n_steps x n_streams = 80 x 5 = 400); with few streams set source.batch_size to at most 400",
            ["source.batch_size=400"],
        ),
        (
            ["env.n_tasks=3", "env.n_heldout=1", "env.size=5", "env.horizon=5"],
            "lower them (n_validation: 0 goes with train.validate_every: 0)",
            ["env.n_validation=0", "train.validate_every=0"],
        ),
    ],
)
def test_a_rule_between_settings_says_what_would_do(set_so: list[str], says: str, advice: list[str]) -> None:
    assert says in refused(*set_so)
    load(Config, [], [*set_so, *advice])
