"""The operators that unpack a tensor, in the form that an engine folds when it opens the file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from paredown.integrations.export.calling import require
from paredown.integrations.export.packed_bits import entries_of, parts_of, to_parts
from paredown.integrations.export.packed_codes import Code, Entries, Positions, narrowest, patterns

__all__ = ["Tape", "known_positions", "write"]

Folds = Mapping[str, Collection[str]]
#: entries whose gaps are summed by one product, at most: each begins with a position of its own
LONGEST_BLOCK = 128


class Tape:
    """Operators of one tensor's unpacking, and the constants that they read.

    Args:
        shared: names of constants that the file has, by their content.
        names: for its values.
    """

    def __init__(self, shared: Mapping[Any, str], names: Iterator[str]) -> None:
        self.onnx: Any = require("onnx", "onnx")
        self.shared: dict[Any, str] = dict(shared)
        self.names = names
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of an operator's result."""
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [next(self.names)], **attributes))
        return str(self.nodes[-1].output[0])

    def constant(self, values: Any) -> str:
        """The name of a constant: one that is there, or a new one."""
        array = np.asarray(values)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.shared:
            self.shared[key] = next(self.names)
            self.constants.append(_tensor(self.onnx, array, self.shared[key]))
        return self.shared[key]

    def cast(self, name: str, kind: Any) -> str:
        """With elements of another type."""
        return self.add("Cast", name, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def flat(self, name: str) -> str:
        """In one dimension."""
        return self.add("Reshape", name, self.constant(np.array([-1])))

    def filled(self, size: int, value: Any) -> str:
        """(size,), all of one value."""
        one = self.onnx.numpy_helper.from_array(value.reshape(1))
        given = {"value": one} if value.dtype != np.float32 or value.tobytes() != bytes(4) else {}
        return self.add("ConstantOfShape", self.constant(np.array([size])), **given)

    def named(self, name: str) -> None:
        """Call the last result so."""
        self.nodes[-1].output[0] = name

    @property
    def bytes(self) -> int:
        """Of the file."""
        parts = [each.ByteSize() for each in (*self.nodes, *self.constants)]
        return sum(size + 1 + (size.bit_length() + 6) // 7 for size in parts)


def known_positions(folds: Folds) -> Collection[Positions]:
    """The kinds of positions for which there are operators."""
    scatters, sums = "ScatterElements" in folds, "CumSum" in folds
    known: dict[Positions, bool] = {
        "mask": sums or (scatters and "NonZero" in folds),
        "gaps": scatters and (sums or "MatMul" in folds),
    }
    return [kind for kind, there in known.items() if there]


def write(tape: Tape, folds: Folds, entries: Entries, code: Code, shape: tuple[int, ...]) -> None:
    """Write what makes an array of its code.

    Args:
        shape: of the array.
    """
    form = _Form(tape, folds, entries, code)
    flat = {"none": form.none, "all": form.all, "mask": form.mask, "gaps": form.gaps}[code.positions]()
    if len(shape) == 1:
        return
    last = shape[1:] + shape[:1] if code.turned else shape
    flat = tape.add("Reshape", flat, tape.constant(np.array(last)))
    if code.turned:
        tape.add("Transpose", flat, perm=[len(shape) - 1, *range(len(shape) - 1)])


class _Form:
    """The operators of one code."""

    def __init__(self, tape: Tape, folds: Folds, entries: Entries, code: Code) -> None:
        self.tape, self.folds, self.entries, self.code = tape, folds, entries, code
        self.kind = entries.flat.dtype
        scattered = folds.get("ScatterElements", ())
        self.scattered = self.kind if self.kind.name in scattered else np.dtype(np.int32)

    def none(self) -> str:
        return self.tape.filled(self.entries.flat.size, self.entries.background)

    def all(self) -> str:
        return self._cut(self._values(self.entries.flat))

    def mask(self) -> str:
        bits = self._numbers(self._is_entry(), 1)
        if "CumSum" in self.folds:
            values = self._values(np.append(self.entries.background, self.entries.values).astype(self.kind))
            places = self.tape.add("Mul", self._summed(bits), bits)
            return self._cut(self.tape.add("Gather", values, places))
        count = len(self.entries.positions)
        values = self._cut(self._values(self.entries.values), count, -count % self._unit(self.code.index))
        return self._scattered(self.tape.flat(self.tape.add("NonZero", bits)), values)

    def gaps(self) -> str:
        """What is left of the last bytes repeats the last entry."""
        steps, places = entries_of(self.entries.gaps, self.code.width)
        values = np.where(places < 0, self.entries.background, self.entries.values[places])
        block = 0 if "CumSum" in self.folds else _block(len(steps))
        unit = max(self._unit(self.code.width), self._unit(self.code.index), block)
        more = -len(steps) % unit
        steps, values = np.pad(steps, (0, more)), np.pad(values, (0, more), mode="edge")
        numbers = self._numbers(steps, self.code.width)
        positions = self._blocks(numbers, steps, block) if block else self._summed(numbers)
        return self._scattered(positions, self._values(values))

    def _summed(self, numbers: str) -> str:
        return self.tape.add("CumSum", numbers, self.tape.constant(np.array(0, np.int32)))

    def _blocks(self, numbers: str, steps: Any, block: int) -> str:
        """Running sums as a product with a triangle of ones, and what each block begins with."""
        tape = self.tape
        before = np.cumsum(np.append(0, steps.reshape(-1, block).sum(1)[:-1])).astype(np.int32)
        counted = np.arange(block, dtype=np.uint8)
        across = (tape.cast(tape.constant(each), np.float32) for each in (counted[:, None], counted))
        ones = tape.cast(tape.add("LessOrEqual", *across), np.float32)
        rows = tape.cast(tape.add("Reshape", numbers, tape.constant(np.array([-1, block]))), np.float32)
        within = tape.cast(tape.add("MatMul", rows, ones), np.int32)
        return tape.flat(tape.add("Add", within, tape.constant(before[:, None])))

    def _scattered(self, positions: str, values: str) -> str:
        tape, other = self.tape, self.scattered != self.kind
        values = tape.cast(values, self.scattered) if other else values
        empty = tape.filled(self.entries.flat.size, self.entries.background.astype(self.scattered))
        found = tape.add("ScatterElements", empty, positions, values)
        return tape.cast(found, self.kind) if other else found

    def _is_entry(self) -> Any:
        bits = np.zeros(self.entries.flat.size, np.uint8)
        bits[self.entries.positions] = 1
        return bits

    def _values(self, values: Any) -> str:
        """The values as they are, in a narrower type, or by their index into the different ones."""
        if not self.code.index:
            narrow = values.astype(narrowest(values))
            return self._widened(self.tape.constant(narrow), narrow.dtype)
        table, places = _indexed(values)
        narrow = table.astype(narrowest(table))
        found = self.tape.add("Gather", self.tape.constant(narrow), self._numbers(places, self.code.index))
        return self._widened(found, narrow.dtype)

    def _widened(self, name: str, kind: Any) -> str:
        return name if kind == self.kind else self.tape.cast(name, self.kind)

    def _numbers(self, numbers: Any, width: int) -> str:
        """int32, with zeros behind them up to a whole number of bytes."""
        numbers = np.pad(numbers, (0, -len(numbers) % self._unit(width)))
        found, low = "", 0
        for part, bits in zip(to_parts(numbers, width), parts_of(width), strict=True):
            own = self._part(part, bits)
            if low:
                own = self.tape.add("Mul", own, self.tape.constant(np.array(1 << low, np.int32)))
            found, low = self.tape.add("Add", found, own) if found else own, low + bits
        return found

    def _part(self, part: Any, bits: int) -> str:
        """int32 of bytes of which each has several numbers."""
        tape = self.tape
        if bits == 8:
            return tape.cast(tape.constant(part.reshape(-1)), np.int32)
        offsets = np.arange(0, 8, bits)
        if "BitShift" in self.folds:  # away with the higher ones, and then with the lower ones
            high = tape.add(
                "BitShift", tape.constant(part), tape.constant((8 - bits - offsets).astype(np.uint8)), direction="LEFT"
            )
            rows = tape.add("BitShift", high, tape.constant(np.array(8 - bits, np.uint8)), direction="RIGHT")
            return tape.cast(tape.flat(rows), np.int32)
        rows = tape.add("Div", tape.cast(tape.constant(part), np.int32), tape.constant((1 << offsets).astype(np.int32)))
        return tape.flat(tape.add("Mod", rows, tape.constant(np.array(1 << bits, np.int32))))

    def _cut(self, name: str, size: int | None = None, more: int | None = None) -> str:
        """Without the elements that fill the last byte."""
        size = self.entries.flat.size if size is None else size
        width = 1 if self.code.positions == "mask" else self.code.index
        if not (-size % self._unit(width) if more is None else more):
            return name
        return self.tape.add("Slice", name, self.tape.constant(np.array([0])), self.tape.constant(np.array([size])))

    @staticmethod
    def _unit(width: int) -> int:
        """How many numbers of a width fill whole bytes."""
        return 8 // min(parts_of(width), default=8)


def _block(count: int) -> int:
    """A power of two that makes the positions of blocks and what fills the last one small together."""
    return min(max(8, 1 << (count * 4).bit_length() // 2), LONGEST_BLOCK)


def _indexed(values: Any) -> tuple[Any, Any]:
    """The different values, by their bits, in the order of their numbers, and the place of each among them."""
    table, places = np.unique(patterns(values), return_inverse=True)
    return table.view(values.dtype), places


def _tensor(onnx: Any, array: Any, name: str) -> Any:
    """A constant; of sizes in a field where small numbers take a byte."""
    if array.dtype == np.int64:
        return onnx.helper.make_tensor(name, onnx.TensorProto.INT64, array.shape, array.reshape(-1))
    return onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
