"""The exceptions of paredown, and the nearest known word for their messages.

ParedownError
├── ArgumentError     an argument of a run or a sweep is wrong; names the argument
├── RecipeError       the recipe is wrong; carries every mistake of the file, with positions
├── ScheduleError     the run and the recipe's times do not fit, or a target was not reached
├── TargetError       a pattern matches nothing, or a layer cannot be treated
├── CheckpointError   a checkpoint is damaged, or belongs to another recipe or teacher
└── ExportError       an exported model does not compute what the model does
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "ExportError",
    "Mistake",
    "ParedownError",
    "RecipeError",
    "ScheduleError",
    "TargetError",
    "did_you_mean",
    "first_line",
    "nearest",
]

#: characters of a found value or word that a message shows
LONGEST_SHOWN = 80
#: characters of another exception's message that a message shows
LONGEST_REASON = 200
#: known words among which the nearest is looked for
MOST_CANDIDATES = 500


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
    """One mistake in a recipe: its position, what is wrong, and what would be right.

    ``line`` and ``column`` count from 1 and are None where the value is not part of a text (a dict, an override;
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
        """The key that sorts by position; mistakes without one come last."""
        return (self.line or 2**31, self.column or 0)


class RecipeError(ParedownError):
    """An invalid recipe.

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


def first_line(error: BaseException) -> str:
    """The first line of another exception's message, as a reason in a message of ours.

    >>> first_line(ValueError("too long\\nfor one line"))
    'too long'
    """
    return str(error).strip().partition("\n")[0][:LONGEST_REASON]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message that names the nearest known word; empty where none is near.

    >>> did_you_mean("curv", ["curve", "scope"])
    "; did you mean 'curve'?"
    """
    near = nearest(word, known)
    return f"; did you mean {near!r}?" if near is not None else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like ``word``; None where none is near."""
    near = difflib.get_close_matches(word[:LONGEST_SHOWN], islice(known, MOST_CANDIDATES), n=1, cutoff=0.6)
    return near[0] if near else None
