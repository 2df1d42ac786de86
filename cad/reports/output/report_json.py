"""``report.json``: every number and sentence of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cad.reports.data import Provenance, Study, Table, cell_record, differing_keys, fingerprint
from cad.reports.output.provenance_section import provenance_json, provenance_notices, stage_tables
from cad.reports.output.summary import depth_and_latents, headline, notices, qualification
from cad.reports.questions import SECTIONS, Answer

SCHEMA_VERSION = 2


def report_json(
    study: Study, tables: Mapping[str, Table], provenance: Provenance, answers: Sequence[Answer] = ()
) -> dict[str, Any]:
    """Every number and sentence of the report; ``tables`` are those that the fingerprint covers."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "answer": depth_and_latents(study),
        "headline": headline(study),
        "qualification": qualification(study),
        "notices": [*notices(study), *provenance_notices(provenance)],
        "sentences": {section.anchor: section.sentence(study) for section in SECTIONS},
        "figures": [
            {
                "name": drawing.name,
                "section": answer.anchor,
                "anchor": f"figure-{drawing.name}",
                "title": drawing.title,
                "caption": drawing.caption,
                "alternative": drawing.alt,
                "tables": list(drawing.tables),
            }
            for answer in answers
            for drawing in answer.drawings
        ],
        "fingerprint": fingerprint(study, tables),
        "cells": [cell_record(cell) for cell in study.cells],
        "configs": {
            "differing_keys": differing_keys([model.config for model in study.models]),
            "groups": [
                {"label": model.label, "config": model.config.model_dump(mode="json")}
                for model in study.models
            ],
        },
        "tables": {name: table.as_json() for name, table in {**tables, **stage_tables(provenance)}.items()},
        "provenance": provenance_json(provenance),
    }


def json_text(numbers: Mapping[str, Any]) -> str:
    """A line a key: with an indent Python's slow encoder would take half of a large report's time."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in numbers.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
