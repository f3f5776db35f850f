"""Programs of torch.export, which need nothing but torch."""

import pytest
import torch
from sample_models import mlp

import paredown
from paredown import ExportError


def test_the_file_holds_no_example_inputs(tmp_path):
    """They may be a view of a whole training set."""
    everything = torch.randn(20_000, 16)
    paredown.export(mlp(), (everything[:4],), tmp_path / "m.pt2", engine="torch", repetitions=0)
    assert (tmp_path / "m.pt2").stat().st_size < 200_000


def test_any_batch_and_a_callable(tmp_path):
    model, x = mlp(), torch.randn(4, 16)
    made = paredown.export(
        model, {"x": x}, tmp_path / "m.pt2", engine="torch", forward=lambda m, given: m(given["x"]), repetitions=0
    )
    assert made.remarks == (
        "PyTorch's eager mode computes in floating point: compressed weights make no file faster there",
    )
    (got,) = torch.export.load(tmp_path / "m.pt2").module()(inputs={"x": torch.randn(7, 16)})
    assert got.shape[0] == 7


def test_what_may_be_dynamic_is_the_batch(tmp_path):
    with pytest.raises(ExportError, match="the batch alone, not 'time'"):
        paredown.export(mlp(), (torch.randn(4, 16),), tmp_path / "m.pt2", engine="torch", dynamic=("time",))
