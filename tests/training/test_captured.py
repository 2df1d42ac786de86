"""CUDA graphs of packs, without a GPU: what is computed can be replayed, and where it is captured."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from packs import ALIKE, CPU, alone, assert_close, compare, packed, variants
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from cad.errors import UsageError
from cad.histories.windows import WindowShape
from cad.interrupt import InterruptedRun, StopFlag
from cad.models.objective import constant
from cad.models.registry import MODELS
from cad.schema import Config
from cad.training.learner import build_pretraining, build_training
from cad.training.packed.captured import CapturedStack, stack_of
from cad.training.packed.loop import train_in_graphs, train_together
from cad.training.packed.stack import Stack

# A value on the host, a shape that depends on values, or values that come from the host.
REFUSED = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::equal",
    "aten::lift_fresh",
}


class Recording(TorchDispatchMode):
    """As a CUDA graph: the operations of an update with the tensors that they were called with.

    Other than a graph's they are computed while they are recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in REFUSED, func
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        """Compute it again, into the same memory."""
        for func, args, kwargs, out in self.calls:
            aliases = [one.alias_info for one in (*func._schema.arguments, *func._schema.returns)]
            if any(alias is not None and alias.is_write for alias in aliases):
                func(*args, **kwargs)
            elif not any(one.alias_info for one in func._schema.returns):  # else a view of what is there
                again = func(*args, **kwargs)
                for x, y in zip(pytree.tree_leaves(out), pytree.tree_leaves(again), strict=True):
                    if isinstance(x, torch.Tensor) and x.data_ptr() != y.data_ptr():
                        x.detach().copy_(y)


class ReplayedStack(CapturedStack):
    """Updates are computed once and recorded once; then the recording is replayed."""

    def __init__(self, trainings) -> None:
        self.recordings, self.replayed = {}, 0
        super().__init__(trainings)

    def _run(self, key) -> None:
        if key not in self.recordings:
            self.recordings[key] = None
            self._compute(key)
        elif self.recordings[key] is None:
            with Recording() as recording:
                self._compute(key)
            self.recordings[key] = recording
        else:
            self.recordings[key].replay()
            self.replayed += 1


@pytest.mark.parametrize(
    ("kind", "model", "train"),
    [
        *((kind, {}, {}) for kind in MODELS if kind != "gru"),
        ("ad", {"n_sink": 2}, {"loss_on": "last"}),
        ("compressed_ad", {}, {"depth_curriculum": 0.6}),
        ("compressed_ad", {"n_latent": 4}, {"precision": "bf16"}),
        ("compressed_ad", {"latent_update": "gated"}, {"precision": "bf16", "burn_in": 3}),
        ("linear_attention", {}, {"burn_in": 3}),
        ("compressed_ad", {"max_compression_depth": 3}, {"optimizer": "adamw"}),
        (
            "compressed_ad",
            {"min_compress_length": 6, "max_compress_length": 6},
            {"reconstruction_weight": 0.5},
        ),
        ("region_ad", {"on_compress": "latents"}, {}),
    ],
)
def test_a_graph_replayed_is_an_update_computed(kind, model, train, tiny_config, toy_histories, tmp_path):
    """Nothing that changes from update to update stays as it was when the graph was captured."""
    settings = {"n_updates": 14, "num_warmup_steps": 5, **train}
    configs = [
        tiny_config(kind, seed=seed, model=model, train={**settings, "label_smoothing": smoothing})
        for seed, smoothing in enumerate((0.0, 0.2))
    ]
    ours, theirs = (
        [build_training(c, toy_histories).training(tmp_path, run_id="x", device=CPU) for c in configs]
        for _ in range(2)
    )
    replayed, computed = ReplayedStack(ours), CapturedStack(theirs)
    for _ in range(14):
        replayed.update()
        computed.update()
    assert replayed.replayed >= 7
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.sums.tensor, b.sums.tensor, rtol=1e-5, atol=1e-5)
        for (name, x), y in zip(a.model.named_parameters(), b.model.parameters(), strict=True):
            assert (x - y).norm() <= 1e-3 * y.norm() + 1e-6, name


@pytest.mark.parametrize("burn_in", [0, 3])
def test_adamw_is_few_operations(burn_in, tiny_config, toy_histories, tmp_path, monkeypatch):
    """What it computes of rates and counts, it computes once: each operation is one of a graph's kernels."""
    config = tiny_config("compressed_ad", train={"burn_in": burn_in, "optimizer": "adamw"})
    training = build_training(config, toy_histories).training(tmp_path, run_id="x", device=CPU)
    stack, calls = CapturedStack([training]), []
    step = stack._step_adamw

    def counted(*arguments) -> None:
        with Recording() as recording:
            step(*arguments)
        calls.extend(recording.calls)

    monkeypatch.setattr(stack, "_step_adamw", counted)
    stack.update()
    views = sum(any(r.alias_info and not r.alias_info.is_write for r in f._schema.returns) for f, *_ in calls)
    assert len(calls) - views <= 10 * len(stack._moments) + 30


class Card:
    """In place of ``torch.cuda`` for a process with two GPUs, the first of which is the current one.

    ``seen`` has for every update its GPU's stream, and which capture, if any, that stream is in.
    """

    def __init__(self) -> None:
        self.current, self.streams, self.capturing, self.seen = 0, {}, None, []
        self.made, self.fails = 0, False

    def install(self, monkeypatch) -> None:
        for name in ("device", "Stream", "current_stream", "set_stream", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))

    @contextlib.contextmanager
    def device(self, which):
        before, self.current = self.current, which.index
        yield
        self.current = before

    def Stream(self, which=None):  # noqa: N802
        self.made += 1
        device = self.current if which is None else which.index
        return SimpleNamespace(device=device, wait_stream=lambda _other: None)

    def current_stream(self, which=None):
        device = self.current if which is None else which.index
        if device not in self.streams:
            self.streams[device] = SimpleNamespace(device=device, wait_stream=lambda _other: None)
        return self.streams[device]

    def set_stream(self, stream) -> None:
        self.current, self.streams[stream.device] = stream.device, stream

    @contextlib.contextmanager
    def stream(self, stream):
        before = self.current_stream(torch.device("cuda", stream.device))
        self.set_stream(stream)
        yield
        self.set_stream(before)

    @contextlib.contextmanager
    def graph(self, _graph, stream=None):
        self.capturing = stream or self.Stream(torch.device("cuda", 0))
        self.set_stream(self.capturing)
        try:
            yield
        finally:
            self.capturing = None
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")

    def compute(self, _key) -> None:
        assert sys.exc_info() == (None, None, None)  # it would keep what a failed capture had made
        own = self.current_stream(torch.device("cuda", 1))
        self.seen.append("captured" if own is self.capturing else "computed")


@pytest.fixture
def second_card(monkeypatch, tiny_config, toy_histories, tmp_path) -> tuple[Card, CapturedStack]:
    """Two GPUs that compute nothing, and a stack whose updates are made on the second one."""
    training = build_training(tiny_config(), toy_histories).training(tmp_path, run_id="x", device=CPU)
    card, stack = Card(), CapturedStack([training])
    card.install(monkeypatch)
    stack._device = torch.device("cuda", 1)
    monkeypatch.setattr(stack, "_compute", card.compute)
    return card, stack


def test_graphs_are_captured_on_their_own_card(second_card):
    """Where it is not the process's current one: else an empty graph would be replayed."""
    card, stack = second_card
    for _ in range(4):
        stack._run((WindowShape(24, 8), True))
    assert card.seen == ["computed", "captured"]


def test_a_refused_graph_is_computed_where_it_would_have_been(second_card):
    card, stack = second_card
    card.fails = True
    own = card.current_stream(torch.device("cuda", 1))
    for _ in range(3):
        stack._run((WindowShape(24, 8), True))
    assert card.seen == ["computed", "captured", "computed", "computed"]
    assert card.current_stream(torch.device("cuda", 1)) is own


def test_graphs_of_a_curriculums_earlier_windows_are_given_up(second_card):
    card, stack = second_card
    for length in (8, 24):
        for padded in (True, False):
            for _ in range(2):
                stack._run((WindowShape(length, 8), padded))
    assert list(stack._graphs) == [(WindowShape(24, 8), True), (WindowShape(24, 8), False)]
    assert card.made == 1  # streams
    stack.keep([])
    assert not stack._graphs


def test_what_a_graph_reads_is_never_given_up():
    first = constant((0.25, 0.75), torch.float32, CPU)
    for n in range(300):
        constant((float(n),), torch.float32, CPU)
    assert constant((0.25, 0.75), torch.float32, CPU) is first


@pytest.mark.parametrize(
    ("kind", "train", "graphs"),
    [
        ("ad", {}, True),
        ("compressed_ad", {"burn_in": 1}, True),
        ("gru", {}, False),
        ("ad", {"compile": True}, False),
        ("ad", {"engine": "accelerate"}, False),
    ],
)
def test_which_trainings_alone_have_graphs(kind, train, graphs, tiny_config, toy_histories, monkeypatch):
    learner = build_training(tiny_config(kind, train=train), toy_histories)
    monkeypatch.setattr("cad.training.learner.train_in_graphs", lambda *_: "graphs")
    monkeypatch.setattr("cad.training.learner.train", lambda *_, **__: "calls")
    for device, way in (("cuda", "graphs" if graphs else "calls"), ("cpu", "calls")):
        assert learner.train(SimpleNamespace(device=torch.device(device)), StopFlag()) == way


def test_a_pretraining_has_no_graphs(tiny_config, toy_histories):
    assert not build_pretraining(tiny_config(pretrain={"enabled": True}), toy_histories).has_graphs


def test_graphs_are_of_one_process(tiny_config, toy_histories, tmp_path):
    learner, two = build_training(tiny_config(), toy_histories), SimpleNamespace(size=2, rank=0)
    training = learner.training(tmp_path, run_id="x", device=CPU, ranks=two)
    with pytest.raises(UsageError, match="engine=plain is one process, not 2 ranks"):
        train_in_graphs(training, StopFlag())


def without_dropout(configs: Sequence[Config]) -> list[Config]:
    return [
        config.model_copy(update={"model": config.model.model_copy(update={"dropout": 0.0})})
        for config in configs
    ]


@pytest.mark.parametrize(
    ("kind", "model", "train"),
    [
        *((kind, {}, {}) for kind in MODELS if kind != "gru"),
        ("compressed_ad", {"n_latent": 4}, {"loss_on": "last"}),
        ("compressed_ad", {"latent_update": "gated"}, {}),
        ("compressed_ad", {"latent_update": "gated"}, {"burn_in": 3}),
        ("linear_attention", {}, {"burn_in": 3}),
        ("compressed_ad", ALIKE, {"burn_in": 2, "reconstruction_weight": 0.5}),
        # The encoder's gradients are zeros, which is not to have none: weights decay.
        ("compressed_ad", {}, {"burn_in": 3, "depth_weights": (1.0, 0.0, 0.0), "weight_decay": 1.0}),
        ("compressed_ad", {"max_compression_depth": 3}, {"label_smoothing": 0.1}),
        ("compressed_ad", ALIKE, {"reconstruction_weight": 0.5}),
        ("compressed_ad", {}, {"reconstruction_weight": 0.5}),  # not to be padded: as on a CPU
        ("compressed_ad", {}, {"depth_curriculum": 0.8}),
        ("ad", {"n_sink": 2}, {}),
        ("ad", {}, {"optimizer": "muon"}),
        ("compressed_ad", {}, {"optimizer": "muon", "grad_clip": 0.01}),
    ],
)
def test_captured_updates_are_those_of_single_trainings(
    kind, model, train, tiny_config, toy_histories, tmp_path, captured
):
    configs = without_dropout(variants(tiny_config, kind, model, **train))
    tolerance = {"losses": 1e-3, "weights": 0.1} if "optimizer" in train else {"weights": 1e-2}
    compare(configs, toy_histories, tmp_path, **tolerance)
    assert len(captured) == 1


@pytest.mark.usefixtures("captured")
def test_captured_updates_of_unequal_losses_and_lengths(tiny_config, toy_histories, tmp_path):
    configs = [
        tiny_config(
            "compressed_ad",
            seed=seed,
            train={"n_updates": n, "label_smoothing": smoothing, "log_every": 1, "watchdog_share": None,
                   "optimizer": "adamw"},
        )
        for seed, (n, smoothing) in enumerate([(4, 0.0), (9, 0.2), (6, 0.0)])
    ]  # fmt: skip
    compare(configs, toy_histories, tmp_path, losses=1e-5, weights=1e-3)


@pytest.mark.parametrize(
    ("kind", "model"),
    [("compressed_ad", {}), ("compressed_ad", {"latent_update": "gated"}), ("linear_attention", {})],
)
def test_captured_updates_of_unequal_burn_ins(
    kind, model, tiny_config, toy_histories, tmp_path, captured, monkeypatch
):
    configs = [
        tiny_config(
            kind,
            seed=seed,
            model=model,
            train={"n_updates": n, "burn_in": burn_in, "watchdog_share": None, "optimizer": "adamw"},
        )
        for seed, (n, burn_in) in enumerate([(8, 0), (12, 3), (6, 1000)])
    ]
    monkeypatch.setattr(Stack, "_updates", None)  # every update is captured
    compare(configs, toy_histories, tmp_path, weights=1e-2)
    assert len(captured) == 1


@pytest.mark.parametrize("train", [{}, {"burn_in": 30}, {"burn_in": 3, "depth_curriculum": 0.8}])
@pytest.mark.usefixtures("captured")
def test_a_captured_pack_is_stopped_and_goes_on_either_way(train, tiny_config, toy_histories, tmp_path):
    configs = without_dropout(variants(tiny_config, "compressed_ad", **train))
    for config, name in zip(configs, "abc", strict=True):
        alone(config, toy_histories, tmp_path / "alone" / name)
    folders = [tmp_path / "pack" / name for name in "abc"]
    stop = StopFlag()
    trainings = [
        build_training(config, toy_histories).training(
            folder, run_id=folder.name, device=CPU,
            progress=lambda step, _values: stop.request() if step >= 5 else None,
        )
        for config, folder in zip(configs, folders, strict=True)
    ]  # fmt: skip
    with pytest.raises(InterruptedRun):
        list(train_together(trainings, stop))
    alone(configs[0], toy_histories, folders[0])
    packed(configs[1:], toy_histories, folders[1:])
    for name, folder in zip("abc", folders, strict=True):
        assert_close(tmp_path / "alone" / name, folder, weights=1e-3)


def test_which_packs_are_captured(tiny_config, toy_histories, tmp_path):
    def trainings(*configs: Config):
        return [
            build_training(config, toy_histories).training(tmp_path, run_id="x", device=CPU)
            for config in configs
        ]

    assert CapturedStack.fits(trainings(tiny_config("ad"), tiny_config("ad", seed=1)))
    for config in (
        tiny_config("ad", model={"dropout": 0.1}),
        tiny_config("ad", train={"gradient_accumulation": 2}),
    ):
        assert not CapturedStack.fits(trainings(tiny_config("ad"), config))
    assert type(stack_of(trainings(tiny_config("ad")), vmapped=True)) is Stack  # on a CPU
