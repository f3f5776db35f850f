"""Bytes on disk: really written, really compressed, really measured."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from paredown.framework.managed import links_of

__all__ = ["Codes", "bytes_on_disk", "pack_integers", "stored_codes", "write_compressed"]

Codes = Mapping[str, tuple[Tensor, int]]


def stored_codes(module: nn.Module) -> Codes:
    """The module's own parameters that are stored as integers, by name: the integers, and their width in bits.

    A permanent link around the forward (a quantizer) says so through `paredown.framework.managed.Link.stored_codes`.
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
    """Write a model's state as a zip archive with DEFLATE, one member a tensor, its raw little-endian bytes.

    Weights that a quantizer holds go in as their integers, packed where these are narrower than a byte; tensors that
    share memory go in once. The archive shows what compression is worth with nothing but a common format.
    """
    codes = {
        f"{prefix}.{name}" if prefix else name: stored
        for prefix, module in model.named_modules()
        for name, stored in stored_codes(module).items()
    }
    seen: set[tuple[int, torch.Size]] = set()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in model.state_dict().items():
            if not isinstance(value, Tensor):
                continue
            place = (value.data_ptr(), value.shape)
            if value.numel() and place not in seen:
                seen.add(place)
                archive.writestr(name, _bytes(*codes[name]) if name in codes else _raw(value))


def pack_integers(integers: Tensor, bits: int) -> Tensor:
    """Integers of ``bits`` (1 to 8) bits side by side, lowest first: uint8 of shape (ceil(n x bits / 8),).

    Negative ones are taken in two's complement.
    """
    values = integers.flatten().to(torch.int16) & ((1 << bits) - 1)
    shifts = torch.arange(bits, dtype=torch.int16, device=values.device)
    stream = ((values[:, None] >> shifts) & 1).flatten()
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    return (stream << torch.arange(8, dtype=torch.int16, device=values.device)).sum(1).to(torch.uint8)


def _bytes(integers: Tensor, bits: int) -> bytes:
    return _raw(integers) if bits == 8 * integers.element_size() else _raw(pack_integers(integers, bits))


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()
