"""The sampler on histories whose every step says which task, stream and step it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cad.envs.registry import task_family
from cad.histories.batch import Batch
from cad.histories.file import open_histories
from cad.histories.sampler import HistoryArrays, WindowSampler, read_arrays, stream_arrays
from cad.schema import Config
from cad.training.learner import build_pretraining, training_sampler

N_ACTIONS = 5

TASKS, STREAMS, STEPS, HORIZON = 3, 4, 60, 5
EPISODES = STEPS // HORIZON


@pytest.fixture(scope="module")
def labelled() -> HistoryArrays:
    """Observation = (task, stream); action = step; reward = a code of task, stream and step."""
    task, stream, step = np.meshgrid(np.arange(TASKS), np.arange(STREAMS), np.arange(STEPS), indexing="ij")
    return HistoryArrays(
        np.stack([task, stream], axis=-1).astype(np.uint8),
        step.astype(np.uint8),
        reward_code(task, stream, step).astype(np.uint8),
        HORIZON,
        N_ACTIONS,
    )


def reward_code(task, stream, step):
    return (task * 31 + stream * 7 + step * 3) % 251


def windows(sampler: WindowSampler, updates: int = 60):
    """Batches of the first updates, with (task, stream, step) of each of their windows."""
    for update in range(updates):
        batch = sampler.batch(update)
        observation = batch.steps.observation.numpy()
        yield batch, observation[..., 0], observation[..., 1], batch.actions.numpy()


@pytest.fixture(params=["ad", "compressed_ad", "region_ad"])
def sampler(request, tiny_config, labelled) -> WindowSampler:
    return training_sampler(tiny_config(request.param), labelled)


def fields(batch: Batch) -> list[torch.Tensor]:
    return [*dataclasses.asdict(batch.steps).values(), batch.actions]


def equal(a: Batch, b: Batch) -> bool:
    return len(fields(a)[0][0]) == len(fields(b)[0][0]) and all(
        torch.equal(x, y) for x, y in zip(fields(a), fields(b), strict=True)
    )


@pytest.mark.parametrize("kind", ["ad", "compressed_ad", "region_ad"])
def test_a_batch_is_a_function_of_seed_and_update(kind, tiny_config, labelled):
    first = training_sampler(tiny_config(kind), labelled)
    again = training_sampler(tiny_config(kind), labelled)
    again.batch(3)  # what was asked before does not matter
    assert equal(first.batch(7), again.batch(7))
    assert not equal(first.batch(7), first.batch(8))
    assert not equal(first.batch(7), training_sampler(tiny_config(kind, seed=1), labelled).batch(7))


@pytest.mark.parametrize("kind", ["ad", "compressed_ad", "region_ad"])
def test_parts_put_together_are_the_batch(kind, tiny_config, labelled):
    sampler = training_sampler(tiny_config(kind), labelled)
    for update in range(5):
        whole = sampler.batch(update)
        parts = [sampler.batch(update, part, 4) for part in range(4)]
        together = [torch.cat(tensors) for tensors in zip(*map(fields, parts), strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(together, fields(whole), strict=True))
        assert {part.segment_length for part in parts} == {whole.segment_length}


def test_streamed_histories_are_those_in_memory(collected, tmp_path):
    with open_histories(collected) as file:
        family = task_family(file.provenance.env)
        tasks = sorted(file.task_ids)[::-1]
        held = read_arrays(file, family, tasks)
        stream_arrays(file, family, tasks, tmp_path / "copy")
        again = stream_arrays(file, family, [], tmp_path / "copy")  # is there: nothing is copied
        assert np.array_equal(held.actions, again.actions)
        with (tmp_path / "copy/actions.npy").open("r+b") as copy:
            copy.seek(-7, 2)
            copy.write(b"\x09")
        streamed = stream_arrays(file, family, tasks, tmp_path / "copy")  # damaged: copied again
    for name in ("observations", "actions", "rewards"):
        assert np.array_equal(getattr(held, name), getattr(streamed, name))
    env, source = {"size": 3, "horizon": 6}, {"steps_per_stream": 240}
    config = Config.model_validate({"env": env, "source": source, "train": {"batch_size": 8}})
    sampler = training_sampler(config, streamed)
    assert equal(sampler.batch(3), training_sampler(config, held).batch(3))
    # Windows come from the file: nothing was copied into memory.
    assert isinstance(streamed.observations, np.memmap) and not streamed.in_memory
    for device in (torch.device("cpu"), torch.device("meta")):
        flat = streamed.on(device)
        assert np.shares_memory(flat.observations.numpy(), streamed.observations)


def test_a_window_never_mixes_two_histories(sampler):
    seen = set()
    for batch, task, stream, step in windows(sampler):
        assert (task == task[:, :1]).all()
        assert (stream == stream[:, :1]).all()
        assert ((step >= 0) & (step < STEPS)).all()
        # Rewards are of the same step of the same history.
        expected = reward_code(task, stream, step)[:, :-1]
        assert (batch.steps.previous_reward.numpy()[:, 1:] == expected).all()
        seen |= set(zip(task[:, 0], stream[:, 0], strict=True))
    assert len(seen) == TASKS * STREAMS


def test_a_window_takes_every_gth_episode_whole(sampler):
    gaps = set()
    for _, _, _, step in windows(sampler):
        inside = np.diff(step, axis=1)
        goes_on = step[:, 1:] % HORIZON != 0
        assert (inside[goes_on] == 1).all()
        for row in step:
            episodes = row[np.flatnonzero(np.diff(row // HORIZON)) + 1] // HORIZON
            episodes = np.concatenate([row[:1] // HORIZON, episodes])
            steps_between = set(np.diff(episodes))
            assert len(steps_between) == 1
            gaps |= steps_between
    assert gaps == {1, 2, 3}


def test_every_part_of_a_history_is_drawn(sampler):
    firsts = {int(s) for _, _, _, step in windows(sampler, 150) for s in step[:, 0] // HORIZON}
    lasts = {int(s) for _, _, _, step in windows(sampler, 150) for s in step[:, -1] // HORIZON}
    assert min(firsts) == 0
    assert max(lasts) == EPISODES - 1


def test_previous_fields_are_those_of_the_step_before_in_the_window(sampler):
    for batch, task, stream, step in windows(sampler, 10):
        previous_action = batch.steps.previous_action.numpy()
        assert (previous_action[:, 1:] == step[:, :-1]).all()
        assert (batch.steps.previous_reward.numpy()[:, 1:] == reward_code(task, stream, step)[:, :-1]).all()


def test_compressed_ad_begins_with_nothing_before(tiny_config, labelled):
    for batch, *_ in windows(training_sampler(tiny_config("compressed_ad"), labelled), 10):
        assert (batch.steps.previous_action[:, 0] == N_ACTIONS).all()
        assert (batch.steps.previous_reward[:, 0] == 0).all()


@pytest.mark.parametrize("kind", ["ad", "region_ad"])
def test_ad_begins_behind_a_step_of_the_same_history_or_at_its_start(kind, tiny_config, labelled):
    """After dropping steps a roll-out's window begins behind one that it saw."""
    known = 0
    for batch, task, stream, step in windows(training_sampler(tiny_config(kind), labelled), 40):
        first = batch.steps.previous_action[:, 0].numpy()
        starts = np.flatnonzero(np.diff(step // HORIZON, axis=1).max(axis=1, initial=0))
        for row in range(len(step)):
            # Step 5 is labelled like "nothing": its reward tells them apart.
            if first[row] == N_ACTIONS and batch.steps.previous_reward[row, 0] == 0:
                continue
            known += 1
            before = first[row]  # actions are labelled with their step
            if step[row, 0] % HORIZON:
                assert before == step[row, 0] - 1
            else:
                assert before % HORIZON == HORIZON - 1 and before < step[row, 0]
                if row in starts:  # the gap of this window is visible
                    gap = np.diff(step[row] // HORIZON).max()
                    assert before // HORIZON == step[row, 0] // HORIZON - gap
            expected = reward_code(task[row, :1], stream[row, :1], np.array([before]))[0]
            assert batch.steps.previous_reward[row, 0] == expected
    assert known > 20


def test_the_first_flag_stands_at_the_starts_of_episodes(sampler):
    for batch, _, _, step in windows(sampler, 10):
        assert (batch.steps.first.numpy() == (step % HORIZON == 0)).all()


def test_types_and_shapes(sampler):
    batch = sampler.batch(0)
    assert all(field.dtype == torch.int64 for field in fields(batch))
    assert batch.steps.observation.shape == (*batch.actions.shape, 2)
    assert batch.actions.shape[0] == 8


def pretraining_sampler(config, arrays):
    return build_pretraining(config, arrays).sampler


def offsets_seen(config: Config, arrays: HistoryArrays) -> set[int]:
    return {
        int(s) for _, _, _, step in windows(training_sampler(config, arrays)) for s in step[:, 0] % HORIZON
    }


@pytest.mark.parametrize(
    ("drop", "expected"),
    [(2, {0, 1, 2, 3, 4}), (5, {0}), (1, {0, 1, 2, 3, 4}), (8, {0, 1, 2, 3, 4})],
)
def test_ad_windows_start_wherever_a_roll_outs_window_can(drop, expected, tiny_config, labelled):
    assert offsets_seen(tiny_config("ad", model={"drop_block": drop}), labelled) == expected


def test_ad_offsets_when_drop_and_horizon_share_a_factor(tiny_config, labelled):
    arrays = dataclasses.replace(labelled, horizon=6)
    config = tiny_config("ad", env={"horizon": 6}, model={"drop_block": 4})
    seen = {int(s) for _, _, _, step in windows(training_sampler(config, arrays)) for s in step[:, 0] % 6}
    assert seen == {0, 2, 4}


def test_compressed_windows_start_with_an_episode(tiny_config, labelled):
    assert offsets_seen(tiny_config("compressed_ad"), labelled) == {0}


@pytest.mark.parametrize(("interval", "n_regions"), [(8, 2), (10, 2), (20, 3), (12, 4), (30, 2)])
def test_region_windows_are_whole_regions_from_a_policy_update_on(interval, n_regions, tiny_config, labelled):
    config = tiny_config(
        "region_ad",
        source={"n_steps": interval},
        model={
            "compress_interval": interval,
            "n_regions": n_regions,
            "n_transit": n_regions * (interval + 2),
        },
    )
    begins = set()
    for batch, _, _, step in windows(training_sampler(config, labelled)):
        assert batch.actions.shape[1] == n_regions * interval
        assert batch.segment_length == interval
        assert (step[:, 0] % interval == 0).all()
        begins |= set(step[:, 0].tolist())
    assert begins == set(range(0, STEPS - n_regions * interval + 1, interval))


def test_without_a_gap_regions_are_consecutive_and_cut_at_policy_updates(tiny_config, labelled):
    config = tiny_config("region_ad", train={"max_episode_gap": 1})
    for _, _, _, step in windows(training_sampler(config, labelled), 10):
        assert (np.diff(step, axis=1) == 1).all()
        assert (step[:, ::8] % 8 == 0).all()


def test_regions_that_are_folded_make_windows_longer_which_begin_with_nothing_before(tiny_config, labelled):
    config = tiny_config("region_ad", model={"on_compress": "latents"})
    for batch, *_ in windows(training_sampler(config, labelled), 10):
        assert batch.actions.shape[1] == (2 + 2) * 8
        assert (batch.steps.previous_action[:, 0] == N_ACTIONS).all()


def test_segment_lengths_cover_their_range(tiny_config, labelled):
    config = tiny_config(model={"min_compress_length": 3, "max_compress_length": 7})
    lengths = set()
    for batch, *_ in windows(training_sampler(config, labelled)):
        assert batch.actions.shape[1] == 3 * batch.segment_length
        assert batch.burn_in == 0
        lengths.add(batch.segment_length)
    assert lengths == {3, 4, 5, 6, 7}


def test_the_last_segment_may_have_a_range_of_its_own(tiny_config, labelled):
    model = {"min_uncompressed_length": 2, "max_uncompressed_length": 6, "min_compress_length": 7}
    config = tiny_config(model=model, train={"burn_in": 2})
    seen = set()
    for batch, *_ in windows(training_sampler(config, labelled), 200):
        assert batch.actions.shape[1] == (2 + batch.burn_in) * batch.segment_length + batch.last_length
        seen.add((batch.segment_length, batch.last_length))
    assert seen == {(length, last) for length in (7, 8) for last in range(2, 7)}
    for batch, *_ in windows(pretraining_sampler(config, labelled), 10):
        assert (
            batch.actions.shape[1] == (2 + batch.burn_in) * batch.last_length
        )  # pre-training compresses all


def test_burn_in_adds_segments_as_far_as_the_history_goes(tiny_config, labelled):
    config = tiny_config(train={"burn_in": 4})
    seen = set()
    for batch, *_ in windows(training_sampler(config, labelled), 200):
        assert batch.actions.shape[1] == (3 + batch.burn_in) * batch.segment_length <= STEPS
        seen.add((batch.segment_length, batch.burn_in))
    # 60 steps hold 15 segments of 4, and 7 of 8: three of those carry loss.
    assert {burn for length, burn in seen if length == 4} == {0, 1, 2, 3, 4}
    assert {burn for _, burn in seen} == {0, 1, 2, 3, 4}
    tight = tiny_config(train={"burn_in": 50}, model={"min_compress_length": 8})
    assert max(batch.burn_in for batch, *_ in windows(training_sampler(tight, labelled))) == 4


def test_a_curriculum_has_room_for_a_burn_in_where_the_last_depth_has_none(tiny_config, labelled):
    deep = {"max_compression_depth": 6, "min_compress_length": 8}  # seven segments of 8, of 60 steps
    train = {"burn_in": 2, "depth_curriculum": 0.5, "n_updates": 200}
    with pytest.raises(ValueError, match="has no room"):
        tiny_config(model=deep, train={"burn_in": 2})
    config = tiny_config(model=deep, train=train)
    assert max(training_sampler(config, labelled).batch(update).burn_in for update in range(20)) == 2


@pytest.mark.parametrize("burn_in", [0, 3, 50])
def test_burn_in_of_a_recurrent_model_is_earlier_windows(burn_in, tiny_config, labelled):
    config = tiny_config("gru", model={"n_unroll": 8}, train={"burn_in": burn_in})
    seen = set()
    for batch, *_ in windows(training_sampler(config, labelled), 200):
        assert batch.segment_length == 8
        assert batch.actions.shape[1] == (1 + batch.burn_in) * 8 <= STEPS
        seen.add(batch.burn_in)
    assert seen == set(range(min(burn_in, STEPS // 8 - 1) + 1))


@pytest.mark.parametrize("kind", ["ad", "compressed_ad"])
def test_a_window_may_be_the_whole_history(kind, tiny_config, labelled):
    model = {"n_transit": STEPS} if kind == "ad" else {"n_transit": 20, "min_compress_length": 20}
    for _, _, _, step in windows(training_sampler(tiny_config(kind, model=model), labelled), 5):
        assert (step == np.arange(STEPS)).all()


def test_a_history_of_one_episode_is_enough(tiny_config, labelled):
    one = HistoryArrays(
        labelled.observations[:, :, :HORIZON],
        labelled.actions[:, :, :HORIZON],
        labelled.rewards[:, :, :HORIZON],
        HORIZON,
        N_ACTIONS,
    )
    config = tiny_config("ad", model={"n_transit": HORIZON})
    for _, _, _, step in windows(training_sampler(config, one), 5):
        assert (step == np.arange(HORIZON)).all()


@pytest.mark.parametrize("n_sink", [3, HORIZON, HORIZON + 2])
def test_sinks_are_the_first_steps_of_the_history_and_the_rest_is_what_a_roll_out_keeps(
    n_sink, tiny_config, labelled
):
    config = tiny_config("ad", model={"n_sink": n_sink, "n_transit": 12, "drop_block": 2})
    begun = set()
    for batch, tasks, streams, steps in windows(training_sampler(config, labelled), 200):
        assert steps.shape == (8, 12)
        assert (steps[:, :n_sink] == np.arange(n_sink)).all()
        rest = steps[:, n_sink:]
        assert (rest[:, 0] >= n_sink).all() and (np.diff(rest) >= 1).all()
        # Within an episode one step follows another.
        assert (np.diff(rest)[rest[:, :-1] % HORIZON < HORIZON - 1] == 1).all()
        begun |= set(rest[:, 0].tolist())
        # The first step after the sinks tells what was done in the step before it, which was dropped.
        before = batch.steps.previous_action[:, n_sink].numpy()
        assert (before < rest[:, 0]).all() and (before[rest[:, 0] == n_sink] == n_sink - 1).all()
        reward = batch.steps.previous_reward[:, n_sink].numpy()
        assert (reward == reward_code(tasks[:, 0], streams[:, 0], before)).all()
        assert (batch.steps.previous_action[:, 0] == N_ACTIONS).all()
        assert (batch.steps.first.numpy() == (steps % HORIZON == 0)).all()
    # In a roll-out the rest begins at n_sink + 2 m, in episodes of 5 steps: at every step of one.
    assert {step % HORIZON for step in begun} == set(range(HORIZON)) and n_sink in begun


def test_sinks_leave_room_for_what_slides(tiny_config):
    with pytest.raises(ValueError, match="n_sink=6 leaves fewer than the 3 steps"):
        tiny_config("ad", model={"n_sink": 6, "drop_block": 3})
