"""Rebuilding DistributedDataParallel's reducer after parameters have changed."""

from __future__ import annotations

import gc
from typing import Any

import torch.distributed as dist
from torch import nn

__all__ = ["data_parallel_around", "rebuild_reducer", "refusal_to_rebuild"]


def data_parallel_around(model: nn.Module) -> nn.Module | None:
    """The DistributedDataParallel in which a model, or what it is a part of, is wrapped; None without one.

    A trainer shows its wrapper to no callback, so it is looked for among all objects: that takes some tens of
    milliseconds, and nothing outside of a process group.
    """
    if not dist.is_available() or not dist.is_initialized():
        return None
    kind = nn.parallel.DistributedDataParallel
    wrappers = (one for one in gc.get_objects() if issubclass(type(one), kind) and "module" in one._modules)
    return next((one for one in wrappers if any(part is model for part in one.module.modules())), None)


def refusal_to_rebuild(wrapper: Any) -> str | None:
    """Why a wrapper's reducer cannot be rebuilt, or None."""
    if wrapper.process_group is not dist.distributed_c10d._get_default_group():
        return "it has a process group of its own"
    if wrapper.mixed_precision is not None:
        return "it keeps the parameters in mixed precision"
    return None


def rebuild_reducer(wrapper: Any) -> None:
    """Let a wrapper count its parameters again, as it does when it is loaded from a pickle; after a backward, in all
    processes alike. Its communication hooks stay."""
    state = wrapper.__getstate__()
    del wrapper.reducer, wrapper.logger  # with it go its hooks on the gradients
    named = wrapper.module.named_parameters()
    state["_module_parameters"] = [one for name, one in named if name not in wrapper.parameters_to_ignore]
    state["_has_rebuilt_buckets"] = state["_static_graph_delay_allreduce_enqueued"] = (
        False  # a static graph is learned from the next backward
    )
    wrapper.__setstate__(state)
    distributed: Any = dist
    for hook, given in wrapper._comm_hooks:
        distributed._register_comm_hook(wrapper.reducer, given, hook)
