"""The files of a seed: what is damaged is not used."""

import pytest
import torch

from paredown.framework.experiments.outcome import Outcome
from paredown.framework.experiments.resuming import SeedFiles
from paredown.framework.report import Report, Summary

OUTCOME = Outcome(
    3,
    Report("tiny", Summary(10, 10), Summary(10, 5)),
    {"f1": 0.9},
    {"f1": 0.8},
    [(1.0, {"f1": 0.7}), (2.0, {"f1": 0.8})],
)


@pytest.fixture
def files(tmp_path):
    return SeedFiles.of(3, tmp_path / "dense", tmp_path / "job")


def test_an_outcome_reads_back_and_is_cleared(files):
    assert files.load_outcome() is None
    files.save_outcome(OUTCOME)
    assert files.load_outcome() == OUTCOME
    files.clear()
    assert files.load_outcome() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"accuracies": [[1]], "report": "{}"}', "[" * 9999])
def test_a_damaged_outcome_is_none(files, text):
    files.save_outcome(OUTCOME)
    files.outcome.write_text(text)
    assert files.load_outcome() is None


def test_a_dense_model_comes_back_with_the_random_state(files):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    files.save_dense(model)
    drawn = torch.rand(2)
    other = torch.nn.Linear(3, 2)
    assert files.load_dense(other)
    assert torch.equal(torch.rand(2), drawn)
    assert torch.equal(other.weight, model.weight)
    assert not files.load_dense(torch.nn.Linear(4, 2))
    files.dense.write_bytes(b"damaged")
    assert not files.load_dense(other)
