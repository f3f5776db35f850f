import pytest
import torch

from paredown.framework.storage.bits import pack_bits, pack_integers, unpack_bits


@pytest.mark.parametrize("shape", [(), (1,), (8,), (3, 7), (2, 3, 5), (0,)])
def test_bits_survive_packing(shape):
    mask = torch.rand(shape) > 0.5
    assert torch.equal(unpack_bits(pack_bits(mask)), mask)
    assert pack_bits(mask)["bits"].numel() == (mask.numel() + 7) // 8


def test_packing_follows_the_indices_of_any_layout():
    marks = (torch.rand(4, 3, 5, 5) < 0.5).to(memory_format=torch.channels_last)
    assert torch.equal(pack_bits(marks)["bits"], pack_bits(marks.contiguous())["bits"])
    assert torch.equal(unpack_bits(pack_bits(marks)), marks)


@pytest.mark.parametrize("bits", range(1, 9))
def test_packed_integers_unpack(bits):
    integers = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (53,), dtype=torch.int8)
    packed = pack_integers(integers, bits)
    assert len(packed) == -(-53 * bits // 8)
    stream = sum(int(byte) << (8 * place) for place, byte in enumerate(packed))
    unpacked = [(stream >> (bits * place)) & (2**bits - 1) for place in range(53)]
    assert unpacked == [int(value) % 2**bits for value in integers]
