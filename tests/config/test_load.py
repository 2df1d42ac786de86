"""Loading: precedence, origins, includes, YAML pitfalls, and every way a config can be wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import Field, ValidationError, model_validator

from cad.config import Section, flatten, from_mapping, load
from cad.errors import UsageError
from cad.schema import Config, ExperimentConfig


class Stage(Section):
    """Resources of one stage."""

    minutes: int = Field(60, gt=0, description="Time limit.")


class Profile(Section):
    """A config of shapes that Config does not have: free mappings, mappings of sections, unions."""

    partition: str = Field(description="Required.")
    time: str = Field("1:00:00", description="Text that YAML 1.1 reads as a number in base 60.")
    rate: float = Field(0.5, description="A number.")
    shape: tuple[int, int] = Field((1, 2), description="Two numbers.")
    account: str | None = Field(None, description="Text or null.")
    nodes: int | str = Field(1, description="A union.")
    switch: bool = Field(False, description="A switch.")
    environment: dict[str, str] = Field({}, description="A free mapping.")
    stages: dict[str, Stage] = Field({}, description="A mapping of sections.")
    stage: Stage | None = Field(None, description="A section or null.")

    @model_validator(mode="after")
    def _rate_fits(self) -> Profile:
        if self.rate > 1 and not self.switch:
            raise ValueError(f"rate={self.rate:g} needs switch")
        return self


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str | bytes) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(call: object, *args: object) -> str:
    with pytest.raises(UsageError) as caught:
        call(*args)  # type: ignore[operator]
    return str(caught.value)


def profile(text: str, *overrides: str) -> Profile:
    return load(Profile, [write("p.yaml", "partition: cpu\n" + text)], overrides).value


def wrong(text: str, *overrides: str) -> str:
    return refused(load, Profile, [write("p.yaml", "partition: cpu\n" + text)], overrides)


# --- precedence and origins


def test_no_files_gives_the_defaults() -> None:
    loaded = load(Config, [], [])
    assert loaded.value == Config()
    assert set(loaded.origin.values()) == {"default"}
    assert list(loaded.origin) == list(flatten(loaded.value))


def test_defaults_then_files_then_overrides_with_their_origins() -> None:
    first = write("a.yaml", "seed: 1\nmodel:\n  n_latent: 4\n  dropout: 0.1\n")
    second = write("sub/b.yaml", "\nmodel:\n  n_latent: 8\n")
    loaded = load(Config, [first, second], ["model.dropout=0.2", "seed=5", "seed=6"])
    assert (loaded.value.model.n_latent, loaded.value.model.dropout, loaded.value.seed) == (8, 0.2, 6)
    assert loaded.value.train == Config().train
    assert loaded.origin["model.n_latent"] == "sub/b.yaml:3"
    assert loaded.origin["model.dropout"] == loaded.origin["seed"] == "override"
    assert loaded.origin["model.n_embd"] == "default"


def test_the_value_is_frozen() -> None:
    with pytest.raises(ValidationError):
        load(Config, [], []).value.seed = 3  # type: ignore[misc]


def test_an_empty_file_gives_the_defaults() -> None:
    assert load(Config, [write("e.yaml", "# nothing\n")], []).value == Config()
    assert load(Config, [write("f.yaml", "")], []).value == Config()


def test_overrides_take_any_yaml_value() -> None:
    value = profile("", "account=null", "shape=[3, 4]", "environment={A: b}", "stages.train.minutes=5")
    assert value.account is None and value.shape == (3, 4) and value.environment == {"A": "b"}
    assert value.stages == {"train": Stage(minutes=5)}


def test_an_override_with_a_mapping_is_merged() -> None:
    value = load(Config, [write("a.yaml", "model: {n_latent: 4}")], ["model={dropout: 0.1}"]).value
    assert (value.model.n_latent, value.model.dropout) == (4, 0.1)


def test_origins_below_mappings_of_sections() -> None:
    loaded = load(Profile, [write("p.yaml", "partition: x\nstages:\n  train:\n    minutes: 3\n")], [])
    assert loaded.origin["stages.train.minutes"] == "p.yaml:4"
    assert flatten(loaded.value)["stages.train.minutes"] == 3


# --- includes


def test_includes_are_relative_and_later_ones_and_own_keys_win() -> None:
    write("lib/one.yaml", "model: {n_latent: 4, n_transit: 20, dropout: 0.1}")
    write("lib/deep/two.yaml", "include: ../one.yaml\nmodel:\n  n_transit: 30\n")
    write("lib/three.yaml", "model:\n  dropout: 0.3\n")
    own = write("run/x.yaml", "include: [../lib/deep/two.yaml, ../lib/three.yaml]\nmodel:\n  n_head: 2\n")
    loaded = load(Config, [own], [])
    model = loaded.value.model
    assert (model.n_latent, model.n_transit, model.dropout, model.n_head) == (4, 30, 0.3, 2)
    assert loaded.origin["model.n_latent"] == "lib/one.yaml:1"
    assert loaded.origin["model.n_transit"] == "lib/deep/two.yaml:3"
    assert loaded.origin["model.dropout"] == "lib/three.yaml:2"
    assert loaded.origin["model.n_head"] == "run/x.yaml:3"


def test_own_keys_win_wherever_include_stands() -> None:
    write("one.yaml", "seed: 1")
    assert load(Config, [write("x.yaml", "seed: 2\ninclude: one.yaml\n")], []).value.seed == 2


def test_a_section_can_include() -> None:
    write("preset.yaml", "model: {n_latent: 4}\n")
    text = "name: e\nbase:\n  include: preset.yaml\n  seed: 3\narms:\n  - name: a\n"
    loaded = load(ExperimentConfig, [write("e.yaml", text)], [])
    assert loaded.value.base.model.n_latent == 4
    assert loaded.origin["base.model.n_latent"] == "preset.yaml:1"
    assert loaded.origin["arms"] == "e.yaml:5"


def test_two_ways_to_one_file_are_no_cycle() -> None:
    write("d.yaml", "seed: 4")
    write("b.yaml", "include: d.yaml")
    write("c.yaml", "include: d.yaml")
    assert load(Config, [write("a.yaml", "include: [b.yaml, c.yaml]")], []).value.seed == 4


def test_a_cycle_is_named() -> None:
    write("x/b.yaml", "include: ../c.yaml")
    write("c.yaml", "seed: 1\ninclude: x/b.yaml")
    message = refused(load, Config, [write("a.yaml", "include: x/b.yaml")], [])
    assert "x/b.yaml -> c.yaml -> x/b.yaml" in message and "c.yaml:2" in message


def test_a_missing_include_names_its_neighbour_and_who_wanted_it() -> None:
    write("lib/darkroom.yaml", "seed: 1")
    message = refused(load, Config, [write("a.yaml", "seed: 1\ninclude: lib/darkrom.yaml")], [])
    assert "lib/darkrom.yaml: no such file; did you mean lib/darkroom.yaml?" in message
    assert "included at a.yaml:2" in message


@pytest.mark.parametrize("value", ["3", "[[a.yaml]]", "{a: b}", "null", "''"])
def test_include_takes_paths_only(value: str) -> None:
    message = refused(load, Config, [write("a.yaml", f"include: {value}")], [])
    assert "a.yaml:1: include: expected a path or a list of paths" in message


# --- YAML pitfalls


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1E3", 1000.0), ("-.5", -0.5), ("1.", 1.0), ("+2e-1", 0.2), ("3", 3.0), ("0.1", 0.1)],
)
def test_numbers(text: str, value: float) -> None:
    got = profile(f"switch: true\nrate: {text}\n").rate
    assert got == value and type(got) is float
    assert profile("switch: true", f"rate={text}").rate == value


@pytest.mark.parametrize("text", ["1:30:00", "2026-01-01", "on", "off", "yes", "no", "y", "=", "1_000x"])
def test_text_that_yaml_1_1_would_convert_stays_text(text: str) -> None:
    assert profile(f"time: {text}\n").time == text


@pytest.mark.parametrize("text", ["on", "off", "yes", "no", "'true'", "1", "0"])
def test_a_switch_is_true_or_false(text: str) -> None:
    assert "p.yaml:2: switch: expected true or false, found" in wrong(f"switch: {text}\n")


def test_a_zero_in_front_is_no_octal() -> None:
    assert load(Config, [], ["seed=010"]).value.seed == 10


def test_floats_keep_every_bit() -> None:
    for value in (0.1, 1 / 3, 5e-324, 1.7976931348623157e308, math.pi * 1e-17):
        assert from_mapping(Profile, {"partition": "a", "switch": True, "rate": value}, "o").rate == value


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan"])
def test_numbers_are_finite(text: str) -> None:
    assert "train.learning_rate: expected a number above 0, found" in refused(
        load, Config, [], [f"train.learning_rate={text}"]
    )


@pytest.mark.parametrize("text", ["true", "'3'", "3.5", "3.0", "1e3", "x", "[3]", "null", "1_000"])
def test_a_count_takes_whole_numbers_only(text: str) -> None:
    message = refused(load, Config, [write("a.yaml", f"model:\n  n_latent: {text}\n")], [])
    assert message.startswith("a.yaml:2: model.n_latent: expected a whole number above 0, found ")


def test_text_is_no_number_and_a_number_no_text() -> None:
    assert 'rate: expected a number, found "0.5"' in wrong("rate: '0.5'\n")
    assert "rate: expected a number, found true" in wrong("rate: true\n")
    assert "time: expected text, found 3" in wrong("time: 3\n")


def test_a_key_that_stands_twice_is_an_error() -> None:
    message = refused(
        load, Config, [write("a.yaml", "model:\n  n_latent: 1\n  n_head: 4\n  n_latent: 2\n")], []
    )
    assert message == "a.yaml:4: n_latent: is defined twice (first at a.yaml:2); keep one"


def test_anchors_work_and_merge_keys_and_loops_are_refused() -> None:
    assert profile("environment: {A: &x v, B: *x}\n").environment == {"A": "v", "B": "v"}
    assert "p.yaml:3: merge keys" in wrong("environment: &e {A: b}\nstage: {<<: *e}\n").replace(
        "p.yaml:2", ""
    )
    assert "inside its own anchor" in wrong("environment: &e\n  A: *e\n")


# --- what is not a config


def test_missing_file() -> None:
    write("configs/quick.yaml", "")
    message = refused(load, Config, [Path("configs/quik.yaml")], [])
    assert message == "configs/quik.yaml: no such file; did you mean configs/quick.yaml?"
    assert "its folder nowhere is not there either" in refused(load, Config, [Path("nowhere/x.yaml")], [])


def test_a_folder_in_place_of_a_file() -> None:
    Path("configs").mkdir()
    assert refused(load, Config, [Path("configs")], []) == "configs: is a folder; name a YAML file in it"


def test_not_utf8() -> None:
    message = refused(load, Config, [write("a.yaml", b"seed: 1 # caf\xe9\n")], [])
    assert message == "a.yaml: not UTF-8 text (byte 13); save it as UTF-8"


def test_a_byte_order_mark_is_harmless() -> None:
    assert load(Config, [write("a.yaml", b"\xef\xbb\xbfseed: 3\n")], []).value.seed == 3


@pytest.mark.parametrize(
    ("text", "actual"), [("- a\n- b\n", "a list"), ("seed\n", "the single value 'seed'")]
)
def test_not_a_mapping(text: str, actual: str) -> None:
    message = refused(load, Config, [write("a.yaml", text)], [])
    assert message == f"a.yaml: expected a mapping (key: value), found {actual}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nmodel: {n_latent: 3\n", "a.yaml:3: not valid YAML"),
        ("seed: 1\n\tmodel: 2\n", "a.yaml:2: not valid YAML"),
        ("seed: 1\n---\nseed: 2\n", "a.yaml:2: not valid YAML"),
        ("seed: \x00\n", "a.yaml:1: not valid YAML: the character \\x00 is not allowed"),
        (
            "seed: 1\nenv: !!python/object/apply:os.getcwd []\n",
            "a.yaml:2: the tag !!python/object/apply:os.getcwd",
        ),
        ("seed: !!binary aGk=\n", "a.yaml:1: 'aGk=' is not a valid !!binary"),
        ("seed: !!int x\n", "a.yaml:1: 'x' is not a valid !!int"),
        ("3: 4\n", "a.yaml:1: a key must be text; quote it: '3'"),
        ("? [a]\n: 4\n", "a.yaml:1: a key must be text"),
        ("seed: " + "[" * 1500 + "]" * 1500, "a.yaml:1: not valid YAML: nested too deeply"),
    ],
)
def test_not_yaml(text: str, says: str) -> None:
    assert says in refused(load, Config, [write("a.yaml", text)], [])


def test_half_a_character_is_refused() -> None:
    assert "p.yaml:2: the character \\ud800 is not allowed in a config" in wrong('time: "\\ud800"\n')


# --- keys and values


def test_an_unknown_key_names_its_neighbour_and_its_line() -> None:
    message = refused(load, Config, [write("a.yaml", "model:\n  n_latnt: 4\n")], [])
    assert message == "a.yaml:2: model.n_latnt: unknown key; did you mean model.n_latent?"


@pytest.mark.parametrize(
    ("override", "suggested"),
    [
        ("n_latent=4", "did you mean model.n_latent?"),
        ("n_latents=4", "did you mean model.n_latent?"),
        ("modle.n_latent=4", "did you mean model?"),
        ("train.n_transit=4", "did you mean model.n_transit?"),
        ("model.horizon=4", "did you mean env.horizon?"),
        ("Seed=4", "did you mean seed"),
        ("zzzz=4", "allowed here: seed, env, source, model"),
    ],
)
def test_where_an_unknown_key_may_belong(override: str, suggested: str) -> None:
    assert suggested in refused(load, Config, [], [override])


def test_a_dotted_key_in_yaml_is_told_to_be_nested() -> None:
    message = refused(load, Config, [write("a.yaml", "model.n_latent: 4\n")], [])
    assert message == "a.yaml:1: model.n_latent: unknown key; write it nested: model: {n_latent: ...}"


def test_neighbours_inside_lists_and_of_experiments() -> None:
    text = "name: e\nmodel: {n_latent: 4}\narms:\n  - name: a\n    gird: {}\n"
    message = refused(load, ExperimentConfig, [write("e.yaml", text)], [])
    assert "e.yaml:2: model: unknown key; did you mean base.model?" in message
    assert "e.yaml:5: arms[0].gird: unknown key; did you mean arms[0].grid?" in message


def test_a_wrong_choice_lists_the_choices() -> None:
    message = refused(load, Config, [], ["model.kind=compresed_ad"])
    assert "model.kind: expected one of " in message
    assert (
        'compressed_ad, region_ad, gru, linear_attention, found "compresed_ad"; did you mean compressed_ad?'
        in message
    )


@pytest.mark.parametrize(
    ("override", "bound"),
    [
        ("env.size=1", "a whole number from 2 to 100, found 1"),
        ("env.split_seed=-1", "a whole number at least 0, found -1"),
        ("model.dropout=1", "a number at least 0 and below 1, found 1"),
        ("source.gamma=1.5", "a number above 0 and at most 1, found 1.5"),
        ("env.horizon=0", "a whole number above 0, or null, found 0"),
    ],
)
def test_a_range_error_says_the_bounds(override: str, bound: str) -> None:
    key = override.partition("=")[0]
    assert refused(load, Config, [], [override]) == f"override: {key}: expected {bound}"


def test_a_wrong_item_names_its_place_only() -> None:
    text = "name: e\narms:\n  - {name: a, grid: {seed: 3}}\n"
    message = refused(load, ExperimentConfig, [write("e.yaml", text)], [])
    assert message == "e.yaml:3: arms[0].grid.seed: expected a list, found 3"


def test_an_empty_list_says_how_many() -> None:
    message = refused(load, ExperimentConfig, [write("e.yaml", "name: e\narms: []\n")], [])
    assert "e.yaml:2: arms: expected a list of at least 1" in message


def test_pairs_unions_and_mappings() -> None:
    assert "shape: expected a list of 2: a whole number; a whole number, found 3" in wrong("shape: 3\n")
    assert "shape[1]: missing; it takes a whole number" in wrong("shape: [1]\n")
    assert 'shape[1]: expected a whole number, found "x"' in wrong("shape: [1, x]\n")
    assert wrong("nodes: 1.5\n") == "p.yaml:2: nodes: expected a whole number, or text, found 1.5"
    assert "environment.A: expected text, found 3" in wrong("environment: {A: 3}\n")
    assert "stages.train: expected a section (keys minutes), found null" in wrong("stages:\n  train:\n")
    assert "stages.train.minutez: unknown key; did you mean stages.train.minutes?" in wrong(
        "stages: {train: {minutez: 3}}\n"
    )


def test_a_missing_key_says_what_it_takes() -> None:
    message = refused(load, Profile, [write("p.yaml", "rate: 1\n")], [])
    assert message == "p.yaml:1: partition: missing; it takes text"


def test_a_section_replaced_by_a_value() -> None:
    message = refused(load, Config, [write("a.yaml", "seed: 1\nmodel:\nenv: 3\n")], [])
    assert "a.yaml:2: model: expected a section (keys kind, n_embd," in message
    assert "a.yaml:3: env: expected a section" in message


def test_a_broken_rule_says_the_section_and_where_its_keys_come_from() -> None:
    message = refused(load, Config, [write("a.yaml", "model:\n  n_head: 3\n")], [])
    assert message == "model: n_head=3 does not divide n_embd=64 (n_head: a.yaml:2; n_embd: default)"


def test_a_rule_over_sections() -> None:
    message = refused(load, Config, [], ["source.steps_per_stream=1001"])
    assert "source.steps_per_stream=1001 is not a whole number of episodes" in message
    assert "(source.steps_per_stream: override; env.horizon: default)" in message


def test_all_problems_are_listed_together() -> None:
    path = write(
        "a.yaml",
        "modle: {}\nseed: -1\ninclude: gone.yaml\nseed: 2\nsource:\n  hidden: big\nenv: {name: dark}\n",
    )
    message = refused(load, Config, [path], ["nothing", "model.n_head=3", "model.n_latent=x"])
    lines = message.splitlines()
    assert lines[0] == f"{len(lines) - 1} problems in the configuration:"
    for part in (
        "gone.yaml: no such file",
        "a.yaml:4: seed: is defined twice",
        "override 'nothing'",
        "a.yaml:1: modle",
        "a.yaml:2: seed",
        "a.yaml:6: source.hidden",
        "a.yaml:7: env.name",
        "override: model.n_latent",
    ):
        assert sum(part in line for line in lines) == 1, part
    assert len(lines) == 9


def test_an_unreadable_file_is_not_blamed_twice() -> None:
    assert refused(load, Profile, [Path("gone.yaml")], []) == "gone.yaml: no such file"


# --- overrides


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "override 'seed': expected KEY=VALUE, such as seed=1"),
        ("=3", "override '=3': expected KEY=VALUE, such as seed=1"),
        ("seed=", "override 'seed=': no value after '='"),
        ("model..seed=3", "override 'model..seed=3': 'model..seed' is not a dotted key"),
        ("seed=[1", "override 'seed=[1': not valid YAML"),
        ("seed.x=1", "seed is a whole number at least 0, not a section"),
        ("seed={a: 1, a: 2}", "a: is defined twice"),
    ],
)
def test_a_wrong_override(override: str, says: str) -> None:
    message = refused(load, Config, [], [override])
    assert says in message and "problems" not in message


def test_an_override_through_a_scalar_of_a_file() -> None:
    message = refused(load, Config, [write("a.yaml", "model: 3\n")], ["model.n_latent=4"])
    assert "override 'model.n_latent=4': model.n_latent: model is 3 (a.yaml:1), not a section" in message


def test_an_override_may_open_a_section_that_was_null() -> None:
    assert profile("stage: null\n", "stage.minutes=3").stage == Stage(minutes=3)


# --- mappings and grids


def test_json_of_a_config_comes_back_equal() -> None:
    value = load(
        Config, [], ["train.depth_weights=[1, 2, 3, 4]", "train.grad_clip=2", "env.horizon=10"]
    ).value
    assert from_mapping(Config, value.model_dump(mode="json"), "config.json") == value


def test_a_damaged_mapping_names_its_file() -> None:
    assert refused(from_mapping, Config, [1], "run/config.json").startswith(
        "run/config.json: expected a mapping"
    )
    message = refused(from_mapping, Config, {"model": {"n_latent": "4"}, "tran": {}}, "run/config.json")
    assert message.startswith("2 problems in run/config.json:")
    assert 'model.n_latent: expected a whole number above 0, found "4"' in message
    assert "tran: unknown key; did you mean train?" in message


def test_a_grid_point_is_applied_together_and_validated() -> None:
    base = load(Config, [], ["model.n_latent=4"]).value
    value = base.with_overrides({"model.n_embd": 48, "model.n_head": 3, "train": {"n_updates": 7}}, "arm 'x'")
    assert (value.model.n_embd, value.model.n_head, value.model.n_latent, value.train.n_updates) == (
        48,
        3,
        4,
        7,
    )
    assert base.model.n_head == 4


def test_a_wrong_grid_point_names_its_arm() -> None:
    where = "e.yaml: arm 'AD'"
    assert refused(Config().with_overrides, {"model.n_latnt": 3}, where) == (
        f"{where}: model.n_latnt: unknown key; did you mean model.n_latent?"
    )
    assert refused(Config().with_overrides, {"model.n_head": 3}, where) == (
        f"{where}: model: n_head=3 does not divide n_embd=64"
    )
    assert refused(Config().with_overrides, {"seed.x": 3, "env.size": True}, where).startswith(
        f"2 problems in {where}:"
    )
    assert "object is not allowed in a config" in refused(Config().with_overrides, {"seed": object()}, where)
