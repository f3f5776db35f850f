"""A file whose constants are packed, seen to be the plain one to its engine before it takes its place."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paredown.framework.engine.contract import Engine, Session
from paredown.framework.engine.opening import Opening, opened_apart
from paredown.framework.errors import ExportError

__all__ = ["PackedFile", "pack", "require_packing"]


@dataclass(frozen=True)
class PackedFile:
    """What packing a file came to.

    Attributes:
        plain_bytes: of the file before.
        constants: how many are unpacked when the file is opened.
        remarks: what else there is to know.
        opening, plain_opening: time and memory that it takes to open both files, each in a process of its own; None:
            not measured.
    """

    plain_bytes: int
    constants: int
    remarks: tuple[str, ...] = ()
    opening: Opening | None = None
    plain_opening: Opening | None = None

    def __str__(self) -> str:
        told = f"packed: {self.plain_bytes:,} bytes before; {self.constants} constants are unpacked when it is opened"
        if self.opening is None or self.plain_opening is None:
            return told
        return f"{told}, which takes {self.opening} (plain: {self.plain_opening})"


def require_packing(engine: Engine) -> None:
    """Raise ExportError where an engine does not fold what unpacks constants."""
    from paredown.framework.engine.registry import engines

    if engine.profile.folds:
        return
    others = " and ".join(name for name, each in engines().items() if each.profile.folds)
    raise ExportError(
        f"packed=True: {engine.name} computes nothing once, when it opens a file, so that it would unpack weights in "
        f"every run; leave packed out and zip the file where it is sent or stored, or export for {others}"
    )


def pack(engine: Engine, path: Path, samples: Sequence[Any], measured: bool = True) -> PackedFile:
    """Pack the constants of a file in place; it is never larger.

    Constants whose unpacking the engine would compute in every run stay as they are, and a remark names them.

    Args:
        samples: arguments of the model on which both files must give the same bits.
        measured: whether time and memory of opening both are measured.

    Raises:
        ExportError: the engine made another graph of the packed file, or other outputs; the plain one stays.
    """
    plain, size = engine.open(path), engine.bytes(path)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / path.name
        constants, remarks = _packed(engine, path, target, plain)
        if engine.bytes(target) >= size:
            return PackedFile(size, 0, (f"nothing in {path.name} takes fewer bytes packed",))
        _compare(engine, path, plain, engine.open(target), samples)
        openings = [opened_apart(engine.opening(each)) if measured else None for each in (target, path)]
        for each in engine.files(path):
            each.unlink()
        for each in engine.files(target):
            shutil.move(each, path.parent / each.name)
    return PackedFile(size, constants, remarks, *openings)


def _packed(engine: Engine, path: Path, target: Path, plain: Session) -> tuple[int, tuple[str, ...]]:
    """Write the packed file with as many constants packed as leave the graph as it is: their number, and remarks."""
    constants = engine.pack(path, target)
    names = list(constants)
    left = _left(engine, path, target, plain, names, names)
    if left:
        engine.pack(path, target, left)
        if not _as_plain(engine.open(target), plain):
            raise ExportError(
                f"{path}: packed, {engine.name} {engine.version} makes another graph of it than of the plain file, "
                f"which stays ({'; '.join(constants[name] for name in left)}); leave packed out"
            )
    told = f"stays as it is in the file: {engine.name} {engine.version} would not unpack it once, when it opens it"
    return len(names) - len(left), tuple(f"{constants[name]} {told}" for name in left)


def _left(
    engine: Engine, path: Path, target: Path, plain: Session, names: Sequence[str], chosen: Sequence[str]
) -> list[str]:
    """Those of the chosen constants that change the engine's graph where they are packed, found by halves; the target
    is written on the way, and has all of them packed where there are none.

    Args:
        names: of all constants that can be packed.
    """
    if len(chosen) < len(names):
        engine.pack(path, target, [name for name in names if name not in chosen])
    if _as_plain(engine.open(target), plain):
        return []
    half = len(chosen) // 2
    if half == 0:
        return list(chosen)
    return [name for part in (chosen[:half], chosen[half:]) for name in _left(engine, path, target, plain, names, part)]


def _as_plain(packed: Session, plain: Session) -> bool:
    """Whether there is no operator more; fewer are as well: what is constant sooner goes sooner."""
    return not Counter(packed.operators) - Counter(plain.operators)


def _compare(engine: Engine, path: Path, plain: Session, packed: Session, samples: Sequence[Any]) -> None:
    for batch in samples:
        pairs = zip(plain.run(batch), packed.run(batch), strict=True)
        if not all(_same_bits(one, other) for one, other in pairs):
            raise ExportError(
                f"{path}: packed, {engine.name} {engine.version} gives other outputs than for the plain file, which "
                "stays; leave packed out"
            )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    first, second = (each.contiguous().reshape(-1).view(torch.uint8) for each in (one, other))
    return torch.equal(first, second)
