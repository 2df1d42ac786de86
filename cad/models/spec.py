"""What a kind of model brings: the one object by which the rest of the program knows it.

Nothing outside :mod:`cad.models` compares a kind.  A spec is cheap to import: what needs torch is
imported inside the methods that build it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from cad.config.source import SourceConfig
from cad.config.training import PretrainConfig, TrainConfig
from cad.models.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cad.envs.family import Spaces
    from cad.histories.windows import TrainingWindows
    from cad.models.memory import Memory
    from cad.models.network import SequenceModel
    from cad.models.objective import Objective

C = TypeVar("C", bound=ModelConfig)

# Settings that came after stage directories were first named: at these values they are left out of an
# identity, so that older directories stay valid.
_ADDED_LATER: Mapping[str, object] = {
    "step_embedding": "row_column",
    "embedding_norm": True,
    "norm": "pre",
}


@dataclass(frozen=True)
class Sections:
    """The other sections of a cell's config, for rules between them and the model's."""

    source: SourceConfig
    train: TrainConfig
    pretrain: PretrainConfig


@dataclass(frozen=True)
class HistoryShape:
    """Lengths of the histories to learn from: steps of a history, steps of an episode."""

    steps: int
    horizon: int


@dataclass(frozen=True)
class WeightTransfer:
    """How a model takes over a part of another one's weights.

    ``settings`` of the section ``model`` have to agree.  ``refuse_kind(theirs)`` and
    ``refuse_size(ours, theirs)`` say what is wrong with a donor, if anything is.
    ``pick(ours, theirs, own, tensors)`` gives, by the name of the model's own tensors, the donor's;
    None where it has none.
    """

    settings: tuple[str, ...]
    refuse_kind: Callable[[ModelConfig], str | None]
    refuse_size: Callable[[ModelConfig, ModelConfig], str | None]
    pick: Callable[
        [ModelConfig, ModelConfig, Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor | None]
    ]


class Pretraining(ABC, Generic[C]):
    """A training of a part of the model before action training, in a stage of its own."""

    saved: ClassVar[tuple[str, ...]]
    """What the names of the weights that are kept begin with."""

    @abstractmethod
    def build(self, config: C, settings: PretrainConfig, spaces: Spaces) -> SequenceModel:
        """The network that is trained, with weights drawn from torch's global generator."""

    @abstractmethod
    def windows(self, config: C, settings: PretrainConfig, shape: HistoryShape) -> TrainingWindows:
        """What the sampler draws."""

    @abstractmethod
    def objective(self, config: C, settings: PretrainConfig, spaces: Spaces) -> Objective:
        """What is minimised."""

    @abstractmethod
    def identity(self, config: C) -> dict[str, Any]:
        """What of the model's config determines the result."""

    @abstractmethod
    def window_work(self, config: C, settings: PretrainConfig) -> float:
        """Million multiply-accumulates of the forward pass of one window."""


class ModelSpec(ABC, Generic[C]):
    """A kind of model.  See CONTRIBUTING.md for what a new one has to bring."""

    config_class: ClassVar[type[ModelConfig]]
    other_settings: ClassVar[frozenset[str]] = frozenset()
    """Keys of the sections ``train`` and ``pretrain`` that have a meaning for this kind, not for all."""
    is_reference: ClassVar[bool] = False
    """Whether reports compare all others with it."""
    depths_are_compressions: ClassVar[bool] = False
    """Whether segment k of a training window is decoded after k compressions."""
    state_key: ClassVar[str | None] = None
    """The one setting that decides how large the state is, growing with it; None where there is none."""
    stacks: ClassVar[bool] = True
    """Whether ``torch.vmap`` can run its network: else a pack computes its models one after the other."""
    pretraining: ClassVar[Pretraining[Any] | None] = None
    encoder_transfer: ClassVar[WeightTransfer | None] = None
    """How ``train.pretrained_encoder_path`` and a pre-training give it their encoder."""
    decoder_transfer: ClassVar[WeightTransfer | None] = None
    """How ``train.init_from_ad`` gives it the decoder of an AD."""

    @property
    def kind(self) -> str:
        """The value of ``model.kind``."""
        kind: str = self.config_class.model_fields["kind"].default
        return kind

    # Config

    def check(self, config: C, others: Sections) -> None:
        """Raise ``ValueError`` where the model does not fit the other sections."""

    def identity(self, config: C) -> dict[str, Any]:
        """What of the model's config determines the result of a training, as JSON data."""
        return without_defaults(config.model_dump(mode="json"), _ADDED_LATER)

    @abstractmethod
    def training_window(self, config: C) -> int:
        """Steps of history that one training window takes at most (without burn-in)."""

    def warm_start(self, config: C) -> ModelConfig | None:
        """Config of the model whose decoder ``train.init_from_ad: stage`` starts from, if it can."""
        return None

    # Network, memory, windows, objective

    @abstractmethod
    def build(self, config: C, spaces: Spaces) -> SequenceModel:
        """The model, with weights drawn from torch's global generator."""

    @abstractmethod
    def new_memory(self, model: Any, batch: int) -> Memory:
        """An empty memory for ``batch`` roll-outs of a model that :meth:`build` made."""

    @abstractmethod
    def windows(self, config: C, settings: TrainConfig, shape: HistoryShape) -> TrainingWindows:
        """What the sampler draws for action training."""

    @abstractmethod
    def objective(self, config: C, others: Sections, spaces: Spaces) -> Objective:
        """What action training minimises."""

    def learner(self, model: Any, others: Sections) -> nn.Module:
        """The module that action training optimises: the model, or the model and what helps it learn."""
        module: nn.Module = model
        return module

    def freeze_encoder(self, model: Any) -> None:
        """Exclude from training what the encoder's transfer brought."""

    # Costs

    @abstractmethod
    def window_work(self, config: C, others: Sections) -> float:
        """Million multiply-accumulates of the forward pass of one training window, without its burn-in."""

    def burn_in_work(self, config: C, others: Sections) -> float:
        """Million multiply-accumulates of the steps before a window that have no gradient, on average."""
        return 0.0

    def training_work(self, config: C, others: Sections) -> float:
        """As :meth:`window_work`, the burn-in counted by the time it takes: it has no backward pass.

        That pass is about two thirds of the work of a step with gradient.
        """
        return self.window_work(config, others) + self.burn_in_work(config, others) / 3

    @abstractmethod
    def rollout_work(self, config: C) -> float:
        """Million multiply-accumulates of one step of one roll-out, on average."""

    @abstractmethod
    def state_bytes(self, config: C) -> int:
        """Bytes that one roll-out keeps between steps, in float32."""

    def compresses(self, config: C) -> bool:
        """Whether its memory knows of steps that it no longer keeps (:attr:`Memory.compressed`)."""
        return True

    def steps_uncompressed(self, config: C) -> int:
        """Steps from the beginning of a roll-out of which its memory has compressed none yet, at least."""
        return 0

    def check_burn_in(self, others: Sections, window: int, segment: int) -> None:
        """Raise ``ValueError`` where no history has room for a ``segment`` of burn-in before a ``window``."""
        steps = others.source.steps_per_stream
        trained = others.train.weights is None
        if trained and others.train.burn_in and window <= steps < window + segment:
            raise ValueError(
                f"train.burn_in={others.train.burn_in} has no room: with it a training window takes at least "
                f"{window + segment} steps, and a history has source.steps_per_stream={steps}"
            )

    # Words

    def chosen_regions(self, config: C) -> tuple[int, int] | None:
        """Steps between two compressions in training, and the most in a roll-out.

        For a model that decides itself when it compresses; None for others.
        """
        return None

    @abstractmethod
    def explain_compressions(self, config: C, total: int, chosen: int) -> str:
        """Ends a sentence that counts the compressions of an evaluation: why there were so many."""

    @abstractmethod
    def why_no_probe(self, config: C) -> str | None:
        """Why the latents cannot be probed; None if they can."""


AnySpec = ModelSpec[Any]


def without_defaults(settings: Mapping[str, Any], defaults: Mapping[str, object]) -> dict[str, Any]:
    """``settings`` without those that have the value in ``defaults``."""
    unset = object()
    return {key: value for key, value in settings.items() if value != defaults.get(key, unset)}
