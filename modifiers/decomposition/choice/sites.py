"""The layers of a model that can be decomposed, and why the others are left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from paredown.framework.errors import TargetError
from paredown.framework.model.fused_layers import Attributes, attributes_set, attributes_without_fast_path
from paredown.framework.model.links import base_class
from paredown.framework.model.optimizers import ONLY_MATRICES, takes_matrices_only, trained_by
from paredown.framework.model.read_layers import uses_of
from paredown.framework.model.surgery import refusal_to_replace
from paredown.framework.model.temporary import modules_replaced
from paredown.framework.model.weights import COMPUTED
from paredown.framework.modifier.training import Training
from paredown.modifiers.decomposition.choice.own_forwards import has_own_forward, reasons_of_own_forwards
from paredown.modifiers.decomposition.forms.base import Form, Ranks
from paredown.modifiers.decomposition.forms.geometry import KINDS, Geometry
from paredown.modifiers.decomposition.forms.projected_attention import ProjectedAttention, projected_attention

__all__ = ["FormOf", "Site", "Sites", "bias_of", "find_sites", "refuse_where_matrices_are_wanted"]

#: the form in which a layer is decomposed, or why it is not
FormOf = Callable[[Geometry], Form | str]
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class Site:
    """A layer that is decomposed: an ordinary one, or what an earlier update left in its place.

    ``attention`` names the attention whose projection it will be, where that is not one of its modules yet.
    """

    name: str
    module: nn.Module
    form: Form
    attention: str | None = None

    @property
    def tensor(self) -> Tensor:
        """Its weight, (groups, out, in, positions)."""
        if not isinstance(self.module, KINDS):
            return self.form.product(self.form.factors_of(self.module))
        weight: Any = self.module._parameters["weight"]
        return self.form.geometry.tensor_of(weight.detach())

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias that is added in the end."""
        return bias_of(self.module)

    def skeleton(self, ranks: Ranks) -> nn.Module:
        """What would take its place, with zeros for contents."""
        return self.form.skeleton(ranks, next(self.module.parameters()), self.bias)


@dataclass
class Sites:
    """Of a model: the layers, the attentions whose projections must become modules first, what is left alone, and the
    attributes that keep fast paths from reading weights of layers."""

    layers: dict[str, Site] = field(default_factory=dict)
    attentions: dict[str, ProjectedAttention] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    attributes: Attributes = field(default_factory=dict)

    @contextmanager
    def standing(self, model: nn.Module) -> Iterator[None]:
        """The model, for a while, in the form in which its layers can be replaced one by one."""
        with modules_replaced(model, self.attentions), attributes_set(model, self.attributes):
            yield

    def add_again(self, name: str, module: nn.Module, form: Form, reason: str | None) -> None:
        """Add what an earlier update left, unless there is a reason to leave it as it is."""
        if reason is None:
            self.layers[name] = Site(name, module, form)
        else:
            self.refused[name] = reason


def bias_of(module: nn.Module) -> nn.Parameter | None:
    """The bias that a layer, or the last of a chain of layers, adds."""
    last = module[-1] if isinstance(module, nn.Sequential) else module
    return last._parameters.get("bias")


def find_sites(training: Training, targets: Mapping[str, nn.Module], form_of: FormOf) -> Sites:
    """What the modules that are targeted consist of."""
    sites = Sites(attributes=attributes_without_fast_path(training.model, targets))
    with attributes_set(training.model, sites.attributes):
        own = {name: module for name, module in targets.items() if _may_be_ordinary(module)}
        unlike = reasons_of_own_forwards(training, own)
        for name, module in targets.items():
            above = name.rpartition(".")[0]
            if above in targets and isinstance(targets[above], nn.MultiheadAttention):
                continue
            reason = _reason_to_refuse(training, name, module) or unlike.get(name)
            if reason is not None:
                sites.refused[name] = reason
            elif isinstance(module, nn.MultiheadAttention):
                _add_attention(sites, name, module, form_of)
            else:
                _add(sites, name, module, form_of)
    return sites


def refuse_where_matrices_are_wanted(training: Training, sites: Sites) -> None:
    """Raise TargetError, naming the layer, where an optimizer that takes matrices only would get other factors."""
    strict = [one for one in training.optimizers if takes_matrices_only(one)]
    theirs = trained_by(strict)
    for name, site in sites.layers.items():
        factors = site.skeleton(site.form.clamped(1)).named_parameters()
        if id(site.module._parameters.get("weight")) in theirs and any(
            factor.dim() != 2 for key, factor in factors if not key.endswith("bias")
        ):
            raise TargetError(
                f"{training.label}: {name} would consist of tensors that are no matrices. {ONLY_MATRICES}"
            )


def _add(sites: Sites, name: str, module: nn.Module, form_of: FormOf, attention: str | None = None) -> None:
    form = form_of(Geometry.of(module))
    if isinstance(form, str):
        sites.refused[name] = form
    elif not bool(module.weight.any()):  # type: ignore[operator]
        sites.refused[name] = "all its weights are zero"
    else:
        sites.layers[name] = Site(name, module, form, attention)


def _add_attention(sites: Sites, name: str, module: nn.MultiheadAttention, form_of: FormOf) -> None:
    explicit = projected_attention(module)
    for key in PROJECTIONS:
        _add(sites, f"{name}.{key}", explicit._modules[key], form_of, attention=name)  # type: ignore[arg-type]
    if any(site.attention == name for site in sites.layers.values()):
        sites.attentions[name] = explicit


def _may_be_ordinary(module: nn.Module) -> bool:
    """Whether a layer has a forward of its own that may be an ordinary one."""
    ordinary = not isinstance(module, nn.MultiheadAttention) and module._parameters.get("weight") is not None
    return ordinary and has_own_forward(module, KINDS)


def _reason_to_refuse(training: Training, name: str, module: Any) -> str | None:
    if isinstance(module, nn.MultiheadAttention):
        own_forward = has_own_forward(module, (nn.MultiheadAttention,))
        names = ["in_proj_weight"] if module._qkv_same_embed_dim else [f"{key}_weight" for key in PROJECTIONS[:3]]
        computed = any(module._parameters.get(name) is None for name in names)
    else:
        own_forward = False
        computed = module._parameters.get("weight") is None
    if computed:
        return COMPUTED
    if own_forward:
        return f"its class {base_class(module).__name__} has a forward of its own, which two layers would not compute"
    if any(parameter.is_complex() for parameter in module.parameters()):
        return "weights of complex numbers"
    if getattr(module, "max_norm", None) is not None:
        return "an embedding with max_norm changes its rows as it reads them"
    if getattr(module, "groups", 1) > 1 and module.groups == module.in_channels:
        return "a depthwise convolution has no rank to take away"
    return refusal_to_replace(training.model, name, training.states) or _reason_to_doubt(training, name)


def _reason_to_doubt(training: Training, name: str) -> str | None:
    """Why the model may not run with other layers in its place, where there is nothing to try it on."""
    if training.data.has_example:
        return None
    read = {use.path[0] for use in uses_of(training.model, name) if use.path}
    missing = sorted(key for key in read if not hasattr(nn.Sequential(), key))
    if not missing:
        return None
    return f"its parent reads its {missing[0]}; with example_inputs it is tried whether the model runs without"
