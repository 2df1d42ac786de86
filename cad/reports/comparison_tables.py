"""Tables for people about what differs: from a reference, between experiments."""

from __future__ import annotations

from cad.reports import differences, side_by_side
from cad.reports.aggregate import Study
from cad.reports.tables import Shown, ShownTable, interval, number, words


def differences_table(study: Study) -> ShownTable | None:
    """Models minus references; None where there is nothing to compare."""
    rows = [
        (
            words(d.group.label),
            words(d.reference.label),
            number(d.mean, "+.3f"),
            interval((d.low, d.high), "+"),
            Shown("no test", None) if d.p_holm is None else number(d.p_holm, ".3g"),
            number(len(d.seeds), ".0f"),
            words(" ".join(f"{value:+.3f}" for value in d.by_seed)),
        )
        for d in differences.all_differences(study)
    ]
    headers = ("model", "minus", "difference", "95% interval", "p (Holm)", "seeds", "by seed")
    caption = "Paired differences in return / optimum, on the seeds and tasks that both have"
    return ShownTable("differences-table", caption, headers, rows) if rows else None


def side_by_side_table(study: Study) -> ShownTable | None:
    """Models that several experiments share; None where none is."""
    rows = [
        (
            words(str(row[0])),
            words(str(row[1])),
            number(group.score),
            interval(group.score_interval),
            number(len(group.done), ".0f"),
            *(number(value if value is None else float(value), "+.3f") for value in row[7:10]),
        )
        for row, group in zip(
            side_by_side.rows(study),
            [group for groups in side_by_side.shared(study).values() for group in groups.values()],
            strict=True,
        )
    ]
    headers = ("model", "experiment", "return / optimum", "95% interval", "seeds", "minus the first",
               "95% interval, low", "high")  # fmt: skip
    caption = "Models that several experiments share, paired on the seeds and tasks that both have"
    return ShownTable("side-by-side-table", caption, headers, rows) if rows else None
