"""Models whose state is as large as that of the best compressed model."""

from __future__ import annotations

from dataclasses import dataclass

from cad.reports.data.costs import mean_cost
from cad.reports.data.differences import Difference, differences_from
from cad.reports.data.model_result import ModelResult
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, finite

# A window or a width is a whole number: the largest that is not above another state falls short of it.
_LEAST, _MOST = 0.9, 1.01
_COLUMNS = (
    "label", "kind", "state_bytes", "share_of_state", "normalised_last10", "low_95", "high_95", "n_seeds",
    "difference_from_lead", "difference_low_95", "difference_high_95", "n_shared_seeds",
)  # fmt: skip


@dataclass(frozen=True)
class EqualState:
    """The best compressed model, and others of equal state: each minus the best where seeds are shared."""

    lead: ModelResult
    lead_bytes: float
    others: tuple[ModelResult, ...]  # of other arms, best first
    differences: dict[str, Difference]  # by label

    def bytes_of(self, model: ModelResult) -> float:
        """Bytes that one roll-out of a model keeps between steps."""
        return mean_cost(model, lambda result: result.state_bytes) or 0.0


def equal_state(study: Study, lead: ModelResult | None = None) -> EqualState | None:
    """Which models have a state of 0.90 to 1.01 times that of ``lead``; None where none has.

    The lead is the best compressed model, unless one is named.  Further models of its own kind are a
    question of depth and latents, not of the way to remember.
    """
    lead = lead or (study.best_compressed if study.comparable else None)
    size = None if lead is None else mean_cost(lead, lambda result: result.state_bytes)
    if lead is None or not size:
        return None
    others = tuple(
        model
        for model in study.best_first
        if model.config.model.kind != lead.config.model.kind
        and _LEAST * size <= (mean_cost(model, lambda result: result.state_bytes) or 0.0) <= _MOST * size
    )
    differences = {d.model.label: d for d in differences_from(others, lead)}
    return EqualState(lead, size, others, differences) if others else None


def equal_state_tables(study: Study) -> dict[str, Table]:
    """``equal_state``: the best compressed model and those of equal state."""
    group = equal_state(study)
    if group is None:
        return {}
    rows: list[tuple[Value, ...]] = []
    for model in (group.lead, *group.others):
        size, low, high = group.bytes_of(model), *model.returns.score_interval
        difference = group.differences.get(model.label)
        rows.append(
            (model.label, model.config.model.kind, size, size / group.lead_bytes, model.score, finite(low),
             finite(high), len(model.done),
             *((None, None, None, None) if difference is None else
               (difference.mean, finite(difference.low), finite(difference.high), len(difference.seeds))))
        )  # fmt: skip
    return {"equal_state": Table(_COLUMNS, rows)}
