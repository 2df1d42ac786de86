"""The numbers of the report: results, aggregation, statistics, and tables for CSV and JSON."""

from __future__ import annotations

from cad.reports.data.capacity import Curve, Load, capacity_curves, capacity_tables
from cad.reports.data.cell_records import cell_record, cell_tables, fingerprint
from cad.reports.data.cells import LAST_EPISODES, CellSummary, TaskScore, last_episodes, summarise_cell
from cad.reports.data.chosen_rollouts import ChosenRollout, WatchedRollout, chosen_rollouts, rollout_tables
from cad.reports.data.compressions import (
    DepthSpot,
    choosing_models,
    closed_regions,
    common_compressions,
    compressing,
    compression_tables,
    count_regions,
    cut_short,
    depth_row,
    mean_by_compressions,
    region_tables,
)
from cad.reports.data.corner import Corner, corner
from cad.reports.data.costs import (
    Cost,
    costs,
    front,
    mean_compressions,
    mean_cost,
    minutes_before,
    pareto_tables,
)
from cad.reports.data.differences import (
    Difference,
    SharedModel,
    all_differences,
    difference_tables,
    differences_from,
    experiments,
    shared_model_tables,
    shared_models,
)
from cad.reports.data.equal_state import EqualState, equal_state, equal_state_tables
from cad.reports.data.family_facts import goal_map_size, source_agent, stated_optimum
from cad.reports.data.first_reward import first_reward_tables, first_rewards, rewarded_by_episode
from cad.reports.data.grid import Panel, differing_keys, grid_panels, grid_tables, own_settings
from cad.reports.data.knock_out import BY, KnockOut, knock_out_tables, knock_outs, replaced_curves
from cad.reports.data.labels import (
    describe,
    goal_text,
    interval_phrase,
    intervals_over,
    last_words,
    plural,
    task_word,
    unclaimed,
)
from cad.reports.data.learning_curves import is_long, learning_tables, task_tables
from cad.reports.data.marginals import Marginal, extremes, marginal_tables, marginals, shared_seeds
from cad.reports.data.measure import Measure
from cad.reports.data.model_result import ModelResult
from cad.reports.data.model_returns import FEW_SEEDS
from cad.reports.data.probes import ProbedModel, probe_tables, probed_models
from cad.reports.data.profile import THRESHOLDS, profile, profile_tables
from cad.reports.data.reach import Reach, reach_tables, reaches
from cad.reports.data.recall import Recall, ages_of_facts, mean_recall, recall_by_age, recall_tables
from cad.reports.data.regret import (
    model_regret,
    reference_regrets,
    regret_tables,
)
from cad.reports.data.results import (
    CellResult,
    FloatArray,
    Provenance,
    SourceCurve,
    StageRecord,
    TrainingPart,
)
from cad.reports.data.statistics import RESAMPLES
from cad.reports.data.study import Study, Unequal, make_study
from cad.reports.data.tables import (
    Shown,
    ShownTable,
    Table,
    Value,
    finite,
    interval_cell,
    interval_note,
    interval_text,
    number_cell,
    text_cell,
)
from cad.reports.data.training_metrics import (
    MetricLines,
    metric_series,
    metrics_by_depth,
    training_tables,
)

__all__ = [
    "BY",
    "FEW_SEEDS",
    "LAST_EPISODES",
    "RESAMPLES",
    "THRESHOLDS",
    "CellResult",
    "CellSummary",
    "ChosenRollout",
    "Corner",
    "Cost",
    "Curve",
    "DepthSpot",
    "Difference",
    "EqualState",
    "FloatArray",
    "KnockOut",
    "Load",
    "Marginal",
    "Measure",
    "MetricLines",
    "ModelResult",
    "Panel",
    "ProbedModel",
    "Provenance",
    "Reach",
    "Recall",
    "SharedModel",
    "Shown",
    "ShownTable",
    "SourceCurve",
    "StageRecord",
    "Study",
    "Table",
    "TaskScore",
    "TrainingPart",
    "Unequal",
    "Value",
    "WatchedRollout",
    "ages_of_facts",
    "all_differences",
    "capacity_curves",
    "capacity_tables",
    "cell_record",
    "cell_tables",
    "choosing_models",
    "chosen_rollouts",
    "closed_regions",
    "common_compressions",
    "compressing",
    "compression_tables",
    "corner",
    "costs",
    "count_regions",
    "cut_short",
    "depth_row",
    "describe",
    "difference_tables",
    "differences_from",
    "differing_keys",
    "equal_state",
    "equal_state_tables",
    "experiments",
    "extremes",
    "fingerprint",
    "finite",
    "first_reward_tables",
    "first_rewards",
    "front",
    "goal_map_size",
    "goal_text",
    "grid_panels",
    "grid_tables",
    "interval_cell",
    "interval_note",
    "interval_phrase",
    "interval_text",
    "intervals_over",
    "is_long",
    "knock_out_tables",
    "knock_outs",
    "last_episodes",
    "last_words",
    "learning_tables",
    "make_study",
    "marginal_tables",
    "marginals",
    "mean_by_compressions",
    "mean_compressions",
    "mean_cost",
    "mean_recall",
    "metric_series",
    "metrics_by_depth",
    "minutes_before",
    "model_regret",
    "number_cell",
    "own_settings",
    "pareto_tables",
    "plural",
    "probe_tables",
    "probed_models",
    "profile",
    "profile_tables",
    "reach_tables",
    "reaches",
    "recall_by_age",
    "recall_tables",
    "reference_regrets",
    "region_tables",
    "regret_tables",
    "replaced_curves",
    "rewarded_by_episode",
    "rollout_tables",
    "shared_model_tables",
    "shared_models",
    "shared_seeds",
    "source_agent",
    "stated_optimum",
    "summarise_cell",
    "task_tables",
    "task_word",
    "text_cell",
    "training_tables",
    "unclaimed",
]
