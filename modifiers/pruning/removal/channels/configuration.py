"""The settings from which a model is built (a Hugging Face config), brought in step with its sizes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.model.forward import Forward, call
from paredown.framework.model.graph.trace import tensors_of
from paredown.framework.model.links import base_class, without_links
from paredown.framework.model.temporary import evaluating
from paredown.modifiers.pruning.removal.channels.attributes import Attribute
from paredown.modifiers.pruning.removal.channels.trial import difference

__all__ = ["configuration_of", "settings_for"]

#: at most so many settings are tried in all combinations
COMBINED = 5
#: parts of the names of settings that give a size, where they have a value
SIZED = ("inner", "intermediate", "ffn", "_dim", "dim_")

Setting = tuple[str, int]


def configuration_of(model: nn.Module) -> Any:
    """The config of a model that ``save_pretrained`` writes and ``from_pretrained`` builds from; None without one."""
    config = getattr(model, "config", None)
    known = hasattr(model, "save_pretrained") and hasattr(config, "to_dict")
    return config if known else None


def settings_for(
    model: nn.Module,
    sizes: Mapping[int, Iterable[int]],
    inputs: Any,
    forward: Forward | None,
    lists: Iterable[tuple[str, list[Any]]] = (),
) -> tuple[list[Attribute], str | None]:
    """The settings from which a model of the present shapes is built, and, if there are none, a remark.

    A model is built (without memory) from the changed settings, given the present tensors, and has to compute the
    same.

    Args:
        model: with the cut in place.
        sizes: which size became which.
        inputs, forward: what it is called with.
        lists: settings that are changed in any case, by dotted key (``config.layer_types``).

    Returns:
        Attributes of the model with dotted keys (``config.intermediate_size``), and a sentence or None.
    """
    config = configuration_of(model)
    if config is None:
        return [], None
    builds = _Builds(model, _changed(config, lists))
    misfits = builds.misfits(())
    if not misfits:
        return [], None
    options = list(_options(config, sizes))
    with without_links(model), evaluating(model):
        wanted = tensors_of(call(model, inputs, forward))
        for said in ((), _implied(config)):
            for chosen in builds.fitting(options, said):
                if builds.same(chosen, inputs, forward, wanted):
                    return [Attribute("", f"config.{key}", value) for key, value in chosen], None
    name = misfits[0]
    return [], (
        f"its config has no settings that say the new shapes (such as {name}'s): what save_pretrained writes is not "
        "loaded by from_pretrained then, but by paredown.load"
    )


def _changed(config: Any, lists: Iterable[tuple[str, list[Any]]]) -> Any:
    changed = copy.deepcopy(config)
    for key, value in lists:
        setattr(changed, key.removeprefix("config."), value)
    return changed


def _implied(config: Any) -> tuple[Setting, ...]:
    """The width of a head where a config leaves it to be computed from other sizes."""
    width, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    if getattr(config, "head_dim", None) is None and isinstance(width, int) and isinstance(heads, int):
        return (("head_dim", width // heads),)
    return ()


class _Builds:
    """Models built from changed settings, on the meta device."""

    def __init__(self, model: nn.Module, config: Any) -> None:
        self.model, self.config = model, config
        self.shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}

    def build(self, chosen: Iterable[Setting]) -> nn.Module | None:
        config = copy.deepcopy(self.config)
        try:
            for key, value in chosen:
                holder = config
                *path, last = key.split(".")
                for part in path:
                    holder = getattr(holder, part)
                setattr(holder, last, value)
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                return base_class(self.model)(config)
        except Exception:  # settings that contradict each other
            return None

    def misfits(self, chosen: Iterable[Setting]) -> list[str]:
        """The names of tensors whose shapes would be others."""
        built = self.build(chosen)
        theirs = {} if built is None else {name: tensor.shape for name, tensor in built.state_dict().items()}
        return [name for name in {**self.shapes, **theirs} if theirs.get(name) != self.shapes.get(name)]

    def fitting(self, options: list[Setting], said: tuple[Setting, ...]) -> Iterator[tuple[Setting, ...]]:
        """Choices of settings, beside those ``said``, that give the right shapes: step by step, then, if few, all
        combinations."""
        chosen = said
        left = len(self.misfits(chosen))
        while left:
            counts = {each: len(self.misfits((*chosen, each))) for each in options if each not in chosen}
            best = min(counts, key=counts.__getitem__, default=None)
            if best is None or counts[best] >= left:
                break
            chosen, left = (*chosen, best), counts[best]
        if not left:
            yield chosen
        if len(options) <= COMBINED:
            for count in range(1, len(options) + 1):
                for each in itertools.combinations(options, count):
                    if {*said, *each} != set(chosen) and not self.misfits((*said, *each)):
                        yield (*said, *each)

    def same(self, chosen: Iterable[Setting], inputs: Any, forward: Forward | None, wanted: Iterable[Tensor]) -> bool:
        """Whether the model that is built computes the same with the present tensors."""
        built = self.build(chosen)
        assert built is not None
        built.load_state_dict(self.model.state_dict(), assign=True)
        own = dict(self.model.named_buffers())
        for name, buffer in list(built.named_buffers()):
            if buffer.is_meta and name in own and own[name].shape == buffer.shape:
                holder, _, key = name.rpartition(".")
                setattr(built.get_submodule(holder), key, own[name])
        try:
            with evaluating(built):
                return difference(tensors_of(call(built, inputs, forward)), wanted) is None
        except Exception:  # a buffer that is still without memory, a size that does not fit
            return False


def _options(config: Any, sizes: Mapping[int, Iterable[int]], prefix: str = "") -> Iterator[Setting]:
    """Settings that have a size that changes, or no value yet, with the sizes that they may get."""
    for key, value in vars(config).items():
        if key.startswith("_") or isinstance(value, bool):
            continue
        if isinstance(value, int):
            yield from ((prefix + key, after) for after in sizes.get(value, ()) if after != value)
        elif value is None and any(part in key for part in SIZED):
            yield from ((prefix + key, after) for after in sorted({size for each in sizes.values() for size in each}))
        elif hasattr(value, "to_dict"):
            yield from _options(value, sizes, f"{prefix}{key}.")
