"""paredown: compression of any PyTorch model, written down as a recipe.

from paredown import ScheduledManager

manager = ScheduledManager.from_yaml("recipe.yaml")
optimizer = manager.modify(model, optimizer, steps_per_epoch=len(loader))
"""

from paredown.framework.engine.exporting import export
from paredown.framework.errors import (
    CheckpointError,
    ExportError,
    ParedownError,
    RecipeError,
    ScheduleError,
    TargetError,
)
from paredown.framework.experiments.recommend import Recommendation, recommend
from paredown.framework.experiments.task import Task
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.registry import register
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.framework.recipe import Recipe
from paredown.framework.report import Report
from paredown.framework.run.checkpoint import load, resume, save
from paredown.framework.run.manager import ScheduledManager
from paredown.framework.run.plan import Plan

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "ExportError",
    "Modifier",
    "ParedownError",
    "Plan",
    "Recipe",
    "RecipeError",
    "Recommendation",
    "Report",
    "ScheduleError",
    "ScheduledManager",
    "TargetError",
    "Task",
    "Time",
    "Training",
    "export",
    "load",
    "recommend",
    "register",
    "resume",
    "save",
]
