"""Export to a Hugging Face folder that `transformers` loads back through the package compressed-tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from paredown.framework.engine.comparison import Agreement, Agreements
from paredown.framework.engine.exporting import Exported
from paredown.framework.engine.plain import eval_copy, outputs_of, plain_copy
from paredown.framework.engine.samples import samples_of
from paredown.framework.errors import ExportError
from paredown.framework.model.forward import Forward
from paredown.framework.model.links import base_class, links_of, without_links
from paredown.framework.model.targets import unwrap
from paredown.integrations.export.calling import reason_of, require, silent
from paredown.integrations.export.compressed_layers import Quantized, compressed_tensors_of, scheme_of
from paredown.integrations.export.folder_structure import refuse_fused_experts, refuse_other_layers
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, WeightQuantizer

__all__ = ["export"]


def export(
    model: nn.Module,
    folder: str | Path,
    tokenizer: Any = None,
    *,
    example_inputs: Any = None,
    forward: Forward | None = None,
    tolerance: float | None = None,
) -> Exported:
    """Write a `transformers` model with its quantized weights, load the folder again and compare.

    ``AutoModel...from_pretrained(folder)`` reads it where compressed-tensors is installed, without paredown, and so do
    engines such as vLLM. Linear layers and embeddings with symmetric weights: int8 and fp8 for each channel or the
    tensor as ``int-quantized`` and ``float-quantized``; 4 bits and groups as ``pack-quantized`` (of an embedding a byte
    each: packed ones fail to load). Inputs that are quantized, fixed or dynamically, are written down in the
    configuration. A tied weight that is quantized is untied in the folder. The model stays as it is.

    Args:
        model: a ``PreTrainedModel``.
        folder: is made if it is not there.
        tokenizer: is saved along.
        example_inputs: to compare on: a tensor, a tuple or a dict. Default: the model's own ``dummy_inputs``.
        forward: called as ``forward(model, example_inputs)`` where the above does not fit.
        tolerance: the largest absolute difference of an output that is accepted. Default: see `paredown.export`.

    Raises:
        ExportError: a package is missing, a layer has no form there, or the configuration cannot describe it (the
            message names it, and nothing is written); or the outputs differ by more than the tolerance (the folder
            stays, for a look into it).
    """
    require("compressed_tensors", "huggingface")
    model, folder = unwrap(model), Path(folder)
    if not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        raise ExportError(f"a {type(model).__name__} is no model of transformers: it has no configuration to save")
    layers = dict(_quantized_layers(model))
    refuse_other_layers(model)
    if layers:
        refuse_fused_experts(model)
    _write(model, layers, folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    inputs = example_inputs if example_inputs is not None else dict(getattr(model, "dummy_inputs", {}))
    agreement = _compared(model, folder, inputs, forward, tolerance)
    size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    return Exported(folder, agreement, size, reference_bytes=_dense_bytes(model))


def _quantized_layers(model: nn.Module) -> Iterator[tuple[str, Quantized]]:
    for name, module in model.named_modules():
        links = [link for link in links_of(module) if isinstance(link, (WeightQuantizer, ActivationQuantizer))]
        if links:
            try:
                yield name, scheme_of(module, links)
            except ExportError as error:
                raise ExportError(f"{name} ({base_class(module).__name__}) cannot be exported: {error}") from None


def _write(model: Any, layers: Mapping[str, Quantized], folder: Path) -> None:
    tensors = dict(_tensors(model, layers))
    folder.mkdir(parents=True, exist_ok=True)
    with without_links(model), silent("transformers"):
        try:
            model.save_pretrained(folder, state_dict=tensors)
        except Exception as error:  # transformers lets many kinds through
            raise ExportError(f"{folder}: transformers cannot save the model: {reason_of(error)}") from error
    _write_configuration(model, layers, folder / "config.json")


def _tensors(model: nn.Module, layers: Mapping[str, Quantized]) -> Iterator[tuple[str, Tensor]]:
    """The state, with codes in the places of quantized weights and without the quantizers' own numbers."""
    own = {f"{name}.{part}" for name, layer in layers.items() for part in layer.buffers}
    own |= {f"{name}.weight" for name in layers}
    tied = _names_of_one(model)
    seen: set[int] = set()
    for key, tensor in model.state_dict(keep_vars=True).items():
        if key not in own and id(tensor) not in seen:
            yield key, tensor.detach()
            seen |= {id(tensor)} & tied
    for name, layer in layers.items():
        for part, tensor in compressed_tensors_of(model.get_submodule(name), layer).items():
            yield f"{name}.{part}", tensor.contiguous()


def _names_of_one(model: nn.Module) -> set[int]:
    """The parameters that have several names."""
    seen: list[int] = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    return {identity for identity in seen if seen.count(identity) > 1}


def _write_configuration(model: Any, layers: Mapping[str, Quantized], path: Path) -> None:
    configuration = json.loads(path.read_text(encoding="utf-8"))
    if layers:
        configuration["quantization_config"] = _quantization(model, layers)
    shared = _names_of_one(model)
    if any(id(model.get_submodule(name)._parameters["weight"]) in shared for name in layers):
        configuration["tie_word_embeddings"] = False
    path.write_text(json.dumps(configuration, indent=2) + "\n", encoding="utf-8")


def _quantization(model: nn.Module, layers: Mapping[str, Quantized]) -> dict[str, Any]:
    """What compressed-tensors reads: groups of layers with one scheme, and the layers that are left out."""
    groups: dict[str, list[str]] = {}
    for name, layer in layers.items():
        groups.setdefault(json.dumps(layer.scheme, sort_keys=True), []).append(name)
    described = [{"targets": names, **json.loads(scheme)} for scheme, names in groups.items()]
    written = {f"group_{index}": group for index, group in enumerate(described)}
    formats = {group["format"] for group in written.values()}
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": written,
        "ignore": [name for name in linear if name not in layers],
    }


def _compared(model: Any, folder: Path, inputs: Any, forward: Forward | None, tolerance: float | None) -> Agreement:
    models, agreements = (plain_copy(model), eval_copy(model)), Agreements()
    with silent("transformers"):
        try:
            loaded = base_class(model).from_pretrained(folder).eval()  # type: ignore[attr-defined]
            for batch in samples_of(inputs, None, forward):
                want, near = (outputs_of(each, batch, forward) for each in models)
                agreements.add(want, near, outputs_of(loaded, batch, forward), str(folder))
        except ExportError:
            raise
        except Exception as error:  # transformers lets many kinds through
            raise ExportError(f"{folder}: transformers cannot load it: {reason_of(error)}") from error
    worst = max(agreements.found(), key=lambda each: each.engine / max(each.magnitude, 1e-30))
    fault = worst.fault(tolerance)
    if fault is not None:
        raise ExportError(f"{folder}: {fault}")
    return worst


def _dense_bytes(model: nn.Module) -> int:
    """Bytes of the parameters as they are."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
