"""``cad config``: settings and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cad.cli.arguments import ConfigWords, split_files
from cad.cli.terminal import say

if TYPE_CHECKING:
    from cad.schema import Config, ExperimentConfig


def show(
    words: ConfigWords = None,
    experiment: Annotated[
        bool,
        typer.Option("--experiment", help="Show the keys of experiment files (a file with arms is one)."),
    ] = False,
    keys: Annotated[bool, typer.Option("--keys", help="List every key with type, default, meaning.")] = False,
) -> None:
    """Print the resolved config as YAML, with where each value came from.

    Example: cad config show configs/model/ad.yaml train.batch_size=64
    """
    from cad.config import describe, load
    from cad.config import show as as_yaml
    from cad.schema import holds_experiment

    files, overrides = split_files(words)
    model = _model(experiment or any(holds_experiment(file) for file in files))
    if keys:
        for row in describe(model):
            say(row.key, f" ({row.type}, default {row.default}): {row.description}", style="bold")
        return
    typer.echo(as_yaml(load(model, files, overrides)))


def schema(
    experiment: Annotated[bool, typer.Option("--experiment", help="Schema of experiment files.")] = False,
) -> None:
    """Print the JSON schema of config files.

    Example: cad config schema --experiment
    """
    import json

    from cad.config import json_schema

    typer.echo(json.dumps(json_schema(_model(experiment)), indent=2))


def _model(experiment: bool) -> type[Config] | type[ExperimentConfig]:
    from cad.schema import Config, ExperimentConfig

    return ExperimentConfig if experiment else Config
