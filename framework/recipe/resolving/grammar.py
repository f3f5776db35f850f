"""Parses interpolations by OmegaConf's grammar into a small tree: text, references, calls.

`${a.b}` and relative `${..c}` are references, `${expr:"..."}` is a call, `\\${` is no interpolation. OmegaConf parses;
nothing is registered in its process-wide table of resolvers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from omegaconf.grammar.gen.OmegaConfGrammarLexer import OmegaConfGrammarLexer as Lexer
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser as Grammar
from omegaconf.grammar_parser import parse
from omegaconf.grammar_visitor import TerminalNode  # type: ignore[attr-defined]  # 2.4 brings an antlr4 of its own

from paredown.framework.errors import first_line

__all__ = ["Call", "Part", "Reference", "Text", "is_interpolated", "parsed"]

LONGEST = 2000


@dataclass(frozen=True)
class Reference:
    """`${a.b}`: ``levels`` dots in front (0: from the root), then keys; a key may hold interpolations itself."""

    levels: int
    keys: tuple[str | Reference | Call, ...]
    source: str


@dataclass(frozen=True)
class Call:
    """`${resolver:argument, ...}`."""

    resolver: str
    arguments: tuple[Text, ...]
    source: str


Part = str | Reference | Call


@dataclass(frozen=True)
class Text:
    """Pieces in sequence; a single interpolation gives its value, not text."""

    parts: tuple[Part, ...]


def is_interpolated(value: object) -> bool:
    """Whether a value goes through the grammar."""
    return isinstance(value, str) and "${" in value


@lru_cache(maxsize=256)
def parsed(value: str) -> Text:
    """The pieces of an interpolated text.

    >>> parsed("run-${name}").parts
    ('run-', Reference(levels=0, keys=('name',), source='${name}'))

    Raises:
        ValueError: it does not follow the grammar, or is too long.
    """
    if len(value) > LONGEST:
        raise ValueError(f"an interpolated text of {len(value)} characters; at most {LONGEST} are read")
    try:
        tree = parse(value)
        return _text(tree.getChild(0))
    except RecursionError:
        raise ValueError("interpolations are nested too deeply") from None
    except Exception as error:  # ANTLR raises bare exceptions of its own as well
        raise ValueError(_explained(value, error)) from None


def _explained(value: str, error: Exception) -> str:
    if value.count("{") != value.count("}"):
        return f"an interpolation that does not end; braces do not match in {value[:80]!r}"
    reason = first_line(error)
    return f'not an interpolation: {reason}; write ${{a.b}}, or ${{expr:"..."}} with quotes around the expression'


def _text(context: Any) -> Text:
    children = list(context.getChildren())
    parts: list[Part] = []
    for child, following in zip_longest(children, children[1:]):
        part = _terminal(child, following) if isinstance(child, TerminalNode) else _interpolation(child)
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    return Text(tuple(parts))


def _terminal(node: Any, following: Any) -> str:
    """The text without the backslashes that escape; OmegaConf's own rules."""
    kind, text = node.symbol.type, str(node.symbol.text)
    if kind == Lexer.ESC_INTER:
        return text[-(len(text) // 2 + 1) :]
    before_interpolation = isinstance(following, Grammar.InterpolationContext)
    escaped = (
        kind == Lexer.ESC
        or (kind == Lexer.TOP_ESC and before_interpolation)
        or (kind == Lexer.QUOTED_ESC and (following is None or before_interpolation))
    )
    return text[1::2] if escaped else text


def _interpolation(context: Any) -> Reference | Call:
    inner = context.getChild(0)
    return _reference(inner) if isinstance(inner, Grammar.InterpolationNodeContext) else _call(inner)


def _reference(context: Any) -> Reference:
    levels = 0
    keys: list[str | Reference | Call] = []
    for child in context.getChildren():
        if isinstance(child, Grammar.ConfigKeyContext):
            inner = child.getChild(0)
            keys.append(str(inner.symbol.text) if isinstance(inner, TerminalNode) else _interpolation(inner))
        elif child.symbol.type == Lexer.DOT and not keys:
            levels += 1
    return Reference(levels, tuple(keys), context.getText())


def _call(context: Any) -> Call:
    sequences = [child for child in context.getChildren() if isinstance(child, Grammar.SequenceContext)]
    arguments = tuple(argument for sequence in sequences for argument in _arguments(sequence))
    return Call(context.getChild(1).getText(), arguments, context.getText())


def _arguments(sequence: Any) -> Iterator[Text]:
    for child in sequence.getChildren():
        if not isinstance(child, Grammar.ElementContext):
            continue
        element = child.getChild(0)
        if isinstance(element, Grammar.QuotedValueContext):
            yield _text(element.getChild(1)) if element.getChildCount() == 3 else Text(())
        elif isinstance(element, Grammar.PrimitiveContext):
            yield _text(element)
        else:
            yield Text((element.getText(),))
