"""`gguf`: files for llama.cpp, of Llama-like models of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from paredown.framework.engine.comparison import layer_results
from paredown.framework.engine.contract import Engine, Session, Written
from paredown.framework.engine.plain import eval_copy, outputs_of
from paredown.framework.engine.profile import Profile
from paredown.framework.errors import ExportError
from paredown.framework.model.forward import Forward
from paredown.integrations.export.calling import reason_of, require, silent, widened
from paredown.integrations.export.gguf_blocks import Stored
from paredown.integrations.export.gguf_models import architecture_of, keys_of, refuse_other_models
from paredown.integrations.export.gguf_tensors import quantized_layers, tensors_of

__all__ = ["Gguf"]

READ_BACK = "the file is read back by transformers, in floating point: llama.cpp's speed is not measured"
EIGHT_BITS = "llama.cpp rounds what goes into quantized layers to 8 bits in blocks of 32, which is not simulated"
ROUNDED = (
    "scales of {count} tensors were rounded to float16, which the simulation did not do: name the engine in the "
    "recipe, run: {{engine: gguf}}, and it does"
)


class Gguf(Engine):
    """GGUF, the files of llama.cpp: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM.

    Symmetric integer weights of linear layers and embeddings are stored as ``Q4_0`` (up to 4 bits) or ``Q8_0`` (up to
    8), blocks of 32 with a float16 scale: exact, where the simulation has such scales, which it has where the recipe
    names the engine. What is not quantized is stored in its own type, vectors in float32. The file is read back by
    transformers, which unpacks it into a model that it builds from the file's keys, and computes in floating point;
    llama.cpp itself rounds what goes into a product to 8 bits in blocks of 32, which is not simulated.

    Options: ``floats``, the type of matrices that are not quantized (torch.float16, torch.bfloat16 or torch.float32).
    """

    name: ClassVar = "gguf"
    profile: ClassVar = Profile(integer={}, rounded=frozenset(), scales="float16")
    needs: ClassVar = ("gguf", "transformers")
    install: ClassVar = "pip install 'paredown[gguf]'"
    suffix: ClassVar = ".gguf"
    untimed: ClassVar = READ_BACK

    def __init__(self) -> None:
        self._forwards: dict[Path, Forward | None] = {}

    def write(
        self,
        model: nn.Module,
        example_inputs: Any,
        path: Path,
        *,
        forward: Forward | None = None,
        dynamic: Sequence[str] = ("batch",),
        floats: torch.dtype | None = None,
        **options: Any,
    ) -> Written:
        written = eval_copy(model)
        refuse_other_models(written)
        layers = quantized_layers(written)
        tensors = tensors_of(written, layers, floats)
        _write(written, {name: stored for name, (_, stored) in tensors.items()}, path)
        self._forwards[path] = forward
        count = sum(not stored.exact and stored.kind.startswith("Q") for _, stored in tensors.values())
        remarks = [*([ROUNDED.format(count=count)] if count else []), READ_BACK, *([EIGHT_BITS] if layers else [])]
        return Written(path, {name: name for name in layers}, remarks=remarks)

    def open(self, path: Path, *, threads: int = 1, results: Mapping[str, str] | None = None) -> Session:
        return GgufSession(path, self._forwards.get(path), results or {})


class GgufSession(Session):
    """A file that transformers has read, called like the model that was written."""

    def __init__(self, path: Path, forward: Forward | None, results: Mapping[str, str]) -> None:
        self.forward, self.results = forward, results
        self.model = _read(path)

    def run(self, example_inputs: Any) -> tuple[Tensor, ...]:
        return outputs_of(self.model, widened(example_inputs), self.forward)

    def run_inside(self, example_inputs: Any) -> Mapping[str, Tensor]:
        with layer_results(self.model, self.results) as found:
            self.run(example_inputs)
        return found


def _write(model: nn.Module, tensors: Mapping[str, Stored], path: Path) -> None:
    gguf = require("gguf", "gguf")
    writer = gguf.GGUFWriter(path, architecture_of(model))
    writer.add_type("model")
    for key, value in keys_of(model).items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(_file_type(gguf, tensors))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, stored in tensors.items():
        writer.add_tensor(name, stored.data.numpy(), raw_dtype=gguf.GGMLQuantizationType[stored.kind])
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _file_type(gguf: Any, tensors: Mapping[str, Stored]) -> int:
    """By the type that most of the bytes have."""
    sizes: dict[str, int] = {}
    for stored in tensors.values():
        sizes[stored.kind] = sizes.get(stored.kind, 0) + stored.data.numel()
    most = max(sizes, key=lambda kind: sizes[kind])
    return int(gguf.LlamaFileType["ALL_F32" if most == "F32" else f"MOSTLY_{most}"])


def _read(path: Path) -> nn.Module:
    transformers = require("transformers", "gguf")
    with silent("transformers"):
        try:
            kind = transformers.AutoModelForCausalLM
            model: nn.Module = kind.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        except Exception as error:  # transformers lets many kinds through
            raise ExportError(f"{path}: transformers cannot read it: {reason_of(error)}") from error
    return model.eval()
