"""Translates names and patterns of parameters to those of layers.

SparseML matched `re:` patterns at the start of a parameter's name, paredown matches whole names of layers; a layer that
matches includes all below it.
"""

from __future__ import annotations

import re

from paredown.integrations.conversion.fields import Fields
from paredown.integrations.conversion.reading import Value

__all__ = ["ALL_PRUNABLE", "layer_of", "layer_patterns", "layers", "parameters", "prefix_pattern", "pruned"]

ALL, ALL_PRUNABLE = "__ALL__", "__ALL_PRUNABLE__"
#: what `__ALL_PRUNABLE__` means
PRUNABLE = ["Linear", "Conv1d", "Conv2d", "Conv3d"]

_WEIGHT = re.compile(r"(\\\.|\[\.\]|\.(?![*+?]))?(?:in_proj_)?weight(?:\\Z)?\$?(?=\||\)|$)")
_BIAS = re.compile(r"bias\$?\)*$")


def prefix_pattern(pattern: str) -> str:
    """A regular expression for whole names that matches what the old one matched at the start of names.

    >>> prefix_pattern("model.layers"), prefix_pattern(".*head$"), prefix_pattern("a|b")
    ('model.layers.*', '.*head', '(?:a|b).*')
    """
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        return pattern[:-1]
    if pattern.endswith(".*"):
        return pattern
    return f"(?:{pattern}).*" if "|" in pattern else f"{pattern}.*"


def layer_of(parameter: str) -> str | None:
    """The layer of a weight; None for a bias, or what has no layer.

    >>> layer_of("layer1.0.conv1.weight"), layer_of("attn.in_proj_weight"), layer_of("fc.bias")
    ('layer1.0.conv1', 'attn', None)
    """
    layer, _, name = parameter.rpartition(".")
    return layer if layer and name in ("weight", "in_proj_weight") else None


def layer_patterns(target: str) -> list[str] | None:
    """The patterns for layers of a target of SparseML; an empty list is every layer; None if it names no weight.

    >>> layer_patterns("re:.*weight"), layer_patterns("re:layer1.*conv[.]weight"), layer_patterns("__ALL__")
    ([], ['re:layer1.*conv'], [])
    """
    if target == ALL:
        return []
    if target == ALL_PRUNABLE:
        return PRUNABLE
    if not target.startswith("re:"):
        layer = layer_of(target)
        return None if layer is None else [layer]
    if _BIAS.search(target):
        return None
    pattern, found = _WEIGHT.subn("", target[3:].removeprefix("^"))
    pattern = pattern if found else prefix_pattern(pattern)
    return [] if pattern in (".*", "", ".+", "(.*)") else [f"re:{pattern}"]


def pruned(fields: Fields, values: list[Value]) -> list[str] | None:
    """`targets` of a modifier of weights, by names of parameters; [] is every layer, None nothing that can be meant."""
    found: list[str] = []
    usable = every = False
    for value in values:
        patterns = _patterns(fields, str(value.value))
        if patterns is None:
            fields.notes.left_out(value.line, f"{fields.old.title}: {value.value}", "no weight of a layer")
            continue
        usable, every = True, every or not patterns
        found += [pattern for pattern in patterns if pattern not in found]
        _note_difference(fields, value)
    return None if not usable else [] if every else found


def _patterns(fields: Fields, target: str) -> list[str] | None:
    """Untagged dialects name layers, their classes or parameters; the old one parameters alone."""
    if fields.old.tagged or target in (ALL, ALL_PRUNABLE) or target.endswith(("weight", "weight$", "bias")):
        return layer_patterns(target)
    return layers([target])


def _note_difference(fields: Fields, value: Value) -> None:
    if value.value == ALL or re.fullmatch(r"re:\^?\.[*+](\\?\.)?(weight)?\$?", str(value.value)):
        fields.notes.differs(
            value.line, f"{fields.old.title}: {value.value}", "the weights of layers; biases and norms are left alone"
        )


def layers(targets: list[str]) -> list[str]:
    """Names, classes and `re:` patterns of layers, the latter for whole names.

    >>> layers(["Linear", "re:.*lm_head", "lm_head"])
    ['Linear', 're:.*lm_head.*', 'lm_head']
    """
    return [f"re:{prefix_pattern(one[3:])}" if one.startswith("re:") else one for one in targets]


def parameters(targets: list[str]) -> list[str]:
    """Parameters by themselves, for `freeze`; [] is every one."""
    if ALL in targets:
        return []
    found: list[str] = []
    for one in targets:
        found += PRUNABLE if one == ALL_PRUNABLE else layers([one])
    return found
