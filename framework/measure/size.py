"""Bytes on disk: those of a file that is written and compressed."""

from __future__ import annotations

import math
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from paredown.framework.model.links import links_of
from paredown.framework.storage.sparse import not_zero
from paredown.framework.storage.state import pack_bits, unpack_bits

__all__ = ["Codes", "bytes_on_disk", "pack_integers", "read_sparse", "stored_codes", "write_compressed"]

Codes = Mapping[str, tuple[Tensor, int]]

#: elements from which on a tensor may be stored as bits and values
LEAST = 1024
#: elements on which the two forms of a tensor are compared, and of each piece of them
SAMPLE, PIECE = 1 << 18, 1 << 14


def stored_codes(module: nn.Module) -> Codes:
    """The module's own parameters that are stored as integers, by name: the integers, and their width in bits.

    A permanent link around the forward (a quantizer) says so through
    `paredown.framework.model.links.Link.stored_codes`.
    """
    return {
        name: code for link in links_of(module) if link.permanent for name, code in link.stored_codes(module).items()
    }


def bytes_on_disk(model: nn.Module) -> int:
    """The size of the file that `write_compressed` writes, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.zip"
        write_compressed(model, path)
        return path.stat().st_size


def write_compressed(model: nn.Module, path: str | Path) -> None:
    """Write a model's state as a zip archive with DEFLATE, one member a tensor.

    A member ``name`` holds the tensor's raw little-endian bytes. A tensor with zeros, of 1024 elements or more, is
    stored as a member ``name@sparse`` where that is smaller: a bit an element, lowest first, that is set where the
    element is not zero, filled up to whole bytes, and then the raw bytes of those elements in their order
    (`read_sparse`). Which is smaller is measured, of a large tensor on a quarter of a million elements of it.

    Weights that a quantizer holds go in as their integers, packed where these are narrower than a byte; tensors that
    share memory go in once. The archive shows what compression is worth with nothing but a common format.
    """
    codes = {
        f"{prefix}.{name}" if prefix else name: stored
        for prefix, module in model.named_modules()
        for name, stored in stored_codes(module).items()
    }
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in model.state_dict().items():
            if not isinstance(value, Tensor):
                continue
            place = (value.data_ptr(), value.shape, value.stride())
            if value.numel() and place not in seen:
                seen.add(place)
                archive.writestr(*_member(name, *codes.get(name, (value, 8 * value.element_size()))))


def read_sparse(content: bytes, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """The tensor of a member ``name@sparse`` of `write_compressed` whose elements are of whole bytes."""
    count = math.prod(shape)
    size = -(-count // 8)
    kept = unpack_bits({"bits": torch.frombuffer(bytearray(content[:size]), dtype=torch.uint8), "shape": [count]})
    flat = torch.zeros(count, dtype=dtype)
    if size < len(content):
        flat[kept] = torch.frombuffer(bytearray(content[size:]), dtype=dtype)
    return flat.view(*shape)


def pack_integers(integers: Tensor, bits: int) -> Tensor:
    """Integers of ``bits`` (1 to 8) bits side by side, lowest first: uint8 of shape (ceil(n x bits / 8),).

    Negative ones are taken in two's complement.
    """
    values = integers.flatten().to(torch.int16) & ((1 << bits) - 1)
    shifts = torch.arange(bits, dtype=torch.int16, device=values.device)
    stream = ((values[:, None] >> shifts) & 1).flatten()
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    return (stream << torch.arange(8, dtype=torch.int16, device=values.device)).sum(1).to(torch.uint8)


def _member(name: str, tensor: Tensor, bits: int) -> tuple[str, bytes]:
    if _is_smaller_sparse(tensor, bits):
        return f"{name}@sparse", _sparse(tensor, bits)
    return name, _bytes(tensor, bits)


def _is_smaller_sparse(tensor: Tensor, bits: int) -> bool:
    flat = tensor.detach().flatten()
    if len(flat) > SAMPLE:
        starts = torch.linspace(0, len(flat) - PIECE, SAMPLE // PIECE).long().tolist()
        flat = torch.cat([flat[start : start + PIECE] for start in starts])
    if len(flat) < LEAST or int(not_zero(flat).sum()) * bits + len(flat) >= len(flat) * bits:
        return False
    return len(zlib.compress(_sparse(flat, bits))) < len(zlib.compress(_bytes(flat, bits)))


def _sparse(tensor: Tensor, bits: int) -> bytes:
    kept = not_zero(tensor)
    return _raw(pack_bits(kept)["bits"]) + _bytes(tensor.detach()[kept], bits)


def _bytes(tensor: Tensor, bits: int) -> bytes:
    """As they are, or packed integers."""
    return _raw(tensor) if bits == 8 * tensor.element_size() else _raw(pack_integers(tensor, bits))


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()
