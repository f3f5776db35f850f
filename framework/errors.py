"""The exceptions of paredown.

ParedownError
├── ArgumentError     an argument of a run or a sweep is wrong; names the argument
├── RecipeError       the recipe is wrong; carries every mistake of the file, with positions
├── ScheduleError     the run and the recipe's times do not fit, or a target was not reached
├── TargetError       a pattern matches nothing, or a layer cannot be treated
├── CheckpointError   a checkpoint is damaged, or belongs to another recipe or teacher
└── ExportError       an exported model does not say what the model says
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "ExportError",
    "Mistake",
    "ParedownError",
    "RecipeError",
    "ScheduleError",
    "TargetError",
]


class ParedownError(Exception):
    """Base of all errors that paredown raises on purpose."""


class ArgumentError(ParedownError):
    """An argument of a run or a sweep is wrong.

    Attributes:
        argument: which one, by its name in Python, such as ``task`` or ``overrides``.
    """

    def __init__(self, message: str, argument: str = "") -> None:
        super().__init__(message)
        self.argument = argument


class ScheduleError(ParedownError):
    """The run and the recipe's times do not fit, or a target was not reached."""


class TargetError(ParedownError):
    """A pattern matches nothing, or names a layer that cannot be treated."""


class CheckpointError(ParedownError):
    """A checkpoint is damaged, or does not belong to this recipe, model or teacher."""


class ExportError(ParedownError):
    """An exported model does not compute what the model computes."""


@dataclass(frozen=True)
class Mistake:
    """One mistake in a recipe: where it stands, what is wrong, and what would be right.

    ``line`` and ``column`` count from 1 and are None where the value has no place in a text (a dict, an override;
    then ``file`` names the source, such as "override 2").
    """

    message: str
    path: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None
    source_line: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        head = ": ".join(part for part in (place, self.path, self.message) if part)
        if self.source_line is None or self.column is None or self.line is None:
            return head
        gutter = f"{self.line:>5} | "
        return f"{head}\n{gutter}{self.source_line}\n{' ' * (len(gutter) + self.column - 1)}^"

    @property
    def order(self) -> tuple[int, int]:
        """Sorts by position; what has none comes last."""
        return (self.line or 2**31, self.column or 0)


class RecipeError(ParedownError):
    """A recipe that does not hold.

    Attributes:
        errors: every mistake that was found, by position.
        file, line, column, path: those of the first.
    """

    def __init__(self, errors: Sequence[Mistake]) -> None:
        self.errors = tuple(sorted(errors, key=lambda mistake: mistake.order))
        super().__init__("\n".join(str(mistake) for mistake in self.errors))

    @property
    def file(self) -> str | None:
        return self.errors[0].file

    @property
    def line(self) -> int | None:
        return self.errors[0].line

    @property
    def column(self) -> int | None:
        return self.errors[0].column

    @property
    def path(self) -> str:
        return self.errors[0].path

    def __reduce__(self) -> tuple[type[RecipeError], tuple[tuple[Mistake, ...]]]:
        return type(self), (self.errors,)
