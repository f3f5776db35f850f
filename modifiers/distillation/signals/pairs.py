"""Which layer of a student learns from which layer of its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from paredown.framework.errors import TargetError
from paredown.framework.model.targets import match_roots

__all__ = ["paired_layers"]


def paired_layers(student: nn.Module, teacher: nn.Module, patterns: Mapping[str, str]) -> list[tuple[str, str]]:
    """The names of the layers that are paired, the student's first.

    Patterns that mean several layers pair them in the models' order. Where the teacher has k times as many, each layer
    of the student goes with the last of its k (the uniform mapping of TinyBERT, arXiv:1909.10351).

    Args:
        student, teacher: the models.
        patterns: from names, globs, class names or ``re:`` patterns of the student to those of the teacher; of layers
            inside of each other the outermost counts.

    Raises:
        TargetError: a pattern means nothing, or the numbers of layers do not go together.
    """
    pairs: list[tuple[str, str]] = []
    for own, other in patterns.items():
        ours = list(_roots(student, own, "the student"))
        theirs = list(_roots(teacher, other, "the teacher"))
        pairs += zip(ours, _spread(theirs, len(ours), own, other), strict=True)
    return pairs


def _roots(model: nn.Module, pattern: str, whose: str) -> Sequence[str]:
    try:
        return list(match_roots(model, pattern))
    except TargetError as error:
        raise TargetError(f"pairs, layers of {whose}: {error}") from None


def _spread(theirs: Sequence[str], count: int, own: str, other: str) -> Sequence[str]:
    times = len(theirs) // count
    if times * count != len(theirs):
        raise TargetError(
            f"pairs: {own!r} means {count} layers of the student and {other!r} {len(theirs)} of the teacher: name as "
            "many, or a multiple of them"
        )
    return theirs[times - 1 :: times]
