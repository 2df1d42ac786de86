"""Print the compressions of an evaluation, as they happen or from its results."""

from __future__ import annotations

from collections.abc import Callable

from cad.evaluation.compression_steps import replay
from cad.evaluation.results import load_results
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.models.config import ModelConfig
from cad.models.registry import spec_of


def end_trace(
    model: ModelConfig, evaluation: StageDirectory, tell: Callable[[str], None], *, again: bool
) -> None:
    """Tell the last line of a trace; with ``again``, first all others, from the evaluation's results."""
    file = evaluation.checked(StageFile.RETURNS)
    result = load_results(file, evaluation.name)
    if result.compression_steps is None or result.chosen is None:
        tell(f"{file} was written by an earlier version, which did not record when the model compressed")
        return
    if again:
        tell(f"evaluated before; from {file}:")
        replay(
            (result.compression_steps, result.chosen),
            result.task_ids,
            result.horizon if result.lengths is None else None,
            lambda event: tell(str(event)),
        )
    total, chosen = int(result.compressions.sum()), int(result.chosen.sum())
    why = spec_of(model).explain_compressions(model, total, chosen)
    tell(f"{total} compressions in {result.compressions.size} roll-outs{why}")
