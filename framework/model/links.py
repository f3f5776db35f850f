"""Links: acting around a module's forward by swapping its class; the only place that does so.

The class of one module is replaced by a subclass made on the fly, with the same name, whose forward passes through
an ordered chain of links. Module hooks are not used: under ``torch.compile`` a hook that was set after compiling is
silently ignored, while a swapped class is what dynamo guards on. A change of the chain is a new class.

Two kinds of link. One that only observes or trains belongs to the manager: a deepcopy or pickle of the module is
plain. One that is part of the model (``permanent``, such as a quantizer) is copied and pickled with it.
"""

from __future__ import annotations

import copyreg
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.errors import TargetError

__all__ = ["Link", "Links", "add_link", "base_class", "links_of", "rebuild", "remove_links", "without_links"]

Call = Callable[..., Any]


class Link:
    """Something that acts around one module's forward."""

    #: part of the model: copied, pickled and kept with it
    permanent: bool = False

    @property
    def form(self) -> str:
        """What of it bears on the speed of the module, in words that are equal for links that are as fast."""
        return type(self).__name__

    @property
    def idle_in_eval_mode(self) -> bool:
        """Whether it has work to do in training mode alone."""
        return False

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        """Call ``call(module, *args, **kwargs)``, the rest of the chain, and return its output."""
        return call(module, *args, **kwargs)

    def stored_codes(self, module: nn.Module) -> Mapping[str, tuple[Tensor, int]]:
        """For a permanent link: the parameters that are stored otherwise, by name, with their width in bits."""
        return {}


class Links:
    """The links that one owner has put around forwards: added, looked through and removed together."""

    def __init__(self) -> None:
        self._entries: list[tuple[nn.Module, Link]] = []

    def __iter__(self) -> Iterator[Link]:
        return iter([link for _, link in self._entries])

    def add(self, module: nn.Module, link: Link) -> None:
        """Put a link around the module's forward. Raises TargetError as `add_link` does."""
        add_link(module, link)
        self._entries.append((module, link))

    def remove(self, only: Callable[[Link], bool] | None = None) -> None:
        """Take links off: all, the permanent ones too, or those that ``only`` picks."""
        gone = [entry for entry in self._entries if only is None or only(entry[1])]
        for module, link in gone:
            remove_links(module, [link])
        self._entries = [entry for entry in self._entries if entry not in gone]

    @contextmanager
    def during(self, links: Iterable[tuple[nn.Module, Link]]) -> Iterator[None]:
        """Links around the forwards of modules inside of the block, and no longer."""
        added: list[Link] = []
        try:
            for module, link in links:
                self.add(module, link)
                added.append(link)
            yield
        finally:
            self.remove(lambda link: any(link is one for one in added))


def links_of(module: nn.Module) -> tuple[Link, ...]:
    """The links around the module's forward, outermost first."""
    ours = _ours(module)
    links: tuple[Link, ...] = () if ours is None else ours._paredown_links
    return links


def base_class(module: nn.Module) -> type[nn.Module]:
    """The class of the module as its author knows it, also where somebody swapped a class over ours."""
    ours = _ours(module)
    base: type[nn.Module] = type(module) if ours is None else ours._paredown_base
    return base


def add_link(module: nn.Module, link: Link) -> None:
    """Put a link around the module's forward, inside of those that are not permanent if it is.

    Raises:
        TargetError: the module cannot be managed (a ScriptModule).
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise TargetError(f"a {type(module).__name__} is compiled by TorchScript: its forward cannot be managed")
    outer = [known for known in links_of(module) if not known.permanent]
    inner = [known for known in links_of(module) if known.permanent]
    _set_links(module, (*outer, *inner, link) if link.permanent else (link, *outer, *inner))


def remove_links(module: nn.Module, links: Iterable[Link]) -> None:
    """Take links off a module; the ones that are not there are passed over."""
    gone = {id(link) for link in links}
    kept = tuple(link for link in links_of(module) if id(link) not in gone)
    if len(kept) < len(links_of(module)):
        _set_links(module, kept)


@contextmanager
def without_links(model: nn.Module, only: Iterable[Link] | None = None) -> Iterator[None]:
    """All links of all modules taken off, or only some; the same come back afterwards, in the same order."""
    gone = None if only is None else {id(link) for link in only}
    held = {module: links_of(module) for module in model.modules() if links_of(module)}
    try:
        for module, links in held.items():
            _set_links(module, () if gone is None else tuple(link for link in links if id(link) not in gone))
        yield
    finally:
        for module, links in held.items():
            _set_links(module, links)


def rebuild(base: type[nn.Module], links: tuple[Link, ...]) -> nn.Module:
    """A module without contents, of a class with permanent links: what a pickle of a quantized layer calls."""
    module: nn.Module = object.__new__(_managed_class(base, links, None))
    return module


def _ours(module: nn.Module) -> Any:
    """The class that this module made, of the module or beneath a class that somebody swapped over it; or None."""
    own: Any = type(module)
    return next((cls for cls in own.__mro__ if "_paredown_links" in vars(cls)), None)


def _set_links(module: nn.Module, links: tuple[Link, ...]) -> None:
    ours = _ours(module)
    if ours is not None and type(module) is not ours:  # somebody swapped a class over ours: change ours beneath it
        replacement: Any = _managed_class(ours._paredown_base, links, None)
        ours.forward = replacement.forward if links else ours._paredown_base.forward
        ours.__reduce_ex__ = replacement.__reduce_ex__
        ours._paredown_links = links
        return
    base = base_class(module)
    own_forward = _take_own_forward(module, ours)
    if links:
        module.__class__ = _managed_class(base, links, own_forward)
        return
    module.__class__ = base
    if own_forward is not None:
        module.__dict__["forward"] = own_forward


def _take_own_forward(module: nn.Module, ours: Any) -> Call | None:
    """A forward that somebody set on the instance would hide the managed one: it becomes the chain's inner end."""
    own: Call | None = module.__dict__.pop("forward", None)
    return own if own is not None or ours is None else ours._paredown_own_forward


def _managed_class(base: type[nn.Module], links: tuple[Link, ...], own_forward: Call | None) -> type[nn.Module]:
    chain: Call = base.forward if own_forward is None else _without_self(own_forward)
    for link in reversed(links):
        chain = _linked(link, chain)

    @functools.wraps(base.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return chain(self, *args, **kwargs)

    members = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduce_ex,
        "forward": forward,
        "_paredown_base": base,
        "_paredown_links": links,
        "_paredown_own_forward": staticmethod(own_forward) if own_forward else None,
    }
    return types.new_class(base.__name__, (base,), exec_body=lambda namespace: namespace.update(members))


def _linked(link: Link, inner: Call) -> Call:
    def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        return link.around(inner, module, *args, **kwargs)

    return call


def _without_self(own_forward: Call) -> Call:
    def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        return own_forward(*args, **kwargs)

    return call


def _reduce_ex(self: nn.Module, protocol: Any) -> Any:
    """Copy and pickle as the plain class, or, where permanent links are there, through `rebuild`."""
    ours: Any = _ours(self)
    reduced = super(ours, self).__reduce_ex__(protocol)
    if not isinstance(reduced, tuple) or not any(part is ours for part in reduced[1]):
        return reduced
    permanent = tuple(link for link in ours._paredown_links if link.permanent)
    if permanent:
        return (rebuild, (ours._paredown_base, permanent), *reduced[2:])
    state = reduced[2] if len(reduced) > 2 else None
    if ours._paredown_own_forward is not None and isinstance(state, dict):
        state = {**state, "forward": ours._paredown_own_forward}
    return (copyreg._reconstructor, (ours._paredown_base, object, None), state)  # type: ignore[attr-defined]
