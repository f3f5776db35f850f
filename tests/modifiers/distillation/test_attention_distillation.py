import pytest
import torch
from distilling import assert_gradient_is, captured, convolutionals, gradient, manager_of, sgd
from sample_models import conv_net
from torch import nn
from torch.nn import functional as F

from paredown import TargetError
from paredown.modifiers.distillation.losses.attention import (
    attention_distribution_loss,
    attention_squared_loss,
    attention_transfer_loss,
    relation_loss,
)

ATTENTION = "attention_distillation"
W = 0.4


@pytest.mark.parametrize("power", [1, 2])
def test_maps_of_activations_by_every_way_to_the_loss(power):
    models = convolutionals()

    def explicit(model, x, y):
        maps = captured(model, "body", x), captured(models[1], "body", x).detach()
        return (1 - W) * F.cross_entropy(model(x), y) + W * attention_transfer_loss(*maps, power)

    assert_gradient_is(manager_of(ATTENTION, pairs={"body": "body"}, power=power, weight=W), models, explicit)


class Attention(nn.Module):
    """Gives its probabilities beside its output, as those of Hugging Face do."""

    def __init__(self, width, heads, told=True):
        super().__init__()
        self.heads, self.told = heads, told
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x, mask):
        b, n, w = x.shape
        q, k, v = (each(x).view(b, n, self.heads, -1).transpose(1, 2) for each in (self.query, self.key, self.value))
        scores = q @ k.mT / (w // self.heads) ** 0.5
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -torch.inf)
        probabilities = scores.softmax(-1)
        return (probabilities @ v).transpose(1, 2).reshape(b, n, w), probabilities if self.told else None


class Model(nn.Module):
    def __init__(self, seed, width=8, heads=2, told=True):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.attention = nn.Embedding(20, width), Attention(width, heads, told)
        self.head = nn.Linear(width, 3)
        self.double()

    def forward(self, input_ids, attention_mask):
        return self.head(self.attention(self.embed(input_ids), attention_mask)[0].mean(1))


IDS = torch.arange(8).view(2, 4)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])


def of_the_manager(student, teacher, **fields):
    manager = manager_of(ATTENTION, weight=1.0, **fields)
    manager.modify(student, sgd(student), 10, teacher=teacher)
    student(input_ids=IDS, attention_mask=MASK).sum().mul(0).backward()
    return gradient(student), manager


def explicit_gradient(student, loss):
    student.zero_grad()
    loss.backward()
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in student.parameters()]
    )


@pytest.mark.parametrize("name", ["kl", "mse"])
def test_attention_probabilities(name):
    student, teacher = Model(1), Model(0, width=12)
    found, manager = of_the_manager(student, teacher, of="attention", pairs={"attention": "attention"}, loss=name)
    manager.release()
    ours, theirs = (m.attention(m.embed(IDS), MASK)[1] for m in (student, teacher))
    loss = {"kl": attention_distribution_loss, "mse": attention_squared_loss}[name]
    want = explicit_gradient(student, loss(ours, theirs.detach(), MASK.bool()))
    assert (found - want).abs().max() < 1e-12
    assert want.abs().max() > 1e-6


def test_relations_of_values_with_other_widths_and_heads():
    student, teacher = Model(1, width=8, heads=2), Model(0, width=24, heads=3)
    found, manager = of_the_manager(
        student, teacher, of="relation", heads=4, pairs={"attention.value": "attention.value"}
    )
    manager.release()
    ours, theirs = (m.attention.value(m.embed(IDS)) for m in (student, teacher))
    want = explicit_gradient(student, relation_loss(ours, theirs.detach(), 4, MASK.bool()))
    assert (found - want).abs().max() < 1e-12


def test_what_cannot_be_compared_is_named():
    student, teacher = Model(1), Model(0)
    with pytest.raises(TargetError, match=r'no attention probabilities.*attn_implementation="eager".*of: relation'):
        of_the_manager(student, Model(0, told=False), of="attention", pairs={"attention": "attention"})
    other = Model(1)
    with pytest.raises(TargetError, match="layer attention and .*teacher's attention cannot be compared"):
        of_the_manager(other, Model(0, width=12, heads=3), of="attention", pairs={"attention": "attention"})
    third = Model(1)
    with pytest.raises(TargetError, match="cannot be compared"):
        of_the_manager(third, teacher, of="relation", heads=3, pairs={"attention.value": "attention.value"})


def test_fields_of_the_other_kinds_are_told_as_unused():
    plan = str(manager_of(ATTENTION, pairs={"body": "body"}, heads=2).plan(conv_net()))
    assert "heads" in plan
    assert "taught by body" in plan


def test_real_attention_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    sizes = {
        "attention_probs_dropout_prob": 0,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 20,
        "attn_implementation": "eager",
    }
    student, teacher = (
        transformers.BertModel(transformers.BertConfig(hidden_size=width, num_hidden_layers=depth, **sizes))
        for width, depth in ((8, 1), (16, 2))
    )
    manager = manager_of(
        ATTENTION, of="attention", pairs={"encoder.layer.*.attention.self": "encoder.layer.*.attention.self"}
    )
    optimizer = sgd(student)
    manager.modify(student, optimizer, 10, teacher=teacher)
    student.train()
    student(input_ids=IDS, attention_mask=MASK).last_hidden_state.sum().backward()
    optimizer.step()
    assert 0 < manager.last_losses["distill"] < 1
    student.encoder.layer[0].attention.self.dropout.p = 0.5
    with pytest.raises(TargetError, match="do not sum to 1, as after dropout.*attention_probs_dropout_prob=0"):
        student(input_ids=IDS, attention_mask=MASK)


def test_fused_layers_of_a_teacher_are_opened_for_the_while():
    def encoder(seed):
        torch.manual_seed(seed)
        layer = nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True)
        return nn.Sequential(
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(48, 4)
        )

    student, teacher = encoder(1), encoder(0).eval()
    x = torch.randn(8, 3, 16)
    with torch.no_grad():
        want = teacher(x)
    attributes = [layer.activation_relu_or_gelu for layer in teacher[0].layers]
    manager = manager_of(ATTENTION, of="relation", heads=4, pairs={"0.layers.*.linear1": "0.layers.*.linear1"})
    optimizer = sgd(student)
    manager.modify(student, optimizer, 10, teacher=teacher)
    F.cross_entropy(student(x), torch.arange(8) % 4).backward()
    optimizer.step()
    assert manager.last_losses["distill"] > 0
    manager.release()
    assert [layer.activation_relu_or_gelu for layer in teacher[0].layers] == attributes
    with torch.no_grad():
        assert torch.allclose(teacher(x), want, atol=1e-6)
