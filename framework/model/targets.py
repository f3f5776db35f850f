"""Matching the patterns of `targets` and `ignore` with modules and parameters of a model.

A pattern is a class name (base classes match too), a module name with globs (``*`` crosses dots), a parameter name,
or ``re:`` and a regular expression that matches a whole name. A name means the module and all below it. The prefixes
that wrappers put into names are seen through.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from paredown.framework.errors import TargetError

__all__ = [
    "Matches",
    "Selection",
    "match",
    "match_parameters",
    "match_roots",
    "named_modules",
    "named_parameters",
    "pattern_of",
    "plain_name",
    "readable",
    "unwrap",
]

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@dataclass(frozen=True)
class Selection:
    """Which modules are meant: those of ``kinds`` that ``targets`` match (without targets: all), but not ``ignore``."""

    targets: Sequence[str] = ()
    ignore: Sequence[str] = ()
    kinds: tuple[type[nn.Module], ...] = ()


@dataclass
class Matches:
    """The modules that were matched, by name, and the `ignore` patterns that matched none."""

    modules: dict[str, nn.Module] = field(default_factory=dict)
    idle_ignores: list[str] = field(default_factory=list)


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside of DistributedDataParallel, torch.compile and the like."""
    while True:
        inner = next((model._modules[name] for name in WRAPPERS if name in model._modules), None)
        if inner is None or len(model._modules) != 1:
            return model
        model = inner


def plain_name(name: str) -> str:
    """The name without what wrappers put into it.

    >>> plain_name("module.layer1._checkpoint_wrapped_module.conv")
    'layer1.conv'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS[1:]).removeprefix("module.")


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by plain name, each once; a wrapper gives way to what it wraps."""
    return {plain_name(name): module for name, module in model.named_modules()}


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by plain name, each once."""
    return {plain_name(name): parameter for name, parameter in model.named_parameters()}


def pattern_of(model: nn.Module, name: str) -> str:
    """The pattern that means one module and all below it: its name, where that means nothing else.

    >>> pattern_of(nn.Sequential(nn.Linear(1, 1)), "0"), pattern_of(nn.Linear(1, 1), "")
    ('0', 're:')
    """
    alone = bool(name) and list(_roots(named_modules(model), name)) == [name]
    return name if alone else f"re:{re.escape(name)}"


def readable(pattern: str) -> str:
    """The pattern itself.

    Raises:
        ValueError: it begins with ``re:``, and what follows is no regular expression.
    """
    if pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


def match(
    model: nn.Module, targets: Sequence[str], ignore: Sequence[str], kinds: tuple[type[nn.Module], ...]
) -> Matches:
    """The modules of ``kinds`` that ``targets`` mean, in the model's order, without those that ``ignore`` means.

    Without targets: all modules of ``kinds``.

    Raises:
        TargetError: a pattern, or all together, match nothing; the message has the nearest names.
    """
    modules = named_modules(model)
    wanted = {name for name, module in modules.items() if isinstance(module, kinds)}
    for pattern in targets:
        _refuse_other_kinds(pattern, _covered(modules, [pattern], required=True), wanted, modules, kinds)
    if targets:
        wanted &= _covered(modules, targets, required=True)
    ignored = [_covered(modules, [pattern], required=False) for pattern in ignore]
    found = Matches(idle_ignores=[pattern for pattern, names in zip(ignore, ignored, strict=True) if not names])
    found.modules = {name: modules[name] for name in modules if name in wanted and not any(name in o for o in ignored)}
    if not found.modules:
        raise TargetError(_nothing(modules, targets, ignore, kinds))
    return found


def match_roots(model: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """The modules that a pattern itself means, in the model's order; of modules inside of each other the outermost.

    Raises:
        TargetError: there are none below the model itself; the message has the nearest names.
    """
    modules = {name: module for name, module in named_modules(model).items() if name}
    roots = list(dict.fromkeys(_roots(modules, pattern)))
    if not roots:
        _complain(modules, pattern, required=True)
    return {
        name: module
        for name, module in modules.items()
        if name in roots and not any(name.startswith(f"{root}.") for root in roots)
    }


def match_parameters(model: nn.Module, targets: Sequence[str], ignore: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters that ``targets`` mean: named themselves, or below a module that is meant; all without targets.

    Raises:
        TargetError: a pattern, or all together, match nothing.
    """
    parameters = named_parameters(model)
    modules = named_modules(model)

    def meant(patterns: Sequence[str], required: bool) -> set[str]:
        own = {pattern: set(_matching(pattern, parameters)) for pattern in patterns}
        layers = _covered(modules, [pattern for pattern in patterns if not own[pattern]], required)
        below = {name for name in parameters if name.rpartition(".")[0] in layers}
        return below.union(*own.values())

    wanted = meant(targets, required=True) if targets else set(parameters)
    wanted -= meant(ignore, required=False)
    if not wanted:
        raise TargetError(_nothing(modules, targets, ignore, ()))
    return {name: parameter for name, parameter in parameters.items() if name in wanted}


def _covered(modules: dict[str, nn.Module], patterns: Iterable[str], required: bool) -> set[str]:
    covered: set[str] = set()
    for pattern in patterns:
        roots = set(_roots(modules, pattern))
        if not roots and not _is_torch_class(pattern):
            _complain(modules, pattern, required)
        covered |= {name for name in modules if any(_below(name, root) for root in roots)}
    return covered


def _refuse_other_kinds(
    pattern: str,
    covered: set[str],
    treated: set[str],
    modules: dict[str, nn.Module],
    kinds: tuple[type[nn.Module], ...],
) -> None:
    if covered and not covered & treated:
        found = ", ".join(sorted({type(modules[name]).__name__ for name in covered}))
        treats = ", ".join(kind.__name__ for kind in kinds)
        raise TargetError(f"target {pattern!r} means nothing but {found}, and only {treats} is treated")


def _roots(modules: dict[str, nn.Module], pattern: str) -> Iterator[str]:
    yield from _matching(pattern, modules)
    for name, module in modules.items():
        if any(cls.__name__ == pattern for cls in type(module).__mro__ if cls not in (object, nn.Module)):
            yield name


def _matching(pattern: str, names: Iterable[str]) -> Iterator[str]:
    if pattern.startswith("re:"):
        try:
            expression = re.compile(readable(pattern)[3:])
        except ValueError as error:
            raise TargetError(str(error)) from None
        return (name for name in names if expression.fullmatch(name))
    return (name for name in names if fnmatch.fnmatchcase(name, pattern))


def _below(name: str, root: str) -> bool:
    return name == root or root == "" or name.startswith(f"{root}.")


def _is_torch_class(pattern: str) -> bool:
    return isinstance(getattr(nn, pattern, None), type) if pattern.isidentifier() else False


def _complain(modules: dict[str, nn.Module], pattern: str, required: bool) -> None:
    near = _near(modules, pattern)
    if required or near:
        hint = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else _known(modules)
        raise TargetError(f"{'target' if required else 'ignore'} {pattern!r} matches nothing in the model{hint}")


def _near(modules: dict[str, nn.Module], pattern: str) -> list[str]:
    names = {name for name in modules if name} | {type(module).__name__ for module in modules.values()}
    return difflib.get_close_matches(pattern, sorted(names), n=3, cutoff=0.7)


def _known(modules: dict[str, nn.Module]) -> str:
    classes = sorted({type(module).__name__ for name, module in modules.items() if name})
    return f"; its layers are of the classes {', '.join(classes)}"


def _nothing(
    modules: dict[str, nn.Module], targets: Sequence[str], ignore: Sequence[str], kinds: tuple[type[nn.Module], ...]
) -> str:
    wanted = f"targets {list(targets)}" if targets else f"the layer kinds {', '.join(kind.__name__ for kind in kinds)}"
    less = f" less ignore {list(ignore)}" if ignore else ""
    return f"{wanted}{less} leave nothing to act on in the model{_known(modules)}"
