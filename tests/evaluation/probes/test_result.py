"""Files of probes that cannot be read."""

from __future__ import annotations

import json

import pytest

from cad.errors import CadError
from cad.evaluation.probes.result import load_probe


def test_a_probe_of_another_version_or_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "probe.json"
    for text, message in (
        (
            json.dumps({"version": 99, "targets": []}),
            "damaged .its format is 99, and this cad reads 1.; 'cad repair",
        ),
        (json.dumps({"version": 1, "targets": []}), "damaged"),
        ("[]", "damaged"),
        ("{", "damaged"),
    ):
        path.write_text(text)
        with pytest.raises(CadError, match=message):
            load_probe(path)
