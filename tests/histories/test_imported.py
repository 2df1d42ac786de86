"""Histories from elsewhere and for others: a stranger's HDF5 trains, Minari there and back is equal."""

from __future__ import annotations

import shutil
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector.episode_buffer import EpisodeBuffer
from rich.console import Console

from cad.cli.histories import export, import_
from cad.config import FileConfig
from cad.envs.registry import env_config, task_family
from cad.envs.split import split_tasks
from cad.errors import CadError, UsageError
from cad.experiments.plan.cells import Cell
from cad.experiments.run.local_run import run_cell
from cad.histories.audit import audit
from cad.histories.file import Provenance, open_histories, write_root, write_task
from cad.histories.imported import import_hdf5
from cad.histories.streams import stream_keys
from cad.schema import Config

DARKROOM = {"name": "darkroom", "size": 5, "horizon": 5, "n_tasks": 6, "n_heldout": 2, "n_validation": 0}
EVERYTHING = {
    "name": "gymnasium", "id": "gym_tasks:test/Everything-v0", "horizon": 6, "bins": 3, "n_heldout": 1,
    "n_validation": 0, "tasks": [{"kwargs": {"target": i}} for i in range(3)],
}  # fmt: skip
LAKE = {
    "name": "gymnasium", "id": "FrozenLake-v1", "horizon": 9, "reward_values": [0, 1], "n_heldout": 1,
    "n_validation": 0, "tasks": [{"kwargs": {"is_slippery": slippery}} for slippery in (False, True)],
}  # fmt: skip
CUED = {"name": "cued_darkroom", "size": 3, "horizon": 4, "n_tasks": 3, "n_heldout": 1, "n_validation": 0}


# It asks for authors and links.
pytestmark = pytest.mark.filterwarnings("ignore:.*is set to None:UserWarning")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))


def by_strangers(path: Path, steps: int = 60, streams: int = 4, **changes: object) -> Path:
    """What docs/histories.md says of a file, and no line of cad: Darkroom 5x5, start (2, 2), horizon 5.

    ``changes`` replace datasets of the last task.
    """
    rng = np.random.default_rng(0)
    moves = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]])
    with h5py.File(path, "w") as file:
        for task in range(25):
            goal = np.array(divmod(task, 5))
            actions = rng.integers(0, 5, (streams, steps))
            # They head for the goal, ever more often.
            states, after = np.zeros((2, streams, steps, 2), dtype=np.int64)
            here = np.tile([2, 2], (streams, 1))
            for step in range(steps):
                if step % 5 == 0:
                    here = np.tile([2, 2], (streams, 1))
                states[:, step] = here
                there = np.clip(here + moves[actions[:, step]], 0, 4)
                after[:, step] = here = there
            group = file.create_group(f"task_{task:05d}")
            data = {
                "states": states, "actions": actions, "rewards": (after == goal).all(axis=2).astype(float),
                "next_states": after, "episode_ends": np.tile(np.arange(steps) % 5 == 4, (streams, 1)),
            }  # fmt: skip
            if task == 24:
                data |= changes
            for name, values in data.items():
                if values is not None:
                    group.create_dataset(name, data=values)
    return path


def test_a_file_written_from_the_description_alone_trains(tmp_path, tiny_config):
    path = by_strangers(tmp_path / "theirs.h5")
    source = {"kind": "file", "path": str(path), "n_streams": 4, "steps_per_stream": 60}
    base = tiny_config(train={"watchdog_share": None}).model_dump(mode="json")
    config = Config.model_validate(base | {"env": DARKROOM, "source": source})
    console = Console(quiet=True)
    trained = run_cell(Cell("", "", config), "train", tmp_path / "runs", 1, "cpu", console)
    assert (trained / "model.safetensors").exists()
    (histories,) = (tmp_path / "runs/stages").glob("histories-*/histories.h5")
    with h5py.File(path) as theirs, open_histories(histories) as ours:
        assert len(ours.task_ids) == 6
        for task in ours.task_ids:
            assert np.array_equal(ours.task(task).states, theirs[f"task_{task:05d}/states"])
        assert ours.provenance.source.path.startswith("sha256:")
    # The content names the stage, not the path.
    other = Path(shutil.copy(path, tmp_path / "other.h5"))
    moved = Config.model_validate(base | {"env": DARKROOM, "source": source | {"path": str(other)}})
    assert Cell("", "", moved).histories.name == histories.parent.name
    by_strangers(other, steps=60, actions=np.zeros((4, 60)))
    assert Cell("", "", moved.model_copy()).histories.name != histories.parent.name


def with_value(shape: tuple[int, ...], value: float) -> np.ndarray:
    array = np.zeros(shape)
    array[(1, 7) + (0,) * (len(shape) - 2)] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": with_value((4, 60), 5)},
         r"theirs.h5: task 24, stream 1, step 7: actions is 5; it has to be in 0..4 \(1 such"),
        ({"actions": with_value((4, 60), 0.5)}, r"step 7: actions is 0.5; it has to be in 0..4"),
        ({"rewards": with_value((4, 60), np.nan)}, r"step 7: rewards is nan; it has to be a finite number"),
        ({"states": with_value((4, 60, 2), -1)}, r"step 7: states \(row\) is -1; it has to be in 0..4"),
        ({"next_states": np.zeros((4, 60))}, r"next_states is float64 of shape \(4, 60\); numbers of shape"),
        ({"rewards": None}, r"/task_00024 has no dataset rewards"),
        ({"terminations": with_value((4, 60), 1)}, r"step 7: terminations is 1; the episode does not end"),
        ({"rewards": np.ones((4, 60))}, r"fails its audit(.|\n)*reward is 1, it must be 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_strangers_file_is_said(tmp_path, changes, message):
    path = by_strangers(tmp_path / "theirs.h5", **changes)
    out = tmp_path / "ours.h5"
    with pytest.raises(CadError, match=message):
        import_(path, out, [f"env.{key}={value}" for key, value in {**DARKROOM, "n_tasks": 25}.items()])
    assert not out.exists()


def test_a_file_of_a_later_layout_is_refused(tmp_path):
    file = by_strangers(tmp_path / "theirs.h5")
    with h5py.File(file, "r+") as opened:
        opened.attrs["schema_version"] = 99
    import_hdf5(file, env_config(DARKROOM), tmp_path / "theirs-as-ours.h5")  # their own word for something
    with h5py.File(file, "r+") as opened:
        opened.attrs["created_by"] = "cad 9.0"
    with pytest.raises(CadError, match="has schema version 99, this program reads 1"):
        import_hdf5(file, env_config(DARKROOM), tmp_path / "ours.h5")
    assert not (tmp_path / "ours.h5").exists()


def test_files_of_other_environments_and_sizes_are_refused(tmp_path):
    path = by_strangers(tmp_path / "theirs.h5")
    with pytest.raises(UsageError, match="does not say of which environment it is"):
        import_hdf5(path, None, tmp_path / "ours.h5")
    with pytest.raises(CadError, match="has no histories of 24 tasks of darkroom of size 7"):
        import_hdf5(path, env_config({**DARKROOM, "size": 7, "n_tasks": 49}), tmp_path / "ours.h5")
    with h5py.File(path, "a") as file:
        file["task_00003"].attrs["goal"] = [4, 4]
    with pytest.raises(CadError, match=r"the goal of task 3 is \(4, 4\) there; .* is \(0, 3\)"):
        import_hdf5(path, env_config({**DARKROOM, "n_tasks": 25}), tmp_path / "ours.h5")
    with h5py.File(path, "a") as file:
        del file["task_00003"].attrs["goal"], file["task_00003/actions"]
        file["task_00003/actions"] = np.zeros((4, 55))
    with pytest.raises(CadError, match=r"task 3: 4 streams of 55 steps; .* source.steps_per_stream=60"):
        import_hdf5(path, env_config({**DARKROOM, "n_tasks": 25}), tmp_path / "ours.h5")
    assert not (tmp_path / "ours.h5").exists()


def played(path: Path, settings: dict, steps: int = 35, streams: int = 3) -> Path:
    """A file of ours: random actions in every task."""
    env = env_config(settings)
    family = task_family(env)
    source = FileConfig(kind="file", path="sha256:0", n_streams=streams, steps_per_stream=steps)
    rng = np.random.default_rng(1)
    from cad.envs.vec_env import StreamVecEnv

    with h5py.File(path, "w") as file:
        write_root(file, Provenance(env, source, split_tasks(env), {}, "a test"))
        for task in family.task_ids:
            vec = StreamVecEnv(family, [task] * streams, steps, stream_keys(source, task))
            while not vec.full:
                vec.advance(rng.integers(0, family.spaces.n_actions, streams))
            write_task(file, task, family.goal(task), family.optimal_return(task), vec.transitions())
    return path


def assert_equal(path: Path, other: Path) -> None:
    """The same transitions, of the same types, and the same split."""
    with open_histories(path) as one, open_histories(other) as two:
        assert one.task_ids == two.task_ids and one.provenance.split == two.provenance.split
        for task in one.task_ids:
            ours, theirs = vars(one.task(task)), vars(two.task(task))
            for name, array in ours.items():
                assert (array is None) == (theirs[name] is None)
                if array is not None:
                    assert array.dtype == theirs[name].dtype
                    assert np.array_equal(array, theirs[name]), (task, name)


@pytest.mark.parametrize("settings", [DARKROOM, EVERYTHING, LAKE, CUED], ids=["grid", "all", "lake", "cued"])
@pytest.mark.parametrize("form", ["hdf5", "minari"])
def test_there_and_back_is_equal(tmp_path, settings, form, capsys):
    steps = 36 if settings is CUED else 35
    path = played(tmp_path / "ours.h5", settings, steps)
    export(path, tmp_path / "theirs", form)
    if form == "minari":
        dataset = minari.MinariDataset(tmp_path / "theirs/data")
        assert dataset.total_steps == 3 * steps * len(task_family(env_config(settings)).task_ids)
        assert all(dataset.action_space.contains(e.actions[0]) for e in dataset.iterate_episodes())
    import_(tmp_path / "theirs", tmp_path / "back.h5")
    assert_equal(path, tmp_path / "back.h5")
    report = audit(tmp_path / "back.h5")
    assert report.ok, report.problems
    # What could not be checked is said.
    unknown = [w for w in report.warnings if "not whether next states and rewards" in " ".join(w.split())]
    assert len(unknown) == (0 if settings is DARKROOM else 1)
    said = " ".join(capsys.readouterr().out.split())
    assert f"n_streams: 3, steps_per_stream: {steps}" in said


def test_relative_paths_are_those_of_the_current_folder(tmp_path, monkeypatch, capsys):
    path = played(tmp_path / "ours.h5", CUED, 12)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    for out in ("ours-v0", "there/ours-v0"):
        export(Path("ours.h5"), Path(out), "minari")
        assert minari.MinariDataset(tmp_path / out / "data").id == "ours-v0"
        import_(Path(out), Path(out).with_suffix(".h5"))
        assert_equal(path, (tmp_path / out).with_suffix(".h5"))
    assert "ours-v0: " in capsys.readouterr().out


def theirs(folder: Path, monkeypatch, name: str, env_id: str, n: int = 4, **metadata: object) -> None:
    """A dataset as the minari package itself makes it."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    env = gym.make(env_id)
    rng, buffers = np.random.default_rng(0), []
    for _ in range(n):
        seen, steps = [env.reset(seed=3)[0]], []
        while not steps or not (steps[-1][2] or steps[-1][3] or len(steps) == 9):
            steps.append((action := int(rng.integers(2)), *env.step(action)[1:4]))
            seen.append(env.unwrapped.s if hasattr(env.unwrapped, "s") else np.array(env.unwrapped.state))
        actions, rewards, terminations, truncations = zip(*steps, strict=True)
        buffers.append(
            EpisodeBuffer(
                observations=np.array(seen),
                actions=np.array(actions),
                rewards=list(rewards),
                terminations=list(terminations),
                truncations=list(truncations),
            )
        )
    dataset = minari.create_dataset_from_buffers(name, buffers, env=env, eval_env=None)
    if metadata:
        dataset.storage.update_episode_metadata([metadata] * n)


def test_datasets_of_the_minari_package(tmp_path, monkeypatch):
    """One a task, of one stream; or a task id in the metadata; and what does not fit."""
    words = ["env={name: gymnasium, id: FrozenLake-v1, horizon: 9, reward_values: [0, 1], n_heldout: 1, "
             "n_validation: 0, tasks: [{}, {seed: 1}]}"]  # fmt: skip
    folder = tmp_path / "lakes"
    folder.mkdir()
    for task, n in ((0, 4), (1, 6)):
        theirs(folder, monkeypatch, f"lake-{task}-v0", "FrozenLake-v1", n)
    import_(folder, tmp_path / "ours.h5", words)
    with open_histories(tmp_path / "ours.h5") as ours:
        first = ours.task(0)
        shorter = minari.MinariDataset(folder / "lake-0-v0/data").total_steps
        longer = minari.MinariDataset(folder / "lake-1-v0/data").total_steps
        assert first.actions.shape == (1, min(shorter, longer))
        assert first.episode_ends.sum() >= 3 and first.terminations.max() <= 1
    with pytest.raises(CadError, match=r"has no task_id in its metadata"):
        import_(folder / "lake-0-v0", tmp_path / "other.h5", words)
    theirs(tmp_path, monkeypatch, "named-v0", "FrozenLake-v1", task_id=1)
    with pytest.raises(CadError, match=r"has no histories of 1 tasks of gymnasium FrozenLake-v1 \(0\)"):
        import_(tmp_path / "named-v0", tmp_path / "other.h5", words)
    theirs(tmp_path, monkeypatch, "poles-v0", "CartPole-v1", task_id=0)
    with pytest.raises(CadError, match=r"of another environment: it is of CartPole-v1, env.id is FrozenLake"):
        import_(tmp_path / "poles-v0", tmp_path / "other.h5", words)
    with pytest.raises(CadError, match=r"its observation space is Box.*, that of .* is MultiDiscrete"):
        import_(tmp_path / "poles-v0", tmp_path / "other.h5", ["env.name=darkroom"])
    assert not (tmp_path / "other.h5").exists()


def test_two_groups_or_datasets_of_one_task_are_refused(tmp_path):
    """Else one of them would silently be left out."""
    path = by_strangers(tmp_path / "theirs.h5")
    with h5py.File(path, "r+") as file:
        file.copy("task_00003", "task_3")
    words = [f"env.{key}={value}" for key, value in DARKROOM.items()]
    with pytest.raises(CadError, match="groups /task_00003 and /task_3 are both task 3"):
        import_(path, tmp_path / "ours.h5", words)
    with h5py.File(path, "r+") as file:
        file.move("task_3", "task_\u00b2")
    with pytest.raises(CadError, match="is no task; name groups task_00000"):
        import_(path, tmp_path / "ours.h5", words)
    for name in ("lake-3-v0", "lake-3-v1"):
        (tmp_path / "sets" / name / "data").mkdir(parents=True)
        (tmp_path / "sets" / name / "data/metadata.json").write_text("{}")
    with pytest.raises(CadError, match="lake-3-v0 and lake-3-v1 are both of task 3"):
        import_(tmp_path / "sets", tmp_path / "ours.h5", words)
