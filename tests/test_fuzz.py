"""The fuzzers of ``tests/fuzz.py``, with the same cases each time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fuzz import fuzz_commands, fuzz_configs, fuzz_texts


def test_random_configs_end_in_a_result_or_one_message() -> None:
    count: Counter[str] = Counter()
    fuzz_configs(80, count)
    assert count["run"] >= 12 and count["refused"] >= 12, count


def test_random_configs_on_the_command_line_end_alike(tmp_path: Path) -> None:
    count: Counter[str] = Counter()
    fuzz_commands(3, tmp_path, count)
    assert count["run"] >= 1 and count["refused"] >= 1, count


def test_random_files_end_in_a_config_or_one_message(tmp_path: Path) -> None:
    count: Counter[str] = Counter()
    fuzz_texts(150, tmp_path, count)
    assert count["read"] >= 5 and count["refused"] >= 100, count
