"""Grids of compression depth and latents, and the settings in which models differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cad.config import flatten
from cad.models.registry import MODELS
from cad.reports.data.model_result import ModelResult
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, finite
from cad.schema import Config

_AXES = ("model.max_compression_depth", "model.n_latent", "train.depth_weights")
_MODEL_COLUMNS = (
    "label", "mean", "mean_low_95", "mean_high_95", "iqm", "iqm_low_95", "iqm_high_95",
    "mean_at_history_end", "never_found", "n_seeds", "n_cells",
)  # fmt: skip
_GRID_COLUMNS = (
    "panel", "label", "depth", "latents", "window", "normalised_last10", "low_95", "high_95", "n_seeds",
    "n_cells",
)  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One depth x latents grid: models that share everything else."""

    title: str
    spots: dict[tuple[int, int], ModelResult]  # (depth, latents)

    @property
    def depths(self) -> list[int]:
        """Depths that occur, rising."""
        return sorted({depth for depth, _ in self.spots})

    @property
    def latents(self) -> list[int]:
        """Latent counts that occur, rising."""
        return sorted({n_latent for _, n_latent in self.spots})


def own_settings(config: Config) -> dict[str, object]:
    """Dotted key to value, without what a model of this kind has no use for."""
    others = frozenset().union(*(spec.other_settings for spec in MODELS.values()))
    useless = others - config.spec.other_settings
    pretrained = config.pretrain.enabled
    return {
        key: value
        for key, value in flatten(config).items()
        if key not in useless and (pretrained or key == "pretrain.enabled" or not key.startswith("pretrain."))
    }


def differing_keys(configs: Sequence[Config]) -> list[str]:
    """Dotted keys with more than one value among the configs that use them, in the schema's order."""
    flats = [own_settings(config) for config in configs]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [key for key in keys if len({repr(flat[key]) for flat in flats if key in flat}) > 1]


def grid_panels(study: Study) -> list[Panel]:
    """Depth x latents grids; a second setting of one spot opens a further panel."""
    panels: list[tuple[tuple[str, str], Config, Panel]] = []
    for model in study.intact:
        if model.facts.depth is None or model.facts.n_latent is None:
            continue
        ignored = {*_AXES, *model.chosen_settings}
        rest = repr([(key, value) for key, value in flatten(model.config).items() if key not in ignored])
        spot = (model.facts.depth, model.facts.n_latent)
        for key, _, panel in panels:
            if key == (model.arm, rest) and spot not in panel.spots:
                panel.spots[spot] = model
                break
        else:
            panels.append(((model.arm, rest), model.config, Panel(model.arm, {spot: model})))
    named = []
    for (arm, _), config, panel in panels:  # the arm's name is enough, unless it has several panels
        differ = differing_keys([other for (its_arm, _), other, _ in panels if its_arm == arm])
        values = (f"{key}={flatten(config).get(key)}" for key in differ if key not in _AXES)
        named.append(Panel(", ".join([panel.title, *values]), panel.spots))
    return named


def grid_tables(study: Study) -> dict[str, Table]:
    """``depth_latents``: each spot of a grid, and AD; ``models``: the numbers of each model."""
    spots = [(panel.title, model) for panel in grid_panels(study) for model in panel.spots.values()]
    spots += [(model.arm, model) for model in study.intact if model.facts.is_ad]
    return {
        "depth_latents": Table(_GRID_COLUMNS, [_grid_row(title, model) for title, model in spots]),
        "models": Table(_MODEL_COLUMNS, [_model_row(model) for model in study.models]),
    }


def _grid_row(title: str, model: ModelResult) -> tuple[Value, ...]:
    facts = model.facts
    ends = map(finite, model.returns.score_interval) if model.done else (None, None)
    return (title, model.label, facts.depth, facts.n_latent, facts.window, model.score, *ends,
            len(model.done), len(model.cells))  # fmt: skip


def _model_row(model: ModelResult) -> tuple[Value, ...]:
    """Numbers of one model over its seeds; None where none is done."""
    numbers: list[float | None] = [None] * 8
    if model.done:
        returns, history = model.returns, model.returns.history_scores
        never = [task.never_found for task in model.task_scores]
        numbers = [
            model.score, *returns.score_interval, returns.iqm, *returns.iqm_interval,
            None if history is None else float(history.mean()), sum(never) / len(never),
        ]  # fmt: skip
    return (model.label, *map(finite, numbers), len(model.done), len(model.cells))
