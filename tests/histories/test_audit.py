"""The audit finds each fault and says where it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import matplotlib
import numpy as np
import pytest

from cad.config import NoiseDistillationConfig
from cad.envs.config import EnvConfig
from cad.envs.registry import env_config, task_family
from cad.envs.split import split_tasks
from cad.errors import CadError, UsageError
from cad.histories.audit import audit, require_sound
from cad.histories.audit_table import audit_table
from cad.histories.file import Provenance, open_histories, write_root, write_task
from cad.histories.plot import plot_histories
from cad.histories.source import learn_tasks


@pytest.fixture
def copy(collected: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(collected, tmp_path / "copy.h5"))


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    with h5py.File(path, "r+") as file:
        yield file


def replace(file: h5py.File, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    array = change(file[name][()])
    del file[name]
    file[name] = array


def test_a_sound_file_passes(collected: Path, env: EnvConfig) -> None:
    report = audit(collected, env=env)
    assert report.ok
    assert report.problems == []
    assert report.transitions == 4 * 12 * 240
    assert {row.part for row in report.table} == {"train", "validation", "heldout"}
    with h5py.File(collected) as file:
        for row in report.table:
            rewards = file[f"task_{row.task_id:05d}/rewards"][()].reshape(12, -1, 6).sum(axis=2)
            assert row.first_return == rewards[:, 0].mean()
            assert row.last_return == rewards[:, -1].mean()
            assert row.last_return > 0.8 * row.optimal_return
    require_sound(collected, env)


@pytest.mark.parametrize(
    ("dataset", "place", "change", "message"),
    [
        ("rewards", (3, 17), lambda old: 1 - old, "stream 3, step 17: reward is"),
        ("next_states", (2, 5), lambda old: (old + 1) % 3, "stream 2, step 5: next state is ("),
        ("next_states", (2, 9), lambda old: (old + 1) % 3, "stream 2, step 10: state is ("),
        ("states", (0, 6), lambda _: (0, 0), "stream 0, step 6: state is (0, 0), it must be (1, 1)"),
        ("actions", (1, 7), lambda _: 5, "stream 1, step 7: action is 5, it must be in 0..4"),
        ("states", (1, 7), lambda _: (0, 3), "stream 1, step 7: a state's column is 3"),
        ("episode_ends", (4, 11), lambda _: 0, "stream 4, step 11: episode_ends is 0, it must be 1"),
        ("episode_ends", (4, 12), lambda _: 1, "stream 4, step 12: episode_ends is 1, it must be 0"),
    ],
)
def test_one_changed_number_is_found(
    copy: Path, env: EnvConfig, dataset: str, place: tuple[int, int], change: Callable, message: str
) -> None:
    task = task_family(env).task_ids[2]
    with opened(copy) as file:
        numbers = file[f"task_{task:05d}/{dataset}"]
        numbers[place] = change(numbers[place])
    problems = audit(copy, env=env).problems
    actual = [problem for problem in problems if message in problem]
    assert len(actual) == 1, problems
    assert actual[0].startswith(f"task {task} (goal (")
    assert "(1 such faults in this task)" in actual[0]
    with pytest.raises(CadError, match="fails its audit") as error:
        require_sound(copy, env)
    assert message in str(error.value)


def test_wrong_goal_is_found(copy: Path, env: EnvConfig) -> None:
    first, second = (f"task_{task:05d}" for task in task_family(env).task_ids[:2])
    with opened(copy) as file:
        file.move(first, "x")
        file.move(second, first)
        file.move("x", second)
    problems = audit(copy, env=env).problems
    assert any(f"{first}: attribute task_id is" in problem for problem in problems)
    assert any("reward is" in problem and "such faults" in problem for problem in problems)


def test_missing_stream_and_wrong_dtype(copy: Path, env: EnvConfig) -> None:
    first, second = (f"task_{task:05d}" for task in task_family(env).task_ids[:2])
    with opened(copy) as file:
        replace(file, f"{first}/actions", lambda old: old[:-1])
        replace(file, f"{second}/rewards", lambda old: old.astype(np.float32))
    problems = audit(copy, env=env).problems
    assert len(problems) == 2
    assert f"{first}/actions is uint8 of shape (11, 240); 12 streams of 240 steps need" in problems[0]
    assert f"{second}/rewards is float32 of shape (12, 240)" in problems[1]


def test_missing_task_and_dataset(copy: Path, env: EnvConfig) -> None:
    first, second = task_family(env).task_ids[:2]
    with opened(copy) as file:
        del file[f"task_{first:05d}"]
        del file[f"task_{second:05d}/next_states"]
    problems = audit(copy, env=env).problems
    assert f"1 tasks are missing: [{first}]" in problems
    assert any(f"/task_{second:05d}/next_states is missing or damaged" in problem for problem in problems)


def test_split_of_another_config(collected: Path, env: EnvConfig, copy: Path) -> None:
    other = env_config({**env.model_dump(), "n_validation": 0})
    problems = audit(collected, env=other).problems
    moved = split_tasks(env).validation[0]
    assert any(
        p.startswith("the split's train tasks differ") and f"in one only: [{moved}]" in p for p in problems
    )
    with opened(copy) as file:
        file.attrs["split"] = file.attrs["split"].replace('"heldout"', '"x"').replace('"train"', '"heldout"')
        file.attrs["split"] = file.attrs["split"].replace('"x"', '"train"')
    assert any("heldout tasks differ" in problem for problem in audit(copy).problems)


def test_another_family_is_named(collected: Path) -> None:
    problems = audit(collected, env=env_config({})).problems
    assert "the file was made with env.size=3, the config wants 9" in problems


def test_no_learning_is_found(copy: Path, env: EnvConfig) -> None:
    """Every stream's last episode becomes a copy of its first: true transitions, nothing learned."""
    with opened(copy) as file:
        for group in file.values():
            for dataset in group.values():
                dataset[:, -6:] = dataset[:, :6]
    report = audit(copy, env=env)
    assert len(report.problems) == 1
    assert "did not learn" in report.problems[0]
    assert len(report.warnings) >= 1


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_truncated_file(copy: Path, env: EnvConfig, share: float) -> None:
    data = copy.read_bytes()
    copy.write_bytes(data[: int(share * len(data))])
    (problem,) = audit(copy, env=env).problems
    assert f"{copy} is damaged" in problem
    with pytest.raises(CadError, match="get another copy of it"):
        require_sound(copy, env)


def test_flipped_bytes_never_pass(copy: Path, env: EnvConfig) -> None:
    data = bytearray(copy.read_bytes())
    with h5py.File(copy) as file:
        chunk = file[f"task_{task_family(env).task_ids[1]:05d}/actions"].id.get_chunk_info(0)
    data[chunk.byte_offset + 40 : chunk.byte_offset + 60] = bytes(20)
    copy.write_bytes(bytes(data))
    assert any("actions is missing or damaged" in problem for problem in audit(copy, env=env).problems)


def test_unreadable_files_say_why(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(CadError, match=r"none\.h5 is missing"):
        open_histories(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(CadError, match="not HDF5"):
        open_histories(tmp_path / "text.h5")
    h5py.File(tmp_path / "other.h5", "w").close()
    with pytest.raises(CadError, match="no learning histories"):
        open_histories(tmp_path / "other.h5")
    with opened(copy) as file:
        file.attrs["env"] = "{"
    with pytest.raises(CadError, match="its attributes cannot be read"):
        open_histories(copy)
    with opened(copy) as file:
        file.attrs["schema_version"] = 2
    with pytest.raises(CadError, match="schema version 2, this program reads 1"):
        open_histories(copy)


def test_paths_and_tasks_that_are_none_are_no_damage(collected: Path) -> None:
    with open_histories(str(collected)) as histories:
        assert histories.path == collected
        for task in (99, "3", None):
            with pytest.raises(UsageError, match=rf"small\.h5 has no task {task!r}; it has \d, "):
                histories.task(task)
    for wrong in (3, None, b"a.h5", "a\0.h5"):
        with pytest.raises(UsageError, match=r"^path=.*: give a path, as text or as a pathlib\.Path$"):
            open_histories(wrong)


def test_plot_is_a_picture_and_reproducible(collected: Path, tmp_path: Path) -> None:
    plot_histories(collected, tmp_path / "a.png")
    with matplotlib.rc_context({"figure.facecolor": "red", "font.size": 20}):  # as from a user's matplotlibrc
        plot_histories(collected, tmp_path / "b.png")
    picture = (tmp_path / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000
    assert picture == (tmp_path / "b.png").read_bytes()


# Families of floats, negative rewards, or no known optimum --------------------------------------


def demonstrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Path:
    """Histories of noise distillation in tests/envs/float_line.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "envs"))
    env = env_config({"name": "float_line:FloatLine", "n_heldout": 2, "n_validation": 1, **settings})
    family = task_family(env)
    source = NoiseDistillationConfig(kind="noise_distillation", n_streams=4, steps_per_stream=60)
    path = tmp_path / "floats.h5"
    with h5py.File(path, "w") as file:
        write_root(file, Provenance(env, source, split_tasks(env), {}, "test"))
        for task, history in zip(family.task_ids, learn_tasks(family, family.task_ids, source), strict=True):
            write_task(file, task, family.goal(task), family.optimal_return(task), history)
    return path


def test_floats_are_replayed_as_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = demonstrated(tmp_path, monkeypatch)
    report = audit(path)
    assert (report.problems, report.replayed) == ([], True)
    plot_histories(path, tmp_path / "a.png")
    with opened(path) as file:
        file["task_00005/next_states"][1, 5] += 0.125  # the last step of an episode
        file["task_00005/rewards"][2, 5] = -0.75
    state, reward = audit(path).problems
    assert "stream 1, step 5: next state is (" in state
    assert ".125,), it must be (" in state or ".375,), it must be (" in state or ".625,), it must" in state
    assert "stream 2, step 5: reward is -0.75, it must be -" in reward


def test_learning_is_counted_from_the_random_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optima are all at most 0 here: a gain is still seen, and so is that there is none."""
    path = demonstrated(tmp_path, monkeypatch)
    with opened(path) as file:
        for name in (name for name in file if name.startswith("task_")):
            rewards = file[f"{name}/rewards"]
            for dataset in ("states", "actions", "next_states", "rewards"):
                whole = file[f"{name}/{dataset}"]
                whole[:, -6:] = whole[:, :6]
            assert rewards[:, -6:].tolist() == rewards[:, :6].tolist()
    (problem,) = audit(path).problems
    assert "did not learn: mean return 0." in problem and "of the optimum in the last episode" in problem


def test_an_optimum_that_no_return_can_be_divided_by_is_found_before_anything_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = demonstrated(tmp_path, monkeypatch, base=0.0)
    (problem,) = audit(path).problems
    assert "not above the 0 that counts as 0 (the family's random_return)" in problem


def test_without_an_optimum_none_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = audit(demonstrated(tmp_path, monkeypatch, known=False)).problems
    assert "its optimal_return has to be 1 and its random_return 0" in problem
    path = demonstrated(tmp_path, monkeypatch, known=False, base=0.0)
    report = audit(path)
    assert report.problems == []
    assert set(audit_table(report).columns[3].cells) == {"-"}
    plot_histories(path, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
