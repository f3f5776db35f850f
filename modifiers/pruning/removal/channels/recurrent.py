"""Recurrent layers, whole and step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from paredown.modifiers.pruning.removal.channels.convolutions import along, together
from paredown.modifiers.pruning.removal.channels.labels import Labels, Value, axes_of
from paredown.modifiers.pruning.removal.channels.walk import Result, Rule, Walk, meet, shape_of

__all__ = ["RULES"]


def _recurrent(walk: Walk, node: Node) -> Result:
    """Unit j is row j of every gate's matrix and column j of the recurrent one, in all layers and directions.

    They go together in all of them, since the layers of one module have one ``hidden_size``.
    """
    value, hidden, given = walk.value(node.args[0]), node.args[1], node.args[2]
    biases, layers = bool(node.args[3]), int(node.args[4])  # type: ignore[arg-type]
    two_ways = bool(node.args[7])
    weights: Any = [walk.value(each) for each in given]  # type: ignore[union-attr]
    where, labels = walk.where(node), walk.labels
    directions = 2 if two_ways else 1
    per = len(weights) // (layers * directions)
    if per != (4 if biases else 2):
        return _unknown_recurrent(walk, node, "has projections")
    size = weights[1].shape[1]
    units = along(weights[1], 1)
    if units is None:
        return _unknown_recurrent(walk, node, "has weights that are computed")
    axes = axes_of(value.factors[0]) if value.factors else frozenset()
    below = along(value, len(value.shape) - 1)
    if below is None and axes:
        labels.freeze_all([value], f"{where} reads it along several dimensions")
    for place in range(layers * directions):
        _one_layer(labels, weights[place * per : (place + 1) * per], units, below, size, where)
        if (place + 1) % directions == 0:
            below = units.repeat(directions)
    states = hidden if isinstance(hidden, (list, tuple)) else [hidden]
    for state in map(walk.value, states):
        meet(labels, [state, Value((1, 1, size), (units.reshape(1, 1, -1),))], (*state.shape[:-1], size), where)
    labels.produced.append(units)
    return _recurrent_results(node, units, directions)


def _one_layer(
    labels: Labels, weights: list[Value], units: Tensor, below: Tensor | None, size: int, where: str
) -> None:
    for weight in weights:
        rows = along(weight, 0)
        if rows is not None:
            labels.produced.append(rows)
            labels.unite(rows.reshape(-1, size), units)
    columns = along(weights[1], 1)
    if columns is not None:
        labels.unite(columns, units)
        labels.read.append(columns)
    together(labels, below, along(weights[0], 1), where)


def _recurrent_results(node: Node, units: Tensor, directions: int) -> Result:
    results = []
    for place, output in enumerate(node.meta["val"]):
        labels = units.repeat(directions) if place == 0 else units
        shape = tuple(output.shape)
        results.append(Value(shape, (labels.reshape((1,) * (len(shape) - 1) + (-1,)),)))
    return tuple(results)


def _unknown_recurrent(walk: Walk, node: Node, why: str) -> Result:
    walk.labels.freeze_all(walk.operands(node), f"{walk.where(node)} {why}")
    return tuple(Value(tuple(output.shape)) for output in node.meta["val"])


def _cell(walk: Walk, node: Node) -> Result:
    """One step of a recurrent layer: (input, state, weight_ih, weight_hh, bias_ih, bias_hh)."""
    value = walk.value(node.args[0])
    given: Any = node.args[1]
    states = [walk.value(each) for each in (given if isinstance(given, (list, tuple)) else [given])]
    weights = [weight for weight in map(walk.value, node.args[2:6]) if weight.shape]
    units, where = along(weights[1], 1), walk.where(node)
    size = weights[1].shape[1]
    if units is None:
        walk.labels.freeze_all(walk.operands(node), f"{where} has weights that are computed")
        return Value(shape_of(node))
    _one_layer(walk.labels, weights, units, along(value, len(value.shape) - 1), size, where)
    whole = Value((1, size), (units.reshape(1, -1),))
    for state in states:
        meet(walk.labels, [state, whole], (*state.shape[:-1], size), where)
    walk.labels.produced.append(units)
    outputs = node.meta["val"]
    if isinstance(outputs, torch.Tensor):
        return Value(shape_of(node), whole.factors)
    return tuple(Value(tuple(output.shape), whole.factors) for output in outputs)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _cell),
}
