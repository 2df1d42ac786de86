"""The table of settings that differ between models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cad.config import flatten
from cad.reports import CellResult, make_study
from cad.reports.output.page import setting_text, settings_table

Make = Callable[..., CellResult]


def test_it_says_what_was_chosen_for_an_equal_state(cell: Make) -> None:
    chosen = "model.n_transit=56: a state of 129,024 bytes for the 129,024 of C"
    plain, equal = cell(depth=1, n_latent=4), cell(kind="ad")
    for result, extra in ((equal, []), (replace(equal, equal_state=chosen), ["equal state"])):
        study = make_study("s", "", "", [plain, result], None)
        settings = [flatten(model.config) for model in study.models]
        table = settings_table(study, ["model.kind"], settings)
        assert table.headers == ("model", "model.kind", *extra)
        assert [[shown.text for shown in row[1:]] for row in table.rows] == [
            ["compressed_ad", *("-" for _ in extra)],
            ["ad", *(chosen for _ in extra)],
        ]


def test_settings_are_written_as_in_a_config() -> None:
    values = [None, True, 0.5, "muon", ["tensorboard"], {"a": False}]
    assert [setting_text(value) for value in values] == [
        "default", "true", "0.5", "muon", '["tensorboard"]', '{"a": false}',
    ]  # fmt: skip
