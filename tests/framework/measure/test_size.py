"""Sizes against the file that is written."""

import math
import zipfile
import zlib

import pytest
import torch
from torch import nn

from paredown.framework.measure.counts import measure_model
from paredown.framework.measure.size import bytes_on_disk, write_compressed
from paredown.framework.model.links import Link, add_link
from paredown.framework.storage.bits import unpack_bits


class Int4(Link):
    permanent = True

    def stored_codes(self, module):
        return {"weight": (module.weight.detach().round().clamp(-7, 7).to(torch.int8), 4)}


def unpacked(content, dtype, shape):
    """The tensor of a member ``name@sparse``, read as `write_compressed` describes it."""
    count = math.prod(shape)
    size = -(-count // 8)
    kept = unpack_bits({"bits": torch.frombuffer(bytearray(content[:size]), dtype=torch.uint8), "shape": [count]})
    flat = torch.zeros(count, dtype=dtype)
    if size < len(content):
        flat[kept] = torch.frombuffer(bytearray(content[size:]), dtype=dtype)
    return flat.view(*shape)


def test_zeros_and_codes_shrink_the_file():
    model = nn.Linear(256, 256)
    dense = bytes_on_disk(model)
    assert dense > 0.85 * 256 * 257 * 4
    with torch.no_grad():
        model.weight[torch.rand(256, 256) < 0.9] = 0
    sparse = bytes_on_disk(model)
    assert sparse < 0.25 * dense
    add_link(model, Int4())
    assert bytes_on_disk(model) < 0.5 * sparse
    assert measure_model(model).layers[0].bits == 256 * 256 * 4 + 256 * 32


def test_the_file_holds_the_tensors(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 10))
    write_compressed(model, tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert archive.namelist() == list(model.state_dict())
        weight = torch.frombuffer(bytearray(archive.read("3.weight")), dtype=torch.float32)
    assert torch.equal(weight.view(10, 128), model[3].weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_zeros_are_stored_as_bits_where_that_is_smaller(dtype, share, tmp_path):
    model = nn.Linear(210, 99).to(dtype)
    with torch.no_grad():
        model.weight[torch.rand(99, 210) < share] = 0
        model.bias[::2] = -0.0
    write_compressed(model, tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert "bias" in archive.namelist()
        if share < 1:
            weight = unpacked(archive.read("weight@sparse"), dtype, (99, 210))
            assert torch.equal(weight, model.weight)
            dense = len(zlib.compress(model.weight.detach().view(torch.uint8).numpy().tobytes()))
            assert archive.getinfo("weight@sparse").compress_size < (0.95 if share < 0.9 else 0.9) * dense
        bits = torch.frombuffer(bytearray(archive.read("bias")), dtype=dtype).signbit()
    assert torch.equal(bits, model.bias.signbit())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bool, torch.complex64, torch.complex128, torch.int64])
def test_tensors_of_any_type_are_stored(dtype, tmp_path):
    model = nn.Module()
    model.register_buffer("kept", (torch.rand(40, 50) < 0.1).to(torch.float32).to(dtype))
    write_compressed(model, tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        (name,) = archive.namelist()
        content = archive.read(name)
    found = unpacked(content, dtype, (40, 50)) if name == "kept@sparse" else None
    assert dtype == torch.bool or found is not None
    if found is not None:
        assert torch.equal(found.view(torch.uint8), model.kept.view(torch.uint8))


def test_the_form_of_a_large_tensor_is_found_on_a_part_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("paredown.framework.measure.size.SAMPLE", 1024)
    monkeypatch.setattr("paredown.framework.measure.size.PIECE", 64)
    model = nn.Linear(300, 100)
    write_compressed(model, tmp_path / "model.zip")
    assert zipfile.ZipFile(tmp_path / "model.zip").namelist() == ["weight", "bias"]
    model.weight.data[torch.rand(100, 300) < 0.3] = 0
    write_compressed(model, tmp_path / "model.zip")
    assert zipfile.ZipFile(tmp_path / "model.zip").namelist() == ["weight@sparse", "bias"]


def test_zeros_among_integers(tmp_path):
    model = nn.Linear(256, 256)
    add_link(model, Int4())
    model.weight.data = torch.randint(-7, 8, (256, 256)).float()
    full = bytes_on_disk(model)
    model.weight.data[torch.rand(256, 256) < 0.7] = 0
    assert bytes_on_disk(model) < 0.75 * full
    write_compressed(model, tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        content = archive.read("weight@sparse")
    nonzeros = int((model.weight != 0).sum())
    assert len(content) == 256 * 256 // 8 + -(-nonzeros // 2)
