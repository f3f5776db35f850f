"""The graph of an OpenVINO file, made smaller: of a small model it is larger than the weights."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

__all__ = ["compact"]


def compact(path: Path, names: Collection[str]) -> None:
    """Rewrite an ``.xml`` without indentation, without what OpenVINO works out when it reads it (the shapes of all
    values, the types of inputs), and with equal constants once.

    Args:
        names: of values that are to keep their name; those of the model's inputs and outputs do too.
    """
    tree = ElementTree.parse(path)
    net = tree.getroot()
    for element in net.iter():
        element.text = element.tail = None
    _share_constants(net)
    ends = {layer.get("id") for layer in net.iter("layer") if layer.get("type") == "Parameter"} | _before_results(net)
    for layer in net.iter("layer"):
        for port in layer.findall("input/port"):
            port.attrib.pop("precision", None)
        for port in layer.iter("port"):
            for child in list(port):
                port.remove(child)
            if layer.get("id") not in ends and not set(port.get("names", "").split(",")) & set(names):
                port.attrib.pop("names", None)
    for information in net.findall("rt_info"):
        net.remove(information)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _share_constants(net: Element) -> None:
    layers, edges = net.find("layers"), net.find("edges")
    assert layers is not None
    assert edges is not None
    first: dict[tuple[str, ...], str] = {}
    same: dict[str | None, str] = {}
    for layer in layers.findall("layer[@type='Const']"):
        data = layer.find("data")
        key = tuple(f"{name}={value}" for name, value in sorted((data.attrib if data is not None else {}).items()))
        kept = first.setdefault(key, str(layer.get("id")))
        if kept != layer.get("id"):
            same[layer.get("id")] = kept
            layers.remove(layer)
    for edge in edges:
        edge.set("from-layer", same.get(edge.get("from-layer"), str(edge.get("from-layer"))))


def _before_results(net: Element) -> set[str | None]:
    """The layers whose values the model returns."""
    results = {layer.get("id") for layer in net.iter("layer") if layer.get("type") == "Result"}
    return {edge.get("from-layer") for edge in net.iter("edge") if edge.get("to-layer") in results}
