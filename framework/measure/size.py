"""The size of a model on disk, measured on a compressed file that is really written."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from paredown.framework.model.links import links_of
from paredown.framework.storage.bits import pack_bits, pack_integers
from paredown.framework.storage.sparse import not_zero

__all__ = ["Codes", "bytes_on_disk", "stored_codes", "write_compressed"]

Codes = Mapping[str, tuple[Tensor, int]]

#: the least elements of a tensor that may be stored as bits and values
LEAST = 1024
#: elements on which the two forms of a tensor are compared, and of each piece of them
SAMPLE, PIECE = 1 << 18, 1 << 14


def stored_codes(module: nn.Module) -> Codes:
    """The module's own parameters that are stored as integers, by name: the integers, and their width in bits.

    They come from permanent links around the forward, such as quantizers
    (`paredown.framework.model.links.Link.stored_codes`).
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
    element is not zero, filled up to whole bytes, and then the raw bytes of those elements in their order. Which is
    smaller is measured, of a large tensor on a quarter of a million elements of it.

    Weights of a quantizer go in as their integers, packed where these are narrower than a byte; tensors that
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
    """The raw bytes, or those of packed integers."""
    return _raw(tensor) if bits == 8 * tensor.element_size() else _raw(pack_integers(tensor, bits))


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()
