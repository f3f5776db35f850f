"""A cache of a teacher's outputs, for inputs that come again."""

from __future__ import annotations

import hashlib
import pickle
import sqlite3
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, Strict
from torch import Tensor
from torch.utils._pytree import tree_flatten

from paredown.framework.auxiliary.losses import Pass
from paredown.framework.modifier.fields import Options
from paredown.modifiers.distillation.signals.outputs import TeacherOutput, logits_of
from paredown.modifiers.distillation.signals.top_classes import compressed, spread_out

__all__ = ["Memory", "Remembering", "remembered"]

Top = Annotated[int, Strict(), Field(ge=1)]


class Remembering(Options):
    """``{disk: 64}`` or ``{memory: 64}``: only the most probable classes of each row, and the rest in one."""

    disk: Top | None = None
    """Classes of a row that are kept in a temporary file."""
    memory: Top | None = None
    """Classes of a row that are kept in memory."""


def remembered(teacher_output: TeacherOutput, cache: str | Remembering, temperature: float) -> TeacherOutput:
    """A teacher's outputs, computed once for a sample; samples are known by their contents, so that the loader's
    order is
    free, and what was augmented differently is asked again.

    Args:
        teacher_output: runs the teacher.
        cache: ``none``, ``memory``, ``disk``, or either with the number of classes that are kept.
        temperature: at which the share of the classes that are not kept is right.
    """
    if cache == "none":
        return teacher_output
    top = (cache.disk or cache.memory) if isinstance(cache, Remembering) else None
    on_disk = cache == "disk" or (isinstance(cache, Remembering) and cache.disk is not None)
    memory = Memory(on_disk)

    def asked(forward: Pass) -> Any:
        if torch.compiler.is_compiling():
            return teacher_output(forward)
        samples = _fingerprints(forward)
        known = memory.recall(samples)
        if known is None:
            logits = logits_of(teacher_output(forward))
            memory.keep(samples, _packed(logits, top, temperature))
            known = memory.recall(samples)
        assert known is not None
        own = logits_of(forward.output)
        kept = [tensor.to(own.device) for tensor in known]
        return kept[0] if len(kept) == 1 else spread_out(kept[0], kept[1], kept[2], own.shape[-1])

    return asked


class Memory:
    """Tensors by key, in a private database in memory or in a temporary file; gone with the object."""

    def __init__(self, on_disk: bool) -> None:
        self._rows = sqlite3.connect("" if on_disk else ":memory:", check_same_thread=False)
        self._rows.execute("create table outputs (key blob primary key, row blob) without rowid")

    def keep(self, keys: Sequence[bytes], tensors: Sequence[Tensor]) -> None:
        """Keep the rows of tensors (rows, ...), one for each key."""
        on_cpu = [tensor.detach().cpu().contiguous() for tensor in tensors]
        rows = [(key, pickle.dumps([_plain(tensor[place]) for tensor in on_cpu])) for place, key in enumerate(keys)]
        self._rows.executemany("insert or replace into outputs values (?, ?)", rows)

    def recall(self, keys: Sequence[bytes]) -> list[Tensor] | None:
        """The tensors with the rows of these keys, on the CPU; None where one is missing."""
        ask = "select row from outputs where key = ?"
        found = [self._rows.execute(ask, (key,)).fetchone() for key in keys]
        if any(row is None for row in found):
            return None
        rows = [[_tensor(*plain) for plain in pickle.loads(row[0])] for row in found]
        return [torch.stack(column) for column in zip(*rows, strict=True)]


def _plain(row: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return row.dtype, tuple(row.shape), row.reshape(-1).view(torch.uint8).numpy().tobytes()


def _tensor(dtype: torch.dtype, shape: tuple[int, ...], contents: bytes) -> Tensor:
    return torch.frombuffer(bytearray(contents), dtype=dtype).reshape(shape)


def _packed(logits: Tensor, top: int | None, temperature: float) -> Sequence[Tensor]:
    return [logits] if top is None or top >= logits.shape[-1] else compressed(logits, top, temperature)


def _fingerprints(forward: Pass) -> list[bytes]:
    """A hash of what the forward was called with, for each sample: of all tensors that have a row for each."""
    leaves = tree_flatten((forward.args, dict(forward.kwargs)))[0]
    samples = len(next(leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()))
    alike = hashlib.blake2b()
    columns: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == samples:
            columns.append(leaf.detach().cpu().contiguous().reshape(samples, -1).view(torch.uint8).numpy())
        else:
            alike.update(repr(leaf.tolist() if isinstance(leaf, Tensor) else leaf).encode())
    return [_hashed(alike.digest(), [column[place].tobytes() for column in columns]) for place in range(samples)]


def _hashed(first: bytes, parts: Sequence[bytes]) -> bytes:
    digest = hashlib.blake2b(first, digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()
