"""Counts against counting by hand; bytes against the file."""

import zipfile
import zlib

import pytest
import torch
from torch import nn

from paredown.framework.measure.counts import measure_model
from paredown.framework.measure.latency import measure_latency
from paredown.framework.measure.size import bytes_on_disk, pack_integers, read_sparse, write_compressed
from paredown.framework.model.links import Link, add_link


class Int4(Link):
    permanent = True

    def stored_codes(self, module):
        return {"weight": (module.weight.detach().round().clamp(-7, 7).to(torch.int8), 4)}


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))


def test_layers_and_totals():
    model = small_net()
    with torch.no_grad():
        model[4].weight[:, ::2] = 0
    measured = measure_model(model, torch.randn(2, 3, 4, 4))
    conv, norm, linear = measured.layers
    assert [layer.name for layer in measured.layers] == ["0", "1", "4"]
    assert [layer.kind for layer in measured.layers] == ["Conv2d", "BatchNorm2d", "Linear"]
    assert (conv.parameters, conv.macs) == (8 * 27 + 8, 2 * 8 * 27 * 16)
    assert (norm.parameters, norm.nonzeros, norm.macs) == (16, 8, 0)
    assert (linear.parameters, linear.nonzeros, linear.macs) == (1290, 650, 2 * 1280)
    assert linear.sparsity == pytest.approx(640 / 1290)
    assert measured.parameters == 224 + 16 + 1290
    assert measured.macs == conv.macs + linear.macs
    assert measured.bits == measured.parameters * 32


def test_the_model_is_left_as_it_was():
    model = small_net()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_model(model, torch.randn(2, 3, 4, 4))
    bytes_on_disk(model)
    measure_latency({"a": model, "b": model}, (torch.randn(2, 3, 4, 4),), repetitions=2)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_inputs_there_are_no_macs():
    measured = measure_model(nn.Linear(4, 4))
    assert measured.macs is None
    assert measured.layers[0].name == ""
    assert measure_model(nn.Linear(4, 4), torch.randn(1, 4)).layers[0].macs == 16


def test_shared_parameters_count_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    alone = bytes_on_disk(model[:1])
    model[1].weight = model[0].weight
    assert measure_model(model).parameters == 64
    assert bytes_on_disk(model) < 1.1 * alone


def test_a_compiled_model_is_seen_through():
    model = small_net()
    assert measure_model(torch.compile(model, backend="eager")).layers == measure_model(model).layers


def test_attention_counts_in_the_total():
    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    measured = measure_model(nn.Sequential(nn.Linear(8, 8), Attention()), torch.randn(1, 1, 5, 8))
    assert measured.layers[0].macs == 5 * 64
    assert measured.macs == 5 * 64 + 2 * 5 * 5 * 8


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
    assert measure_model(model).bits == 256 * 256 * 4 + 256 * 32


def test_the_file_holds_the_tensors(tmp_path):
    model = small_net()
    write_compressed(model, tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert archive.namelist() == list(model.state_dict())
        weight = torch.frombuffer(bytearray(archive.read("4.weight")), dtype=torch.float32)
    assert torch.equal(weight.view(10, 128), model[4].weight)


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
            weight = read_sparse(archive.read("weight@sparse"), dtype, (99, 210))
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
    found = read_sparse(content, dtype, (40, 50)) if name == "kept@sparse" else None
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


@pytest.mark.parametrize("bits", range(1, 9))
def test_packed_integers_unpack(bits):
    integers = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (53,), dtype=torch.int8)
    packed = pack_integers(integers, bits)
    assert len(packed) == -(-53 * bits // 8)
    stream = sum(int(byte) << (8 * place) for place, byte in enumerate(packed))
    unpacked = [(stream >> (bits * place)) & (2**bits - 1) for place in range(53)]
    assert unpacked == [int(value) % 2**bits for value in integers]


def test_latency_orders_models_by_work():
    small, large = nn.Linear(512, 8), nn.Sequential(*[nn.Linear(512, 512) for _ in range(8)])
    found = measure_latency({"small": small, "large": large}, torch.randn(64, 512), repetitions=10)
    quick, slow = found["small"], found["large"]
    assert quick.median < slow.median
    assert slow.low <= slow.median <= slow.high
