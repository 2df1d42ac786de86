"""What recurrent kinds bring alike; see :class:`~cad.models.spec.ModelSpec`."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

from cad.config.training import TrainConfig
from cad.models.blocks.recurrent.config import RecurrentConfig
from cad.models.spec import HistoryShape, ModelSpec, Sections

if TYPE_CHECKING:
    from cad.envs.family import Spaces
    from cad.histories.windows import TrainingWindows
    from cad.models.memory import Memory
    from cad.models.objective import Objective

R = TypeVar("R", bound=RecurrentConfig)


class RecurrentSpec(ModelSpec[R]):
    """A state of constant size that every step updates."""

    other_settings = frozenset(("train.burn_in",))

    def check(self, config: R, others: Sections) -> None:
        """A burn-in needs room."""
        self.check_burn_in(others, config.n_unroll, config.n_unroll)

    def training_window(self, config: R) -> int:
        """See :meth:`ModelSpec.training_window`."""
        return config.n_unroll

    def new_memory(self, model: Any, batch: int) -> Memory:
        """See :meth:`ModelSpec.new_memory`."""
        from cad.models.blocks.recurrent.memory import RecurrentMemory

        return RecurrentMemory(model, batch)

    def windows(self, config: R, settings: TrainConfig, shape: HistoryShape) -> TrainingWindows:
        """See :meth:`ModelSpec.windows`."""
        from cad.models.blocks.recurrent.windows import RecurrentWindows

        return RecurrentWindows(
            config.n_unroll, _longest_burn_in(config, settings, shape.steps), shape.steps, shape.horizon,
            settings.max_episode_gap,
        )  # fmt: skip

    def objective(self, config: R, others: Sections, spaces: Spaces) -> Objective:
        """See :meth:`ModelSpec.objective`."""
        from cad.models.objective import ActionObjective

        return ActionObjective(others.train, config.n_depths, spaces.n_actions)

    @abstractmethod
    def layer_work(self, config: R, steps: int) -> float:
        """Million multiply-accumulates of one recurrent layer over ``steps`` steps at once."""

    def _work(self, config: R, steps: int) -> float:
        feed_forward = 2 * steps * config.n_embd * config.inner_width / 1e6
        return config.n_layer * (self.layer_work(config, steps) + feed_forward)

    def window_work(self, config: R, others: Sections) -> float:
        """See :meth:`ModelSpec.window_work`."""
        return self._work(config, config.n_unroll)

    def burn_in_work(self, config: R, others: Sections) -> float:
        """See :meth:`ModelSpec.burn_in_work`."""
        burn_in = _longest_burn_in(config, others.train, others.source.steps_per_stream)
        return burn_in / 2 * self._work(config, config.n_unroll)

    def rollout_work(self, config: R) -> float:
        """One step; the same for every step."""
        return self._work(config, 1)

    def explain_compressions(self, config: R, total: int, chosen: int) -> str:
        """See :meth:`ModelSpec.explain_compressions`."""
        return f": {config.kind} has no window to compress, every step updates its state"

    def why_no_probe(self, config: R) -> str | None:
        """See :meth:`ModelSpec.why_no_probe`."""
        return "no latents"


def _longest_burn_in(config: RecurrentConfig, settings: TrainConfig, steps: int) -> int:
    """As many segments of ``train.burn_in`` as a history of ``steps`` has room for before a window."""
    return max(0, min(settings.burn_in, steps // config.n_unroll - 1))
