"""paredown: compression of any PyTorch model, written down as a recipe.

from paredown import ScheduledManager

manager = ScheduledManager.from_yaml("recipe.yaml")
optimizer = manager.modify(model, optimizer, steps_per_epoch=len(loader))
"""

from paredown.framework.checkpoint import load, resume, save
from paredown.framework.errors import (
    CheckpointError,
    ExportError,
    ParedownError,
    RecipeError,
    ScheduleError,
    TargetError,
)
from paredown.framework.manager import ScheduledManager
from paredown.framework.modifier import Modifier
from paredown.framework.plan import Plan
from paredown.framework.recipe import Recipe
from paredown.framework.report import Report
from paredown.framework.time import Time
from paredown.framework.training import Training

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "ExportError",
    "Modifier",
    "ParedownError",
    "Plan",
    "Recipe",
    "RecipeError",
    "Report",
    "ScheduleError",
    "ScheduledManager",
    "TargetError",
    "Time",
    "Training",
    "load",
    "resume",
    "save",
]
