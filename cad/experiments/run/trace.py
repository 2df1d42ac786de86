"""Print the compressions of an evaluation, as they happen or from its results."""

from __future__ import annotations

from collections.abc import Callable

from cad.evaluation.compression_steps import CHOSEN_BECAUSE, replay
from cad.evaluation.results import load_results
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.schema import Config


def end_trace(
    config: Config, evaluation: StageDirectory, tell: Callable[[str], None], *, again: bool
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
            lambda event: tell(event.in_words(config.evaluation)),
        )
    total, chosen = int(result.compressions.sum()), int(result.chosen.sum())
    why = config.spec.explain_compressions(config.model, total, chosen)
    if config.evaluation.compress_at != "full":
        because = CHOSEN_BECAUSE[config.evaluation.compress_at]
        why = f", {chosen} because {because}, {total - chosen} because a window was full"
    tell(f"{total} compressions in {result.compressions.size} roll-outs{why}")
