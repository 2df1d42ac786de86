"""The config of one cell: all sections together, and the rules between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from cad.config import apply_overrides
from cad.config.evaluation import EvaluationConfig
from cad.config.section import Section, TrainingSeed
from cad.config.source import DEFAULT_SOURCE, SOURCES, AnySourceConfig, LearnerConfig, PPOConfig, SB3Config
from cad.config.training import PretrainConfig, TrainConfig
from cad.envs.config import EnvConfig
from cad.envs.registry import DEFAULT_ENV, FAMILIES, AnyEnvConfig, config_class, env_config
from cad.envs.split import split_tasks
from cad.models.registry import DEFAULT_MODEL, MODELS, AnyModelConfig, spec_of
from cad.models.spec import AnySpec, Sections

# Hidden states that PPO, which has no memory, is shown as one input each.
_MOST_HIDDEN = 10_000


class Config(Section):
    """One cell: everything that determines its numbers."""

    seed: TrainingSeed = Field(0, description="Seed of initial weights, sampling and dropout.")
    env: AnyEnvConfig = Field(DEFAULT_ENV, description="Tasks and their split.")
    source: AnySourceConfig = Field(DEFAULT_SOURCE, description="The agents that write the histories.")
    model: AnyModelConfig = Field(DEFAULT_MODEL, description="The sequence model.")
    pretrain: PretrainConfig = Field(PretrainConfig(), description="Pre-training of the encoder.")
    train: TrainConfig = Field(TrainConfig(), description="Training.")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="Held-out roll-outs.")

    @property
    def spec(self) -> AnySpec:
        """What the kind of the model brings."""
        return spec_of(self.model)

    @property
    def others(self) -> Sections:
        """The sections that a model's spec looks at beside its own."""
        return Sections(self.source, self.train, self.pretrain)

    @property
    def n_evaluated(self) -> int:
        """Number of tasks that the evaluation puts the model into."""
        return self.env.n_validation if self.evaluation.tasks == "validation" else self.env.total_heldout

    @property
    def evaluated_tasks(self) -> tuple[int, ...]:
        """The tasks that the evaluation puts the model into."""
        split = split_tasks(self.env)
        return split.validation if self.evaluation.tasks == "validation" else split.heldout

    @property
    def evaluated_env(self) -> AnyEnvConfig:
        """``env`` with what ``evaluation.env`` changes: the tasks and the split are the same."""
        if self.evaluation.env is None:
            return self.env
        return env_config(self.env.changed(self.evaluation.env))

    @property
    def freezes_encoder(self) -> bool:
        """Whether action training leaves encoder and step embedding as they were loaded."""
        return self.train.freeze_encoder or (self.pretrain.enabled and self.pretrain.freeze)

    @property
    def pretraining_seed(self) -> int:
        """``pretrain.seed`` with its default filled in."""
        return self.seed if self.pretrain.seed is None else self.pretrain.seed

    def with_overrides(self, settings: Mapping[str, object], where: str) -> Config:
        """This config with dotted keys replaced, validated again; ``where`` is named in errors.

        Where another kind of model or task family is chosen, the settings that only the old one has are
        left behind.  Raises :class:`~cad.errors.UsageError`.
        """
        data = self.model_dump(mode="json")
        for section, tag, find in (
            ("model", "kind", lambda kind: MODELS[kind].config_class),
            ("source", "kind", SOURCES.__getitem__),
            ("env", "name", config_class),
        ):
            chosen = _chosen(settings, section, tag)
            if chosen is None or chosen == data[section][tag]:
                continue
            try:
                kept = find(chosen).model_fields
            except (KeyError, ValueError, TypeError):
                continue  # there is none; validation says so
            data[section] = {key: value for key, value in data[section].items() if key in kept}
        return apply_overrides(type(self), data, settings, where)

    @model_validator(mode="after")
    def _histories_fit(self) -> Config:
        horizon = self.env.steps_per_episode
        family = FAMILIES[self.env.name]
        if self.source.steps_per_stream % horizon and not family.ends_early:
            raise ValueError(
                f"source.steps_per_stream={self.source.steps_per_stream} is not a whole number of "
                f"episodes of env.horizon={horizon} steps"
            )
        _require_horizon(self.env, "env")
        if isinstance(self.source, LearnerConfig):
            named, learners = self.source.learner, family.scripted_learners
            if not learners:
                raise ValueError(
                    f"source.kind=learner: env.name={self.env.name} has no scripted learner; use ppo or "
                    "noise_distillation"
                )
            if named is not None and named not in learners:
                raise ValueError(
                    f"source.learner={named}: env.name={self.env.name} has {' and '.join(learners)}"
                )
        rules = family(self.env, ())
        n_facts, n_hidden = rules.n_facts, rules.n_hidden_states
        if isinstance(self.source, PPOConfig | SB3Config) and n_hidden > _MOST_HIDDEN:
            raise ValueError(
                f"source.kind={self.source.kind} sees which of {n_hidden} hidden states a task of "
                f"{self.env.in_words()} is in, one input each (at most {_MOST_HIDDEN}); "
                "use source.kind=learner or a smaller task"
            )
        if self.source.loads is not None and max(self.source.loads) > n_facts:
            raise ValueError(
                f"source.loads={list(self.source.loads)}: a task of {self.env.in_words()} has {n_facts} "
                f"fact{'s' * (n_facts > 1)}"
            )
        needed = self.spec.training_window(self.model)
        if needed > self.source.steps_per_stream:
            raise ValueError(
                f"a training window needs {needed} steps (n_transit, n_unroll, segments x longest segment, "
                "or regions x compress_interval), but a history has "
                f"source.steps_per_stream={self.source.steps_per_stream}"
            )
        return self

    @model_validator(mode="after")
    def _evaluated_env_fits(self) -> Config:
        for key in self.evaluation.env or {}:
            if key not in self.env.EVALUATED:
                raise ValueError(
                    f"evaluation.env.{key}: of env.name={self.env.name} only "
                    f"{' and '.join(self.env.EVALUATED)} may differ in roll-outs"
                )
        try:
            env = self.evaluated_env
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(
                ": ".join(
                    ["evaluation.env", *map(str, first["loc"]), first["msg"].removeprefix("Value error, ")]
                )
            ) from error
        _require_horizon(env, "evaluation.env")
        return self

    @model_validator(mode="after")
    def _model_fits(self) -> Config:
        for key in sorted(frozenset().union(*(spec.other_settings for spec in MODELS.values()))):
            section, _, name = key.partition(".")
            values = getattr(self, section)
            default = type(values).model_fields[name].default
            if key not in self.spec.other_settings and getattr(values, name) != default:
                kinds = " or ".join(kind for kind, spec in MODELS.items() if key in spec.other_settings)
                raise ValueError(f"{key} is for model.kind={kinds}")
        self.spec.check(self.model, self.others)
        return self

    @model_validator(mode="after")
    def _intervals_fit(self) -> Config:
        for key, every, log_every in (
            ("train.validate_every", self.train.validate_every, self.train.log_every),
            ("train.checkpoint_every", self.train.checkpoint_every, self.train.log_every),
            ("pretrain.checkpoint_every", self.pretrain.checkpoint_every, self.pretrain.log_every),
        ):
            if every % log_every:
                section = key.partition(".")[0]
                raise ValueError(f"{key}={every} is not a multiple of {section}.log_every={log_every}")
        if self.train.validate_every and not self.env.n_validation:
            raise ValueError(
                f"train.validate_every={self.train.validate_every} rolls out in validation tasks, and "
                "env.n_validation=0 splits off none; set train.validate_every: 0, or env.n_validation to at "
                "least 1"
            )
        if self.evaluation.tasks == "validation" and not self.env.n_validation:
            raise ValueError("evaluation.tasks=validation needs env.n_validation of at least 1")
        self._check_knock_out()
        if shown := self.evaluation.demonstrated_episodes:
            rules = FAMILIES[self.env.name](self.env, ())
            if not (rules.has_rules and rules.has_optimum):
                raise ValueError(
                    f"evaluation.demonstrated_episodes={shown} takes the optimal actions, and those of "
                    f"env.name={self.env.name} are not known; leave it out"
                )
        return self

    def _check_knock_out(self) -> None:
        how, episode = self.evaluation.knock_out, self.evaluation.knock_out_episode
        if how is None:
            return
        if not self.spec.compresses(self.model):
            raise ValueError(
                f"evaluation.knock_out={how} replaces what a model has compressed; "
                f"model.kind={self.model.kind} with these settings compresses nothing"
            )
        if how == "other" and self.n_evaluated < 2:
            raise ValueError("evaluation.knock_out=other needs two evaluated tasks: one has no other")
        steps, horizon = self.spec.steps_uncompressed(self.model), self.evaluated_env.steps_per_episode
        least = steps // horizon + 2
        if episode < least:
            advice = f"set it to at least {least}"
            if least > self.evaluation.n_episodes:
                advice += f", and evaluation.n_episodes={self.evaluation.n_episodes} too"
            raise ValueError(
                f"evaluation.knock_out_episode={episode} begins after {(episode - 1) * horizon} steps at "
                f"most, and the first compression comes with step {steps + 1}; {advice}"
            )

    @model_validator(mode="after")
    def _weights_come_from_one_place(self) -> Config:
        pretrain, train = self.pretrain, self.train
        if train.weights is not None:
            others = {
                "train.init_from_ad": train.init_from_ad is not None,
                "train.pretrained_encoder_path": train.pretrained_encoder_path is not None,
                "pretrain.enabled": pretrain.enabled,
            }
            if clashing := [key for key, is_set in others.items() if is_set]:
                raise ValueError(f"train.weights brings all weights; leave {' and '.join(clashing)} out")
        if train.init_from_ad is not None and (pretrain.enabled or train.pretrained_encoder_path is not None):
            raise ValueError(
                "train.init_from_ad and a pre-trained encoder (pretrain.enabled or "
                "train.pretrained_encoder_path) both bring a step embedding; choose one"
            )
        if pretrain.enabled and train.pretrained_encoder_path is not None:
            raise ValueError(
                "pretrain.enabled and train.pretrained_encoder_path both name an encoder; choose one"
            )
        if train.freeze_encoder and train.pretrained_encoder_path is None:
            raise ValueError(
                "train.freeze_encoder needs train.pretrained_encoder_path (for an encoder that a stage "
                "pre-trains, set pretrain.freeze)"
            )
        if pretrain.enabled and pretrain.batch_size == 1:
            raise ValueError("pretrain.batch_size=1 leaves nothing to compare: the collapse check needs two")
        return self


class EnvOnly(Section):
    """A section ``env`` alone: the tasks of histories that are imported."""

    env: AnyEnvConfig = Field(DEFAULT_ENV, description="Tasks and their split.")


def _require_horizon(env: EnvConfig, key: str) -> None:
    if env.steps_per_episode < env.least_horizon:
        raise ValueError(
            f"{key}.horizon={env.steps_per_episode}: {env.in_words()} has tasks whose goal is "
            f"{env.least_horizon} steps away: their optimum would be 0; make it at least that"
        )


def _chosen(settings: Mapping[str, object], section: str, tag: str) -> Any:
    """The kind that overrides choose for a section, written as a dotted key or inside the section."""
    whole = settings.get(section)
    inside = whole.get(tag) if isinstance(whole, Mapping) else None
    return settings.get(f"{section}.{tag}", inside)
