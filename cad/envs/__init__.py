"""Task families: one batched core, Gymnasium and stable-baselines3 faces, splits."""

from __future__ import annotations

from cad.envs.batched import BatchedEnv
from cad.envs.gym_face import register_environments
from cad.envs.split import Split, evaluated_tasks, split_tasks
from cad.envs.tasks import ACTION_NAMES, TaskFamily, task_family

__all__ = [
    "ACTION_NAMES",
    "BatchedEnv",
    "Split",
    "TaskFamily",
    "evaluated_tasks",
    "split_tasks",
    "task_family",
]

register_environments()
