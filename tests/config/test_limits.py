"""Input that is too much, or no input at all: refused soon, in little memory, with file and line."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cad.config import load
from cad.config.yaml_source import MOST_BYTES
from cad.errors import UsageError, printable
from cad.schema import Config


@pytest.fixture(autouse=True)
def _soon_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test of this file has a second of CPU and 200 MB for what is refused."""
    monkeypatch.chdir(tmp_path)
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - began < 3  # a busy machine needs more
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def write(name: str, text: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(*words: str | Path) -> str:
    files = [word for word in words if isinstance(word, Path)]
    with pytest.raises(UsageError) as caught:
        load(Config, files, [word for word in words if isinstance(word, str)])
    return str(caught.value)


def test_aliases_of_aliases() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11)]
    message = refused(write("a.yaml", "\n".join(lines)))
    assert message.startswith("a.yaml:1: more than 10,000 values with those behind aliases (*)")


def test_aliases_in_reason_are_fine() -> None:
    text = "train: &t {n_updates: 100, log_every: 25}\npretrain: *t\n"
    assert load(Config, [write("a.yaml", text)]).value.pretrain.n_updates == 100


def test_two_includes_twenty_five_levels_deep() -> None:
    for level in range(25):
        for side in "ab":
            write(f"{side}{level}.yaml", f"seed: 1\ninclude: [a{level + 1}.yaml, b{level + 1}.yaml]\n")
    for side in "ab":
        write(f"{side}25.yaml", "seed: 2\n")
    message = refused(Path("a0.yaml"))
    assert "more than 200 files, each counted as often as it is included" in message
    assert message.startswith(("a", "b")) and ".yaml:2: include: " in message


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "/dev/zero",
            "/dev/zero: cannot be read: it is a pipe or a device, not a file (included at a",
        ),
        ("fifo", "fifo: cannot be read: it is a pipe or a device, not a file (included at a.yaml:2)"),
        ("folder", "folder: is a folder; name a YAML file in it (included at a.yaml:2)"),
        ("loop", "loop: cannot be read: symbolic links that lead to each other (included at a.yaml:2)"),
        ("large", "large: cannot be read: more than 200,000 bytes, which no config needs (included at a.y"),
        ('"a\\0b"', "a.yaml:2: the character \\x00 is not allowed in a config"),
        ("x" * 5000, ": cannot be read: File name too long (included at a.yaml:2)"),
    ],
)
def test_what_is_no_file_of_settings(name: str, says: str) -> None:
    os.mkfifo("fifo")
    Path("folder").mkdir()
    Path("loop").symlink_to("pool")
    Path("pool").symlink_to("loop")
    with Path("large").open("wb") as file:
        file.truncate(50_000_000)
    message = refused(write("a.yaml", f"seed: 1\ninclude: {name}\n"))
    assert says in message and len(message) < 6000 and "\n" not in message


def test_included_from_the_home_but_not_from_behind_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("home").mkdir()
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    write("home/base.yaml", "seed: 5\n")
    assert load(Config, [write("a.yaml", "include: ~/base.yaml\n")]).value.seed == 5
    message = refused(write("a.yaml", "include: $HOME/base.yaml\n"))
    assert "$HOME/base.yaml: no such file" in message and "$VARIABLES are not replaced in a config" in message
    message = refused(write("a.yaml", "seed: 1\ninclude: ~nobody-at-all/base.yaml\n"))
    assert message == "a.yaml:2: include: ~nobody-at-all/base.yaml: no home is known for '~nobody-at-all'"


def test_a_named_file_that_is_none() -> None:
    os.mkfifo("fifo")
    assert refused(Path("fifo")) == "fifo: cannot be read: it is a pipe or a device, not a file"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[0," * 60_000, "{a: " * 40_000, "- 0\n" * 45_000, "? " * 90_000]
)
def test_a_file_of_nothing_but_structure(text: str) -> None:
    assert len(text) <= MOST_BYTES
    message = refused(write("a.yaml", text))
    assert message.startswith("a.yaml") and len(message) < 200


def test_whole_numbers_of_many_digits() -> None:
    assert refused(write("a.yaml", "\nseed: " + "9" * 4000)).startswith("a.yaml:2: '999")
    assert "is not a valid !!int" in refused("seed=" + "9" * 5000)
    assert "expected at most 10000000000000 (an update draws" in refused("seed=" + "9" * 90)


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "word",
    [f"seed={LONG}", f"{LONG}=1", LONG, "seed=[" + "x, " * 30_000, f"seed={{{LONG}: 1}}",
     f"model.kind={LONG}", f"model={{{LONG}: 1}}", "x." * 50_000 + "y=1"],
)  # fmt: skip
def test_messages_repeat_little(word: str) -> None:
    assert len(refused(word)) < 1000


def test_another_file_is_not_repeated() -> None:
    passwords = "".join(f"user{n}:x:{n}:{n}:name:/home/user{n}:/bin/bash\n" for n in range(100))
    message = refused(write("a.yaml", "include: passwd"), write("passwd", passwords))
    assert "passwd: expected a mapping (key: value), found the single value 'user0:x" in message
    assert "user2" not in message


def test_many_problems_are_counted() -> None:
    message = refused(write("a.yaml", "\n".join(f"key{n}: 1" for n in range(300))))
    assert message.startswith("300 problems") or "... and 250 more" in message
    assert message.count("\n") == 51


@pytest.mark.parametrize("text", ['"\\e[31m"', '"\\a"', '"\\x9b"', '"a\\0b"', '"\\ud800"'])
def test_characters_that_no_setting_needs(text: str) -> None:
    message = refused(write("a.yaml", f"train:\n  pretrained_encoder_path: {text}\n"))
    assert message.startswith("a.yaml:2: the character \\") and message.isprintable()


def test_printable() -> None:
    assert printable("plain text: (äö) 中文 [/b] :x:") == "plain text: (äö) 中文 [/b] :x:"
    assert printable("a\x1b[31mb\nc\u202e\ud800") == "a\\x1b[31mb\\nc\\u202e\\ud800"
    assert printable("a\nb\tc\r", keep="\n\t") == "a\nb\tc\\r"
    assert printable("x" * 100, 10) == "xxxxxxx..."
