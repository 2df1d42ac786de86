"""What the report needs to know of a model's settings, from the spec of its kind."""

from __future__ import annotations

from dataclasses import dataclass

from cad.schema import Config


@dataclass(frozen=True)
class ModelFacts:
    """Properties of a model, in the words of the report; None where a property does not apply."""

    is_ad: bool  # plain AD: the reference without compression
    depth: int | None  # compressions in a row that training unrolls
    n_latent: int | None
    window: int  # steps that the decoder sees uncompressed
    training_window: int  # steps of history in one training window, at most
    reports_depths: bool  # training writes loss and accuracy by compression depth
    trained_region: int | None  # steps of a training region, for models that close regions themselves
    largest_region: int | None  # steps and tokens that one region may hold in a roll-out

    @property
    def chooses_regions(self) -> bool:
        """Whether the model decides for itself when to compress."""
        return self.trained_region is not None


def model_facts(config: Config) -> ModelFacts:
    """Facts about the model of ``config``."""
    model, spec = config.model, config.spec
    trained, largest = spec.chosen_regions(model) or (None, None)
    return ModelFacts(
        is_ad=spec.is_reference,
        depth=model.depth,
        n_latent=model.latents,
        window=model.uncompressed_steps,
        training_window=spec.training_window(model),
        reports_depths=spec.depths_are_compressions,
        trained_region=trained,
        largest_region=largest,
    )
