import pytest
import torch
from distilling import assert_gradient_is, gradient, manager_of, perceptrons, sgd
from sample_models import batches, conv_net, mlp, train
from torch import nn
from torch.nn import functional as F

from paredown import RecipeError, TargetError
from paredown.modifiers.distillation.losses.correlation import correlation_loss
from paredown.modifiers.distillation.losses.decoupled import decoupled_loss
from paredown.modifiers.distillation.losses.divergences import (
    jensen_shannon_loss,
    kl_divergence_loss,
    reverse_kl_loss,
    squared_logit_loss,
    standardized,
    top_k_loss,
)

KD = "knowledge_distillation"
T, W = 3.0, 0.7
LOSSES = {
    "kl": kl_divergence_loss,
    "decoupled": lambda s, t, T: decoupled_loss(s, t, t.argmax(-1), T),
    "dist": correlation_loss,
    "jensen_shannon": jensen_shannon_loss,
    "reverse_kl": reverse_kl_loss,
    "mse": squared_logit_loss,
    "top_k": lambda s, t, T: top_k_loss(s, t, T, k=10),
}
WITH_NUMBERS = [
    ({"top_k": 2}, lambda s, t, T: top_k_loss(s, t, T, k=2)),
    ({"dist": {"inter": 2, "intra": 0.5}}, lambda s, t, T: correlation_loss(s, t, T, inter=2, intra=0.5)),
    ({"decoupled": {"beta": 2}}, lambda s, t, T: decoupled_loss(s, t, t.argmax(-1), T, beta=2)),
]


def whole(loss, teacher, weight=W):
    return lambda s, x, y: (1 - weight) * F.cross_entropy(s(x), y) + weight * loss(s(x), teacher(x).detach(), T)


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_by_every_way_to_the_loss(name):
    models = perceptrons()
    manager = manager_of(KD, loss=name, temperature=T, weight=W, warmup=0)
    assert_gradient_is(manager, models, whole(LOSSES[name], models[1]))


@pytest.mark.parametrize(("said", "loss"), WITH_NUMBERS)
def test_losses_with_numbers_of_their_own(said, loss):
    models = perceptrons()
    manager = manager_of(KD, loss=said, temperature=T, weight=W, warmup=0)
    assert_gradient_is(manager, models, whole(loss, models[1]))


def test_standardized_logits():
    models = perceptrons()
    manager = manager_of(KD, standardize=True, temperature=T, weight=W)

    def kl(s, t, T):
        return kl_divergence_loss(standardized(s), standardized(t), T)

    assert_gradient_is(manager, models, whole(kl, models[1]))


def test_an_added_term_leaves_the_loops_loss_whole():
    models = perceptrons()

    def explicit(s, x, y):
        return F.cross_entropy(s(x), y) + 2.5 * kl_divergence_loss(s(x), models[1](x).detach(), T)

    assert_gradient_is(manager_of(KD, mode="add", temperature=T, weight=2.5), models, explicit)


def test_the_terms_of_several_teachers_are_averaged():
    student, one, data = perceptrons()
    two = mlp(seed=9).double()

    def mean(s, x):
        return sum(kl_divergence_loss(s(x), t(x).detach(), T) for t in (one, two)) / 2

    def explicit(s, x, y):
        return (1 - W) * F.cross_entropy(s(x), y) + W * mean(s, x)

    assert_gradient_is(manager_of(KD, temperature=T, weight=W), (student, [one, two], data), explicit)


def test_weight_and_temperature_move_over_the_window():
    student, teacher = mlp(seed=1), mlp()
    manager = manager_of(
        KD, start=1, end=3, weight=[[0, 0.2], [0.5, 0.8]], temperature={"initial": 8, "final": 2, "curve": "linear"}
    )
    optimizer = sgd(student)
    manager.modify(student, optimizer, 10, teacher=teacher)
    told = []

    def look():
        term = manager.run.losses._terms.get("distill")
        told.append(None if term is None else (term.weight, float(term.settings["temperature"])))

    train(student, optimizer, batches(), 4, after=look)
    assert told[:9] == [None] * 9
    assert told[29:] == [None] * 11
    weights, temperatures = zip(*told[9:29], strict=True)
    assert weights == pytest.approx([min(0.2 + 0.6 * p / 10, 0.8) for p in range(20)])
    assert temperatures == pytest.approx([8 - 6 * p / 20 for p in range(20)])


@pytest.mark.parametrize("loss", ["kl", "decoupled"])
def test_the_decoupled_loss_warms_up_by_itself(loss):
    student = mlp(seed=1)
    manager, optimizer = manager_of(KD, 20, loss=loss, weight=0.5), sgd(student, 0.01)
    manager.modify(student, optimizer, 10, teacher=mlp())
    told = []
    train(student, optimizer, batches(), 6, after=lambda: told.append(manager.run.losses._terms["distill"].weight))
    rising = [0.5 * min((step + 1) / 50, 1) for step in range(1, 61)]
    assert told == pytest.approx(rising if loss == "decoupled" else [0.5] * 60)


def test_classes_are_the_second_dimension_of_images():
    class Dense(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.net = nn.Conv2d(1, 5, 3, padding=1)

        def forward(self, x):
            return self.net(x)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 5, (2, 4, 4), generator=generator)
    student, teacher = Dense(1).double(), Dense(0).double()

    def rows(z):
        return z.movedim(1, -1)

    def explicit(s, x, y):
        return (1 - W) * F.cross_entropy(s(x), y) + W * kl_divergence_loss(rows(s(x)), rows(teacher(x)).detach(), T)

    assert_gradient_is(manager_of(KD, temperature=T, weight=W), (student, teacher, [(x, y)] * 3), explicit)


def test_large_logits_are_taken_in_pieces(monkeypatch):
    from paredown.modifiers.distillation.losses import logit_loss

    monkeypatch.setattr(logit_loss, "LARGEST", 16)
    for loss in ("kl", "decoupled"):
        models = perceptrons()
        manager = manager_of(KD, loss=loss, temperature=T, weight=W, warmup=0)
        assert_gradient_is(manager, models, whole(LOSSES[loss], models[1]))


class Tokens(nn.Module):
    """Logits of tokens, called as a Hugging Face model is."""

    def __init__(self, seed, vocabulary=11):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, vocabulary)).double()

    def forward(self, input_ids, labels=None):
        return {"logits": self.net(input_ids)}


class TokensForCausalLM(Tokens):
    pass


@pytest.mark.parametrize("kind", [Tokens, TokensForCausalLM])
@pytest.mark.parametrize("loss", ["kl", "decoupled"])
def test_labels_of_minus_100_are_left_out(kind, loss):
    student, teacher = kind(1), kind(0)
    x = torch.arange(8).view(2, 4)
    labels = torch.tensor([[-100, 2, 3, -100], [4, -100, 6, 7]])
    manager = manager_of(KD, loss=loss, temperature=T, weight=1.0, warmup=0)
    manager.modify(student, sgd(student), 10, teacher=teacher)
    student(input_ids=x, labels=labels)["logits"].sum().mul(0).backward()
    seen = labels if kind is Tokens else torch.cat([labels[:, 1:], torch.full((2, 1), -100)], 1)
    kept = seen >= 0
    s, t = student.net(x)[kept], teacher.net(x)[kept].detach()
    expected = decoupled_loss(s, t, seen[kept], T) if loss == "decoupled" else kl_divergence_loss(s, t, T)
    (want,) = torch.autograd.grad(expected, student.net[1].weight)
    assert torch.allclose(student.net[1].weight.grad, want, atol=1e-12)
    assert manager.last_losses["distill"] == pytest.approx(expected.item())


def test_vocabularies_that_differ():
    x = torch.arange(8).view(2, 4)
    student, teacher = Tokens(1), Tokens(0, vocabulary=13)
    manager = manager_of(KD)
    manager.modify(student, sgd(student), 10, teacher=teacher)
    with pytest.raises(TargetError, match=r"\(2, 4, 11\).*\(2, 4, 13\).*truncate_vocabulary"):
        student(input_ids=x)
    manager.release()
    manager = manager_of(KD, truncate_vocabulary=True, temperature=T, weight=1.0)
    manager.modify(student, sgd(student), 10, teacher=teacher)
    student(input_ids=x)["logits"].sum().mul(0).backward()
    expected = kl_divergence_loss(student.net(x), teacher.net(x)[..., :11].detach(), T)
    (want,) = torch.autograd.grad(expected, student.net[1].weight)
    assert torch.allclose(student.net[1].weight.grad, want, atol=1e-12)


def test_differing_logits_are_named():
    student = mlp()
    manager_of(KD).modify(student, sgd(student), 10, teacher=mlp(outputs=7))
    with pytest.raises(TargetError, match=r"\(8, 4\).*\(8, 7\)"):
        student(batches()[0][0])


def test_the_teacher_speaks_its_own_type():
    student, teacher = conv_net(1).to(torch.bfloat16), conv_net(0)
    manager = manager_of(KD)
    manager.modify(student, sgd(student), 10, teacher=teacher)
    x, y = batches(1, image=True)[0]
    F.cross_entropy(student(x.to(torch.bfloat16)), y).backward()
    assert torch.isfinite(gradient(student)).all()
    assert next(teacher.parameters()).dtype == torch.float32


def test_it_acts_in_its_window_alone():
    student = mlp(seed=1)
    optimizer, manager = sgd(student), manager_of(KD, start=1, end=2)
    manager.modify(student, optimizer, 10, teacher=mlp())
    told = []
    train(student, optimizer, batches(), 3, after=lambda: told.append(manager.run.losses.link is not None))
    assert told == [9 < step < 20 for step in range(1, 31)]
    assert manager.last_losses["distill"] > 0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"weight": 1.5}, r"0\.\.1; mode: add takes larger ones"),
        ({"weight": [[0, 0.5], [1, 2]]}, r"0\.\.1"),
        ({"weight": -1, "mode": "add"}, "0 or more"),
        ({"weight": "much"}, "no value over time"),
        ({"temperature": 0}, "above 0"),
        ({"temperature": {"initial": 4, "final": 0}}, "above 0"),
        ({"temperature": {"initial": 4}}, "final"),
        ({"loss": "kld"}, "did you mean"),
        ({"loss": {"top_k": 0}}, "must be at least 1"),
        ({"loss": {"top": 3}}, "is no loss"),
        ({"cache": "memory", "teacher": "ema"}, "changes in every step"),
        ({"cache": {"disk": 0}}, "must be at least 1"),
        ({"teacher": []}, "at least one"),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_recipe(fields, told):
    with pytest.raises(RecipeError, match=told):
        manager_of(KD, **fields)


def test_a_decay_without_an_average_is_told_as_unused():
    plan = manager_of(KD, decay=0.9).plan(mlp())
    assert "decay" in str(plan)


MOVING = {"temperature": {"initial": 8, "final": 2}, "weight": [[0, 0.2], [1, 0.9]]}


@pytest.mark.parametrize("fields", [{"loss": loss} for loss in LOSSES] + [{"standardize": True}, MOVING])
def test_compiled_in_one_graph_it_ends_the_same(fields):
    ends = []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        student = mlp(seed=5)
        manager, optimizer = manager_of(KD, warmup=0, **fields), sgd(student)
        manager.modify(student, optimizer, 10, teacher=mlp())
        forward = torch.compile(student, backend="aot_eager", fullgraph=True) if compiled else student
        train(forward, optimizer, batches(4))
        ends.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert torch.allclose(ends[0], ends[1], atol=1e-6)
