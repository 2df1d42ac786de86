"""What only a GPU shows: the same batches, losses and returns as on a CPU.

One script does the measurements: benchmarks/gpu.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel

from cad.envs.registry import env_config, task_family
from cad.envs.split import split_tasks
from cad.evaluation.rollout import ActionSampler, Player, roll_out
from cad.evaluation.stepping import DeviceStepping, Rollouts, start_stepping
from cad.histories.made_up import made_up_histories
from cad.interrupt import StopFlag
from cad.models.registry import MODELS
from cad.schema import Config
from cad.training.learner import build_model, build_training
from cad.training.loop import train
from cad.training.metrics import read_metrics
from cad.training.packed.captured import CapturedStack
from cad.training.packed.loop import train_together
from cad.training.packed.stack import Stack
from cad.training.training import TrainingSummary

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch finds no GPU: run it on a machine that has one"
    ),
]
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
TRAIN = {"n_updates": 30, "log_every": 10, "loggers": [], "watchdog_share": None}


def losses(config, folder, device):
    learner = build_training(
        config, made_up_histories(task_family(config.env), config.source.steps_per_stream)
    )
    learner.trained.to(device)
    folder.mkdir()
    train(learner.training(folder, run_id="run", device=device), StopFlag())
    return [record["loss"] for record in read_metrics(folder / "metrics.jsonl") if "loss" in record]


def test_batches_are_the_same(tiny_config):
    config = tiny_config()
    arrays = made_up_histories(task_family(config.env), config.source.steps_per_stream)
    sampler = build_training(config, arrays).sampler
    for update in range(3):
        ours, theirs = sampler.batch(update, device=GPU), sampler.batch(update)
        assert ours.actions.device.type == "cuda"
        for a, b in (
            (ours.actions, theirs.actions),
            *zip(vars(ours.steps).values(), vars(theirs.steps).values(), strict=True),
        ):
            assert torch.equal(a.cpu(), b)


@pytest.mark.parametrize("kind", MODELS)
def test_losses_are_those_of_a_cpu(tiny_config, tmp_path, kind):
    config = tiny_config(kind, model={"dropout": 0.0}, train=TRAIN)
    ours, theirs = losses(config, tmp_path / "gpu", GPU), losses(config, tmp_path / "cpu", CPU)
    assert ours == pytest.approx(theirs, rel=1e-3)


def packed_losses(configs, folder, stack) -> list[list[float]]:
    """Losses of trainings whose updates ``stack`` makes."""
    trainings, folders = [], [folder / str(number) for number in range(len(configs))]
    for config, place in zip(configs, folders, strict=True):
        place.mkdir(parents=True)
        arrays = made_up_histories(task_family(config.env), config.source.steps_per_stream)
        learner = build_training(config, arrays)
        trainings.append(learner.training(place, run_id="run", device=GPU))
    with pytest.MonkeyPatch.context() as patch:
        if stack is not None:
            patch.setattr("cad.training.packed.loop.stack_of", stack)
        outcomes = [outcome for _, outcome in train_together(trainings, StopFlag())]
    assert all(isinstance(outcome, TrainingSummary) for outcome in outcomes), outcomes
    return [[r["loss"] for r in read_metrics(place / "metrics.jsonl") if "loss" in r] for place in folders]


@pytest.mark.parametrize(
    ("kind", "train"),
    [
        *((kind, {}) for kind in MODELS if kind != "gru"),
        ("compressed_ad", {"precision": "bf16"}),
        ("compressed_ad", {"depth_curriculum": 0.5}),
        ("compressed_ad", {"optimizer": "adamw", "loss_on": "last"}),
        ("compressed_ad", {"burn_in": 3}),
    ],
)
def test_packs_are_cuda_graphs(tiny_config, tmp_path, kind, train):
    """Losses of three trainings, as one graph an update, as stacked calls, and on a CPU."""
    configs = [tiny_config(kind, seed=seed, train={**TRAIN, **train}) for seed in range(3)]
    made = []

    def captured(trainings, **_):
        made.append(CapturedStack(trainings))
        return made[-1]

    ours = packed_losses(configs, tmp_path / "graphs", captured)
    assert any(graph is not None for graph in made[0]._graphs.values())
    assert not made[0]._refused
    stacked = packed_losses(configs, tmp_path / "stacked", Stack)
    rel = 2e-2 if train.get("precision") == "bf16" else 1e-3
    for row, (a, b) in enumerate(zip(ours, stacked, strict=True)):
        assert a == pytest.approx(b, rel=rel)
        if rel < 1e-2:
            assert a == pytest.approx(losses(configs[row], tmp_path / f"cpu-{row}", CPU), rel=rel)


def test_a_pack_of_a_gpu_is_captured(tiny_config, tmp_path):
    """Where nothing is said, and with graphs again after one has left."""
    configs = [
        tiny_config("compressed_ad", seed=seed, train={**TRAIN, "n_updates": n})
        for seed, n in ((0, 30), (1, 20))
    ]
    together = packed_losses(configs, tmp_path / "pack", None)
    for row, config in enumerate(configs):
        assert together[row] == pytest.approx(losses(config, tmp_path / f"alone-{row}", GPU), rel=1e-3)


@pytest.mark.parametrize("demonstrated", [0, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_returns_are_those_of_a_cpu(tiny_config, kind, demonstrated):
    config = tiny_config(kind)
    returns = []
    for device in (GPU, CPU):
        torch.manual_seed(0)
        model = build_model(config).to(device).eval()
        tasks = split_tasks(config.env).heldout
        result = roll_out(
            model, task_family(config.env), tasks, n_rollouts=4, n_episodes=5, seed=0,
            demonstrated=demonstrated,
        )  # fmt: skip
        returns.append(result.returns)
    # A draw that falls between two roundings may go the other way.
    assert (returns[0] == returns[1]).mean() > 0.95
    assert np.isfinite(returns[0]).all()


@pytest.mark.parametrize("kind", ["ad", "compressed_ad", "region_ad"])
def test_flash_attention_is_taken(kind, tiny_config):
    """Where a call could not be flash attention, torch would find no kernel."""
    config = tiny_config(kind, train={"precision": "bf16"})
    arrays = made_up_histories(task_family(config.env), config.source.steps_per_stream)
    learner = build_training(config, arrays)
    model, batch = learner.trained.to(GPU).train(), learner.sampler.batch(0, device=GPU)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.autocast("cuda", dtype=torch.bfloat16):
        loss = learner.objective(model(batch), batch).loss
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    # What the context is there for: a mask has no flash kernel.
    q = torch.randn(1, 2, 4, 8, device=GPU, dtype=torch.bfloat16)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(RuntimeError):
        torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=torch.ones(4, 4, device=GPU) > 0)


@pytest.mark.parametrize("kind", ["ad", "compressed_ad"])
def test_compiled_passes_are_cuda_graphs(tiny_config, tmp_path, kind):
    plain, compiled = (
        losses(
            tiny_config(kind, model={"dropout": 0.0}, train={**TRAIN, "compile": compile_}),
            tmp_path / str(compile_),
            GPU,
        )
        for compile_ in (False, True)
    )
    assert compiled == pytest.approx(plain, rel=1e-3)
    assert counters["inductor"]["cudagraph_skips"] == 0


@pytest.mark.parametrize("name", ["darkroom", "cued_darkroom", "random_mdp"])
def test_no_step_of_a_roll_out_waits_for_the_host(name):
    """Environments step on the device; an episode's end is where results are fetched."""
    family = task_family(env_config({"name": name, "horizon": 20}))
    model = {"kind": "compressed_ad", "n_embd": 16, "n_head": 2, "n_layer": 1, "n_transit": 8, "n_latent": 3}
    config = Config(env=family.config, source={"steps_per_stream": 200}, model=model)
    player_model = build_model(config).to(GPU).eval()
    worlds = start_stepping(Rollouts(family, family.task_ids[:4], 2, 2, 0, GPU))
    assert isinstance(worlds, DeviceStepping)
    sampler = ActionSampler([(t, r) for t in range(4) for r in range(2)], 0, 1.0, False, 20, GPU)
    sampler.start_episodes(worlds.episode)
    with torch.inference_mode():
        player = Player(player_model, family.spaces, sampler, 8)
        player.take_in(worlds.step(player.choose(worlds.observation)))  # makes what is made once
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(18):
                player.take_in(worlds.step(player.choose(worlds.observation)))
        finally:
            torch.cuda.set_sync_debug_mode("default")
