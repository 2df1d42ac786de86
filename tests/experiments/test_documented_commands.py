"""Every command in README and docs is one that this program takes, with files, keys and options that exist.

Those that need no cluster are also run, on the small experiment of the tests
(`make test-exhaustive`).
"""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from forked import run_cli

from cad.cli.app import build
from cad.cli.arguments import split_files
from cad.cluster.profile import Profile
from cad.config import load
from cad.experiments.plan.cells import Cell, distinct_stages
from cad.experiments.plan.environments import require_environments
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.run.resources import require_ranks_of_cells
from cad.schema import Config, holds_experiment

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "slurm/README.md",
    ROOT / "CONTRIBUTING.md",
]
PAGES += [ROOT / "benchmarks/README.md", ROOT / "experiments/results/README.md"]
# They need Slurm: tests/cluster runs them.
CLUSTER = ("submit", "logs", "cancel", "retry", "profile")
# A server, a check of the whole machine, a browser, one command for all parsers: tests of their own.
ELSEWHERE = ("tensorboard", "doctor", "open")
# Of files that are not there; tests/histories runs them.
FILES_OF_OTHERS = (["histories", "import"], ["histories", "export"])
# Commands of whole experiments.
WHOLE = (
    "run",
    "report",
    "open",
    "repair",
    "status",
    "probe",
    "export-table",
    "tensorboard",
    "watch-rollout",
    *CLUSTER[:4],
)
# The settings of the small experiment, whose histories are there already, and short trainings.
CHEAP = (
    "env.size=5", "env.horizon=10", "env.n_tasks=12", "env.n_heldout=3", "env.n_validation=2",
    "source.n_streams=10", "source.steps_per_stream=300", "source.n_steps=20", "source.batch_size=100",
    "source.n_epochs=5", "source.learning_rate=0.006", "model.n_embd=16", "model.n_layer=1",
    "model.n_head=2", "train.n_updates=4", "train.batch_size=4", "train.log_every=2",
    "train.checkpoint_every=2", "train.validate_every=0", "train.max_episode_gap=3",
    "train.watchdog_share=null", "train.num_warmup_steps=1", "pretrain.n_updates=4", "pretrain.log_every=2",
    "pretrain.checkpoint_every=2", "pretrain.max_episode_gap=3", "evaluation.n_episodes=3",
    "evaluation.n_rollouts=1",
)  # fmt: skip
# What stands for a file or a number of the reader's own.
PLACEHOLDERS = {
    "EXPERIMENT": "experiments/quickstart.yaml", "EXPERIMENT.yaml": "experiments/quickstart.yaml",
    "A.yaml": "experiments/quickstart.yaml", "B.yaml": "experiments/ablation.yaml",
    "experiments/NAME.yaml": "experiments/quickstart.yaml", "examples/NAME.yaml": "examples/ring.yaml",
    "CELL.yaml": "configs/model/ad.yaml", "CELL": "3",
    "X.gif|X.png": "X.gif", "NAME": "ring:Ring",
}  # fmt: skip


def commands() -> dict[str, Any]:
    """Every command by its name; those of groups by two words."""
    root: Any = typer.main.get_command(build())
    found: dict[str, Any] = {}
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {k}": v for k, v in inner.items()}
    return found


def examples() -> dict[str, str]:
    """The line of a command's help that begins with "Example: cad", without these words, by the command."""
    helps = {name: re.findall(r"^Example: cad (.+)$", c.help, re.M) for name, c in commands().items()}
    assert [name for name, lines in helps.items() if len(lines) != 1] == []
    return {name: lines[0] for name, lines in helps.items()}


def documented() -> list[str]:
    """Command lines that begin with ``cad``: examples of their help, and in blocks and sentences of pages."""
    found: dict[str, None] = {shlex.join(shlex.split(line)): None for line in examples().values()}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        sentences = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        spans = re.findall(r"`(cad [^`]+)`", " ".join(sentences.split()))
        for line in itertools.chain(lines, spans):
            words = shlex.split(line, comments=True)
            if words[:1] == ["cad"] and len(words) > 2:  # not only the name of a command
                found[shlex.join(words[1:])] = None
    return list(found)


COMMANDS = documented()


def words_of(line: str) -> list[str]:
    """The words, with what may be left out, and examples in the place of placeholders."""
    words = [word if "=[" in word else word.strip("[]") for word in shlex.split(line)]
    words = [PLACEHOLDERS.get(word, word) for word in words]
    own = "--model" in words or any(word.endswith(".yaml") and "profiles" not in word for word in words)
    named_alone = words[0] in WHOLE and not own
    return [words[0], "experiments/quickstart.yaml", *words[1:]] if named_alone else words


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a command, as the program reads them; raises where it would refuse them."""
    command: Any = typer.main.get_command(build())
    context = command.make_context("cad", [], resilient_parsing=True)
    names = []
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, words)
        names.append(name)
    return " ".join(names), command.make_context(names[-1], words).params


def test_the_example_of_a_command_is_of_that_command() -> None:
    assert len(examples()) > 25
    assert [name for name, line in examples().items() if parsed(words_of(line))[0] != name] == []


def test_there_are_commands_to_look_at() -> None:
    assert len(COMMANDS) > 40
    assert "run experiments/quickstart.yaml 'seeds=[0,1,2]' base.train.n_updates=4000" in COMMANDS
    assert "run --until pretrain" in COMMANDS


@pytest.mark.parametrize("line", COMMANDS)
def test_a_documented_command_is_taken(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "examples")
    name, arguments = parsed(words_of(line))
    words = (arguments.get("words") or []) + (arguments.get("overrides") or [])
    words += [f"env.name={family}"] if (family := arguments.get("family")) else []
    if name == "doctor" and any(holds_experiment(file) for file in split_files(words)[0]):
        assert open_experiment(split_files(words)[0][0], [], Path("runs")).cells
    elif name.startswith(WHOLE) and not arguments.get("model"):
        others, overrides = split_files(words)
        files = [Path(file) for file in others if not file.name.isdecimal()]
        for file in (Path(arguments["experiment"]), *files):
            cells = open_experiment(file, overrides, Path("runs")).cells
            require_ranks_of_cells(cells, arguments.get("ranks", 1))
    elif not arguments.get("model"):
        config = load(Config, *split_files(words)).value
        require_ranks_of_cells([Cell("", "", config)], arguments.get("ranks", 1))
    if (profile := arguments.get("profile")) is not None:
        assert load(Profile, [profile]).value


def fenced(page: Path, language: str) -> list[str]:
    """A page's blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def yaml_blocks() -> list[tuple[str, str]]:
    """The blocks of YAML in pages that are an experiment or a section ``env``."""
    blocks = [(page.name, block) for page in PAGES for block in fenced(page, "yaml")]
    return [(name, block) for name, block in blocks if re.search(r"^(env|arms):", block, re.MULTILINE)]


@pytest.mark.parametrize(("page", "block"), yaml_blocks())
def test_a_documented_experiment_is_one(
    page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the environments that the same page registers."""
    monkeypatch.syspath_prepend(tmp_path)
    for code in (code for other in PAGES if other.name == page for code in fenced(other, "python")):
        if module := re.search(r'entry_point="(\w+):', code):
            (tmp_path / f"{module[1]}.py").write_text(code)
    file = tmp_path / "experiments" / "e.yaml"
    file.parent.mkdir()
    if "arms:" in block:
        file.write_text(block if "name:" in block.splitlines()[0] else f"name: e\n{block}")
        stages = distinct_stages(open_experiment(file, [], tmp_path).cells)
    else:
        file.write_text(f"{block}train: {{validate_every: 0}}\n")
        # It shows every key, and one of them is for environments with actions of another kind.
        stages = Cell("", "", load(Config, [file], ["env.bins=null"]).value).stages
    require_environments(stages)


@pytest.mark.timeout(2400)
def test_documented_commands_run(copy: Path, small: Path, tmp_path: Path) -> None:
    """In their order, in the folder of a finished small experiment; costly settings are made small."""
    training = next((copy / "stages").glob("train-*"))
    (histories,) = (copy / "stages").glob("histories-*/histories.h5")
    own = {
        "train-0123456789ab": training.name,
        "FILE.h5": str(histories),
        "100": "3",  # episodes to draw
        "experiments/results/NAME": "published",
    }
    ran = 0
    for line in COMMANDS:
        words = words_of(line)
        if words[0] in CLUSTER or words[0] in ELSEWHERE or words[:2] in FILES_OF_OTHERS:
            continue
        experiments = [word for word in words if re.fullmatch(r"(experiments|examples)/\w+\.yaml", word)]
        words = [str(small) if word in experiments else own.get(word, word) for word in words]
        if words[0] == "run" and any("=" in word for word in words):
            words.append("--dry-run")
        if "--compare" in words:
            words = [words[0], words[1], words[-1]]  # the same experiment twice does not compare
            words.remove("--compare")
        if words[0] in ("collect", "pretrain", "train", "evaluate") and "--model" not in words:
            region = ["model.compress_interval=20", "model.n_transit=44"] if "region_ad" in words[1] else []
            words += [word for word in [*CHEAP, *region] if word.partition("=")[0] not in " ".join(words)]
            words += ["source.kind=ppo"] if words[0] == "collect" else []
        done = run_cli(words, tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), (line, words, done.stderr[-2000:])
        ran += 1
    assert ran > 30
