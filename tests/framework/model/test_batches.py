"""What is given as data becomes batches, or is refused with what is wanted."""

import pytest
import torch
from sample_models import mlp
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from paredown import ParedownError
from paredown.framework.model.batches import Batches, Inputs

X = torch.arange(70.0).reshape(70, 1)


def batches_of(data):
    inputs = Inputs(mlp())
    inputs.update(data, None, None)
    return list(Batches(inputs, "one").first())


@pytest.mark.parametrize("data", [X, TensorDataset(X)])
def test_samples_are_cut_into_batches(data):
    found = [batch if isinstance(batch, torch.Tensor) else batch[0] for batch in batches_of(data)]
    assert [len(batch) for batch in found] == [32, 32, 6]
    assert torch.equal(torch.cat(found), X)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([X[:4], X[4:8]])


@pytest.mark.parametrize("data", [Stream(), [X[:4], X[4:8]], DataLoader(X[:8], batch_size=4), iter([X[:4], X[4:8]])])
def test_batches_stay_what_they_are(data):
    assert [len(batch) for batch in batches_of(data)] == [4, 4]


@pytest.mark.parametrize("data", [3, "data.pt", {"x": X}, torch.tensor(3.0).item])
def test_what_gives_no_batches_is_refused(data):
    with pytest.raises(ParedownError, match="batches are wanted"):
        batches_of(data)
