import pytest
import torch
from distilling import assert_gradient_is, captured, convolutionals, manager_of, perceptrons, sgd
from sample_models import mlp
from torch import nn
from torch.nn import functional as F

from paredown.modifiers.distillation.losses.relations import angle_loss, distance_loss, similarity_loss
from paredown.modifiers.distillation.signals.features import embeddings

RELATIONS = "relational_distillation"
W = 0.3
LOSSES = {
    "distance_angle": lambda s, t: distance_loss(s, t) + 2 * angle_loss(s, t),
    "distance": distance_loss,
    "angle": angle_loss,
    "similarity": similarity_loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_relations_of_the_outputs_by_every_way_to_the_loss(name):
    models = perceptrons()

    def explicit(s, x, y):
        return (1 - W) * F.cross_entropy(s(x), y) + W * LOSSES[name](s(x), models[1](x).detach())

    assert_gradient_is(manager_of(RELATIONS, loss=name, weight=W), models, explicit)


def test_relations_of_layers_whose_widths_differ():
    models = convolutionals()

    def explicit(model, x, y):
        pair = captured(model, "body", x), captured(models[1], "norm", x).detach()
        return (1 - W) * F.cross_entropy(model(x), y) + W * similarity_loss(*pair)

    manager = manager_of(RELATIONS, loss="similarity", pairs={"body": "norm"}, weight=W)
    assert_gradient_is(manager, models, explicit)


def test_sentences_are_the_means_of_their_tokens():
    class Sentences(nn.Module):
        def __init__(self, seed, width):
            super().__init__()
            torch.manual_seed(seed)
            self.embed = nn.Embedding(20, width).double()

        def forward(self, input_ids, attention_mask):
            return {"last_hidden_state": self.embed(input_ids)}

    student, teacher = Sentences(1, 4), Sentences(0, 6)
    ids, mask = torch.arange(12).view(3, 4), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    manager = manager_of(RELATIONS, loss="distance", weight=1.0)
    manager.modify(student, sgd(student), 10, teacher=teacher)
    student(input_ids=ids, attention_mask=mask)["last_hidden_state"].sum().mul(0).backward()
    means = [
        torch.stack([rows[m.bool()].mean(0) for rows, m in zip(model.embed(ids), mask, strict=True)])
        for model in (student, teacher)
    ]
    (want,) = torch.autograd.grad(distance_loss(means[0], means[1].detach()), student.embed.weight)
    assert torch.allclose(student.embed.weight.grad, want, atol=1e-12)


def test_embeddings_of_other_features_are_flattened():
    feature = torch.randn(2, 3, 4, 5)
    assert torch.equal(embeddings(feature, None), feature.reshape(2, 60))
    assert torch.equal(embeddings(feature[:, :, :, 0], None), feature[:, :, :, 0].mean(1))


def test_the_plan_tells_what_is_compared():
    assert "relations in the batch" in str(manager_of(RELATIONS).plan(mlp()))
    assert "taught by 3" in str(manager_of(RELATIONS, pairs={"1": "3"}).plan(mlp()))
