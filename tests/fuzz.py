"""Random settings and random YAML: each ends in a result or in one clear message.

``python -m tests.fuzz --minutes 30`` goes on for as long as one likes, with other cases each time;
``tests/test_fuzz.py`` takes the same cases each time, for some seconds.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from cad.config import load, show
from cad.config.keys import Keys, Schema, keys_of
from cad.config.source import SOURCES
from cad.envs.registry import FAMILIES, task_family
from cad.errors import CadError, UsageError, printable
from cad.evaluation.results import load_results
from cad.experiments.plan.cells import Cell, expand
from cad.experiments.run.trained_model import evaluate, validation_return
from cad.histories.made_up import made_up_histories
from cad.histories.source import learn
from cad.interrupt import StopFlag
from cad.models.registry import MODELS
from cad.schema import Config, ExperimentConfig
from cad.training.learner import build_pretraining, build_training

if __package__:  # python -m tests.fuzz
    from tests.forked import run_cli
else:
    from forked import run_cli

# What a case starts from; it takes a tenth of a second.
SMALL = (
    "env.size=3", "env.horizon=8", "env.n_tasks=7", "env.n_validation=1", "env.corridor=3", "env.n_cues=4",
    "source.n_streams=3", "source.steps_per_stream=48", "source.n_steps=4", "source.batch_size=12",
    "source.n_epochs=1", "source.hidden=8", "model.n_embd=8", "model.n_head=2", "model.n_layer=1",
    "model.n_transit=12", "model.n_unroll=8", "model.compress_interval=4", "model.n_latent=2",
    "model.encoder_n_layer=1", "model.max_compression_depth=1", "train.n_updates=2", "train.batch_size=2",
    "train.max_episode_gap=2", "train.num_warmup_steps=1", "train.log_every=1", "train.checkpoint_every=1",
    "train.validate_every=1", "train.watchdog_share=null", "train.validation_episodes=2",
    "train.validation_rollouts=1", "pretrain.n_updates=2", "pretrain.batch_size=2",
    "pretrain.max_episode_gap=2", "pretrain.log_every=1", "pretrain.checkpoint_every=1",
    "pretrain.num_warmup_steps=1", "evaluation.n_episodes=3", "evaluation.n_rollouts=2",
)  # fmt: skip
# Of a config that is run; all others are only read and planned.
_MOST_WORK, _MOST_TASKS = 3e6, 30
_LONGEST = 20_000  # characters of a message

# The key that names the kind of a section, and its default.
_TAGS = {
    "env": ("env.name", "darkroom"),
    "source": ("source.kind", "ppo"),
    "model": ("model.kind", "compressed_ad"),
}
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_WORDS = ("stage", "no-such-file.safetensors", "", "_", "a/b", "[/b]", ":x:", "é", "深", "null", "~", "1e3")


def _numbers(schema: Schema) -> st.SearchStrategy[Any]:
    """Mostly small numbers that are taken, then those at the bounds and outside them."""
    bounds = [schema[key] for key in _BOUNDS if key in schema]
    if schema["type"] == "integer":
        least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        sound = st.one_of(st.integers(least, least + 8), st.sampled_from([12, 16, 24]))
        near = [bound + step for bound in bounds for step in (-1, 0, 1)]
        odd = st.sampled_from([*near, 48, 96, 1000, 2**31, 2**63, 10**30, -1, 0.5, "3", None, True])
    else:
        low, high = schema.get("minimum", -1e-9), schema.get("maximum", schema.get("exclusiveMaximum", 1e9))
        sound = st.sampled_from(
            [x for x in (0, 1e-9, 1e-3, 0.1, 0.3, 0.5, 0.9, 1, 2, 10.0) if low <= x <= high]
        )
        near = [bound * factor for bound in bounds for factor in (0.999, 1, 1.001)]
        odd = st.sampled_from([*near, 1e-300, 1e30, 1e308, -1, -0.5, math.inf, math.nan, "x", None, False])
    return st.one_of(*[sound] * 15, odd)


def _values(keys: Keys, schema: Schema) -> st.SearchStrategy[Any]:
    """Values of a key, right ones and wrong ones."""
    options: list[st.SearchStrategy[Any]] = []
    for option in keys.options(schema):
        if "enum" in option or "const" in option:
            options.append(st.sampled_from(option.get("enum", [option.get("const")])))
        elif option.get("type") in ("integer", "number"):
            options.append(_numbers(option))
        elif option.get("type") == "boolean":
            options.append(st.booleans())
        elif option.get("type") == "array":
            options.append(st.lists(_values(keys, option.get("items", {"type": "integer"})), max_size=4))
        elif option.get("type") == "null":
            options.append(st.none())
        else:
            options.append(st.sampled_from(_WORDS))
    return st.one_of(options)


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    """Kinds of environment, source and model, and overrides of up to six of their keys."""
    keys = keys_of(Config)
    chosen = {
        "env.name": draw(st.sampled_from(["darkroom", *FAMILIES])),
        "source.kind": draw(st.sampled_from([*SOURCES])),
        "model.kind": draw(st.sampled_from([*MODELS])),
    }
    words = [f"{tag}={kind}" for tag, kind in chosen.items()]
    names = [path for path in keys.paths if len(path) < 3 and ".".join(path) not in chosen]
    for path in draw(st.lists(st.sampled_from(names), max_size=6, unique=True)):
        tag = next((tag for tag in chosen if tag.startswith(f"{path[0]}.")), None)
        section = keys.at(path[:1]) or {}
        option = section if tag is None else keys._kinds(section)[chosen[tag]]
        schema = keys.child(option, path[-1]) if len(path) > 1 else keys.at(path)
        if schema is not None and not keys.section_keys(schema):
            words.append(f"{'.'.join(path)}={_yaml(draw(_values(keys, schema)))}")
    return words


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()


def load_small(words: list[str]) -> Config:
    """The small config with overrides."""
    return load(Config, [], small_words(words)).value


def small_words(words: list[str]) -> list[str]:
    """Overrides of the small config, but for those that the kinds in ``words`` do not have, and ``words``."""
    chosen = dict(_TAGS.values())
    chosen |= {key: text for key, _, text in (word.partition("=") for word in words) if key in chosen}
    return [*(word for word in SMALL if _takes(word, chosen)), *words]


def _takes(word: str, chosen: dict[str, str]) -> bool:
    section, _, name = word.partition("=")[0].partition(".")
    if section not in _TAGS:
        return True
    keys = keys_of(Config)
    kinds = keys._kinds(keys.at((section,)) or {})
    kind = chosen[_TAGS[section][0]]
    return kind not in kinds or name in kinds[kind]["properties"]


def work(config: Config) -> float:
    """About how many numbers a run of ``config`` touches, in its largest parts."""
    model = config.model.model_dump()
    width = max(model.get(key) or 1 for key in ("n_embd", "n_inner", "n_hidden", "head_width"))
    layers = config.model.n_layer + (model.get("encoder_n_layer") or 0)
    train, pretrain, source = config.train, config.pretrain, config.source
    window = max(config.spec.training_window(config.model), model.get("n_transit") or 1) + (
        model.get("n_latent") or 0
    )
    steps = config.env.steps_per_episode
    rolled = config.n_evaluated * config.evaluation.n_rollouts * config.evaluation.n_episodes
    watched = (
        config.env.n_validation * train.validation_rollouts * train.validation_episodes * train.n_updates
    )
    trained = (train.n_updates * train.batch_size + pretrain.n_updates * pretrain.batch_size) * window
    learned = (
        source.n_streams
        * source.steps_per_stream
        * (getattr(source, "n_epochs", 1) * getattr(source, "hidden", 1))
    )
    return float(
        max(
            trained * width * layers,
            (rolled + watched) * steps * width * layers,
            width**2 * layers * 9,
            learned,
        )
    )


def is_small(config: Config) -> bool:
    """Whether a config can be run within a second or two."""
    plain = config.train.engine == config.pretrain.engine == "plain" and not (
        config.train.compile or config.pretrain.compile or config.train.stream or config.pretrain.stream
    )
    return plain and config.env.total_tasks <= _MOST_TASKS and work(config) <= _MOST_WORK


def run(config: Config) -> None:
    """Learn a task from scratch, train the model on made-up histories, and roll it out."""
    family, quiet = task_family(config.env), StopFlag()
    learn(family, config.evaluated_tasks[0], config.source)
    arrays = made_up_histories(family, config.source.steps_per_stream)
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory(prefix="cad-fuzz-") as folder:
        if config.pretrain.enabled:
            build_pretraining(config, arrays).fit(Path(folder) / "a", run_id="a", device=cpu, stop=quiet)
        learner = build_training(config, arrays)
        learner.fit(
            Path(folder) / "b", run_id="b", device=cpu, stop=quiet,
            validate=lambda: validation_return(config, learner.model),
        )  # fmt: skip
        result = evaluate(learner.model.eval(), config, quiet)
    assert (result.returns >= -1e-6).all() and result.returns.shape[2] == config.evaluation.n_episodes


def check_message(error: CadError) -> None:
    """A message for people: short, printable, without a library's own words for a class."""
    text = str(error)
    assert text and len(text) <= _LONGEST, text[:500]
    assert printable(text, keep="\n\t") == text, repr(text[:500])
    assert "Traceback" not in text and "object at 0x" not in text, text[:500]


def one_config(words: list[str], count: Counter[str]) -> None:
    """A case: overrides of the small config."""
    try:
        config = load_small(words)
    except UsageError as error:
        check_message(error)
        count["refused"] += 1
        return
    assert config.with_overrides({}, "again") == config
    try:
        assert all(stage.name for stage in Cell("", "", config).stages)
        if not is_small(config):
            count["planned"] += 1
            return
        run(config)
        count["run"] += 1
    except CadError as error:
        check_message(error)
        count["run to a message"] += 1


def one_command(words: list[str], root: Path, count: Counter[str]) -> None:
    """A case: the same overrides in a real ``cad evaluate``, in a process of its own."""
    message = None
    try:
        config = load_small(words)
        if not is_small(config):
            return
    except UsageError as error:
        message = str(error)
    with tempfile.TemporaryDirectory(prefix="cad-fuzz-", dir=root) as folder:
        command = ["evaluate", *small_words(words), "--root", folder, "--workers", "1", "--device", "cpu"]
        done = run_cli(command, root, timeout=300)
        told = done.stderr.splitlines()
        assert "Traceback" not in done.stdout + done.stderr and len(done.stderr) < _LONGEST, done.stderr
        if message is not None:
            assert (done.returncode, done.stderr) == (2, f"error: {printable(message, keep=chr(10))}\n"), (
                words
            )
            count["refused"] += 1
        elif done.returncode == 0:
            (results,) = Path(folder).glob("stages/evaluate-*/returns.h5")
            assert load_results(results).returns.shape[2] == config.evaluation.n_episodes
            count["run"] += 1
        else:
            assert done.returncode == 1 and told and told[-1].strip(), (done.returncode, told)
            assert any(line.startswith("error: ") for line in told), told
            count["run to a message"] += 1


# Pieces that a YAML file may be made of, sound and not.
_PIECES = (
    "seed: 1\n", "model: {kind: ad}\n", "model:\n", "  n_latent: 4\n", "include: other.yaml\n",
    "include: [", "]", "}", "{", "- ", "&a ", "*a", "<<: *a\n", "? ", ": ", "!!python/name:os.system ",
    "!!int ", "|\n", ">\n", "'", '"', "\\", "#", "---\n", "...\n", "%YAML 1.1\n", "\t", " ", "\n", "\r\n",
    "\"", "0x", "1_000", "1e999", "-.inf", ".nan", "~", "9" * 50, "x" * 200, "\u2028", "\ufeff", "\x00",
    "\x1b[31m", "é深", "arms:\n  - name: a\n", "name: e\n", "seeds: [0]\n", "    set: {model.kind: gru}\n",
    "    grid: {model.n_layer: [1, 2]}\n", "base: {seed: 2}\n", "train: &t {n_updates: 3}\n",
    "pretrain: *t\n", "env: {size: 3}\n",
)  # fmt: skip


def texts() -> st.SearchStrategy[bytes]:
    """Files: pieces of YAML in any order, and bytes."""
    lines = st.lists(st.sampled_from([piece for piece in _PIECES if piece.endswith("\n")]), max_size=5).map(
        "".join
    )
    odd = st.lists(st.one_of(st.sampled_from(_PIECES), st.text(max_size=5)), max_size=25).map("".join)
    pieces = st.one_of(lines, odd, st.tuples(lines, odd).map("".join))
    return st.one_of(pieces.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=60))


def one_text(text: bytes, folder: Path, count: Counter[str]) -> None:
    """A case: a file, and its text as an override's value."""
    file = folder / "a.yaml"
    file.write_bytes(text)
    (folder / "other.yaml").write_text("seed: 4\n", encoding="utf-8")
    value = text.decode("utf-8", "surrogateescape")
    readings: list[Callable[[], object]] = [
        lambda: show(load(Config, [file])),
        lambda: expand(load(ExperimentConfig, [file]).value, "a.yaml"),
        lambda: load(Config, [], [f"model={value}"]),
        lambda: load(Config, [], [value]),
    ]
    for number, read in enumerate(readings):
        try:
            read()
            count["read"] += 1
        except UsageError as error:
            check_message(error)
            count["refused"] += 1
            assert number > 1 or "a.yaml" in str(error), str(error)


def fuzz_configs(examples: int, count: Counter[str], start: int | None = None) -> None:
    """Try random configs: the same ones each time, or those of a ``start``."""
    _try(overrides(), lambda words: one_config(words, count), examples, start)


def fuzz_commands(examples: int, root: Path, count: Counter[str], start: int | None = None) -> None:
    """Try random configs on the command line: the same ones each time, or those of a ``start``."""
    _try(overrides(), lambda words: one_command(words, root, count), examples, start)


def fuzz_texts(examples: int, folder: Path, count: Counter[str], start: int | None = None) -> None:
    """Try random files: the same ones each time, or those of a ``start``."""
    _try(texts(), lambda text: one_text(text, folder, count), examples, start)


def _try(
    strategy: st.SearchStrategy[Any], case: Callable[[Any], None], examples: int, start: int | None
) -> None:
    @settings(
        max_examples=examples, database=None, deadline=None, derandomize=start is None, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    @given(strategy)
    def each(drawn: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case(drawn)

    (each if start is None else seed(start)(each))()


def main() -> None:
    """Fuzz by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--start", type=int, default=time.time_ns() % 10**9, help="printed, to try again")
    given_words = parser.parse_args()
    torch.set_num_threads(1)
    configs: Counter[str] = Counter()
    files: Counter[str] = Counter()
    commands: Counter[str] = Counter()
    end, start = time.monotonic() + 60 * given_words.minutes, given_words.start

    def told() -> str:
        return f"configs {dict(configs)}, commands {dict(commands)}, files {dict(files)}"

    with tempfile.TemporaryDirectory(prefix="cad-fuzz-") as folder:
        while time.monotonic() < end:
            print(f"start {start}: {told()}", flush=True)
            fuzz_configs(100, configs, start)
            fuzz_commands(5, Path(folder), commands, start)
            fuzz_texts(300, Path(folder), files, start)
            start += 1
    print(f"{told()}: nothing found")


if __name__ == "__main__":
    main()
