import copy

import pytest
import torch
from distilling import assert_gradient_is, captured, convolutionals, gradient, manager_of, perceptrons, sgd
from resuming import assert_resumes, going
from sample_models import batches, conv_net, mlp, train
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from paredown import RecipeError, TargetError
from paredown.framework.model.links import links_of
from paredown.modifiers.distillation.losses.features import cosine_loss, relative_squared_loss, squared_loss
from paredown.modifiers.distillation.signals.adapters import ChannelMap, pooled_alike
from paredown.modifiers.distillation.signals.pairs import paired_layers

FEATURES = "feature_distillation"
W = 0.6
LOSSES = {"relative": relative_squared_loss, "mse": squared_loss, "cosine": lambda s, t: cosine_loss(s, t, dimension=1)}


@pytest.mark.parametrize("name", LOSSES)
def test_features_of_one_shape_by_every_way_to_the_loss(name):
    student, _, data = perceptrons()
    teacher = mlp(seed=3).double()

    def explicit(model, x, y):
        features = captured(model, "1", x), captured(teacher, "1", x).detach()
        return (1 - W) * F.cross_entropy(model(x), y) + W * LOSSES[name](*features)

    manager = manager_of(FEATURES, pairs={"1": "1"}, loss=name, weight=W, warmup=0)
    assert_gradient_is(manager, (student, teacher, data), explicit)


@pytest.mark.parametrize("example", [False, True])
def test_other_widths_get_an_adapter_that_is_trained(example):
    student, teacher, data = convolutionals()
    modify = {"example_inputs": (data[0][0],)} if example else {}
    manager = manager_of(FEATURES, pairs={"body": "body"}, weight=W, warmup=0)

    def explicit(model, x, y):
        adapter = manager.run.modules.of("distill")["0-0"]
        mapped = F.conv2d(captured(model, "body", x), adapter.weight[:, :, None, None], adapter.bias)
        loss = relative_squared_loss(mapped, captured(teacher, "body", x).detach())
        return (1 - W) * F.cross_entropy(model(x), y) + W * loss

    assert_gradient_is(manager, (student, teacher, data), explicit, **modify)
    adapter = manager.run.modules.of("distill")["0-0"]
    assert (adapter.in_features, adapter.out_features) == (16, 24)
    assert adapter.weight.dtype == torch.float64
    assert not {id(p) for p in adapter.parameters()} & {id(p) for p in student.parameters()}
    before, rate = adapter.weight.detach().clone(), 0.1
    student.zero_grad()
    adapter.zero_grad()
    manager.run.losses.scaling.accumulate = 1
    F.cross_entropy(student(data[0][0]), data[0][1]).backward()
    slope = adapter.weight.grad.clone()
    manager.run.optimizers[0].step()
    assert torch.allclose(adapter.weight, before - rate * slope, atol=1e-12)


def test_space_is_averaged_to_the_smaller():
    generator = torch.Generator().manual_seed(0)
    for student, teacher, size in (
        ((2, 3, 8, 8), (2, 5, 4, 4), (4, 4)),
        ((2, 3, 4), (2, 3, 12), (4,)),
        ((2, 3, 2, 4, 4), (2, 3, 4, 2, 4), (2, 2, 4)),
    ):
        ours, theirs = (torch.randn(shape, generator=generator) for shape in (student, teacher))
        pooled = pooled_alike(ours, theirs)
        assert [tuple(each.shape[2:]) for each in pooled] == [size, size]
        assert torch.allclose(pooled[0].flatten(2).mean(2), ours.flatten(2).mean(2), atol=1e-6)
    with pytest.raises(TargetError, match="as many dimensions"):
        pooled_alike(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("space", [(), (5,), (5, 4), (3, 4, 2)])
def test_a_channel_map_is_a_linear_layer_in_each_place(space):
    torch.manual_seed(0)
    adapter, feature = ChannelMap(3, 7), torch.randn(2, 3, *space)
    want = F.linear(feature.movedim(1, -1), adapter.weight, adapter.bias).movedim(-1, 1)
    assert torch.allclose(adapter(feature), want, atol=1e-6)


class Encoder(nn.Module):
    """Hidden states of tokens, called as a Hugging Face model is."""

    def __init__(self, seed, width=8, depth=2):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(20, width)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)])

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return {"last_hidden_state": x}


def test_padding_is_left_out_and_tokens_have_their_channels_last():
    student, teacher = Encoder(1).double(), Encoder(0).double()
    ids = torch.arange(8).view(2, 4)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    manager = manager_of(FEATURES, pairs={"layers.*": "layers.*"}, weight=1.0, warmup=0)
    manager.modify(student, sgd(student), 10, teacher=teacher)
    student(input_ids=ids, attention_mask=mask)["last_hidden_state"].sum().mul(0).backward()
    keep = mask.bool()
    ours, theirs = student.embed(ids), teacher.embed(ids)
    terms = []
    for mine, other in zip(student.layers, teacher.layers, strict=True):
        ours, theirs = mine(ours), other(theirs)
        terms.append((ours - theirs.detach())[keep].square().sum() / theirs.detach()[keep].square().sum())
    (want,) = torch.autograd.grad(sum(terms) / 2, student.embed.weight)
    assert torch.allclose(student.embed.weight.grad, want, atol=1e-12)


def test_tokens_get_an_adapter_too():
    student, teacher = Encoder(1), Encoder(0, width=12)
    manager = manager_of(FEATURES, pairs={"layers.*": "layers.*"}, weight=1.0, warmup=0)
    optimizer = sgd(student)
    manager.modify(student, optimizer, 10, teacher=teacher)
    student(torch.arange(8).view(2, 4))["last_hidden_state"].sum().mul(0).backward()
    optimizer.step()
    assert [m.weight.shape for m in manager.run.modules.of("distill").values()] == [(12, 8), (12, 8)]


def test_nothing_is_left_behind():
    student, teacher = conv_net(1), conv_net(0, channels=12)
    names, kinds = list(student.state_dict()), [type(m) for m in (*student.modules(), *teacher.modules())]
    optimizer = sgd(student)
    groups = [len(group["params"]) for group in optimizer.param_groups]
    manager = manager_of(FEATURES, pairs={"body": "body", "stem": "norm"})
    manager.modify(student, optimizer, 10, teacher=teacher)
    train(student, optimizer, batches(image=True), 4)
    manager.finalize()
    assert list(student.state_dict()) == names
    assert [type(m) for m in (*student.modules(), *teacher.modules())] == kinds
    assert not any(links_of(m) for m in (*student.modules(), *teacher.modules()))
    assert [len(group["params"]) for group in optimizer.param_groups] == groups
    assert not manager.run.modules.of("distill")


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_resume_in_the_middle_of_the_window(kind, example, tmp_path):
    teacher = conv_net(0, channels=12)

    def begun():
        student = conv_net(1)
        optimizer = kind(student.parameters(), 1e-2)
        manager = manager_of(FEATURES, 5, pairs={"body": "body"}, start=1, end=4)
        more = {"example_inputs": (batches(1, image=True)[0][0],)} if example else {}
        manager.modify(student, optimizer, 4, teacher=copy.deepcopy(teacher), **more)
        return student, optimizer, manager

    go = going(batches(4, image=True))

    assert_resumes(begun, go, 20, (0, 4, 5, 10, 15, 16, 19), tmp_path)


@pytest.mark.parametrize("example", [False, True])
def test_a_compiled_forward_with_an_adapter(example):
    torch._dynamo.reset()
    x, y = batches(1, image=True)[0]
    grads = []
    for compiled in (False, True):
        student, teacher = conv_net(1), conv_net(0, channels=12)
        manager = manager_of(FEATURES, pairs={"body": "body"}, warmup=0)
        manager.modify(student, sgd(student), 10, teacher=teacher, **({"example_inputs": (x,)} if example else {}))
        forward = torch.compile(student, backend="aot_eager", fullgraph=True) if compiled else student
        F.cross_entropy(forward(x), y).backward()
        adapter = manager.run.modules.of("distill")["0-0"]
        grads.append(torch.cat([gradient(student), adapter.weight.grad.flatten()]))
    assert (grads[0] - grads[1]).abs().max() < 1e-6


def test_a_teacher_of_another_type_is_tried_on_the_example_too():
    x, y = batches(1, image=True)[0]
    student, teacher = conv_net(1), conv_net(0, channels=12).double()
    manager = manager_of(FEATURES, pairs={"body": "body"})
    manager.modify(student, sgd(student), 10, teacher=teacher, example_inputs=(x,))
    assert manager.run.modules.of("distill")["0-0"].weight.dtype == torch.float32
    F.cross_entropy(student(x), y).backward()
    assert torch.isfinite(gradient(student)).all()


def names(*layers):
    return nn.ModuleDict({name: nn.Linear(2, 2) for name in layers})


@pytest.mark.parametrize(
    ("patterns", "pairs"),
    [
        ({"a1": "b2"}, [("a1", "b2")]),
        ({"a*": "b[12]"}, [("a1", "b1"), ("a2", "b2")]),
        ({"a*": "b*"}, [("a1", "b2"), ("a2", "b4")]),
        ({"re:a[1]": "b*"}, [("a1", "b4")]),
        ({"a1": "b1", "a2": "b4"}, [("a1", "b1"), ("a2", "b4")]),
    ],
)
def test_pairs_of_patterns(patterns, pairs):
    assert paired_layers(names("a1", "a2"), names("b1", "b2", "b3", "b4"), patterns) == pairs


@pytest.mark.parametrize(
    ("patterns", "told"),
    [
        ({"a3": "b1"}, "layers of the student: target 'a3' matches nothing"),
        ({"a1": "c1"}, "layers of the teacher: target 'c1'"),
        ({"a*": "b[123]"}, "'a\\*' means 2 layers of the student and 'b\\[123\\]' 3 of the teacher"),
    ],
)
def test_pairs_that_do_not_go_together(patterns, told):
    with pytest.raises(TargetError, match=told):
        paired_layers(names("a1", "a2"), names("b1", "b2", "b3", "b4"), patterns)


def test_mistakes_before_anything_is_changed():
    student, teacher = conv_net(1), conv_net(0)
    for fields, error, told in (
        ({"pairs": {"bdoy": "body"}}, TargetError, "did you mean 'body'"),
        ({"pairs": {"body": "bdoy"}}, TargetError, "did you mean 'body'"),
    ):
        with pytest.raises(error, match=told):
            manager_of(FEATURES, **fields).modify(student, sgd(student), 10, teacher=teacher)
        assert not any(links_of(m) for m in (*student.modules(), *teacher.modules()))
    for fields in ({}, {"pairs": {}}, {"pairs": {"a": "b"}, "loss": "l3"}):
        with pytest.raises(RecipeError):
            manager_of(FEATURES, **fields)


def test_a_layer_that_is_not_called_is_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x):
            return self.used(x)

    student = Unused()
    manager_of(FEATURES, pairs={"idle": "used"}).modify(student, sgd(student), 10)
    with pytest.raises(TargetError, match="the student's layer idle was not called"):
        student(batches()[0][0])


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.net, self.reentrant = mlp(), reentrant

    def forward(self, x):
        return self.net[2:](checkpoint(self.net[:2], x.requires_grad_(), use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_layer_whose_activations_are_checkpointed(reentrant):
    def learn(model):
        train(model, sgd(model, rate=0), batches(1))

    student, plain, teacher = Checkpointed(reentrant), mlp(), mlp(seed=3)
    manager = manager_of(FEATURES, pairs={"net.1": "1"}, weight=W, warmup=0)
    manager.modify(student, sgd(student), 10, teacher=teacher)
    if reentrant:  # the forward itself runs without gradients
        with pytest.raises(TargetError, match="net.1 ran without gradients .* use_reentrant=False"):
            learn(student)
        return
    reference = manager_of(FEATURES, pairs={"1": "1"}, weight=W, warmup=0)
    reference.modify(plain, sgd(plain), 10, teacher=teacher)
    learn(student), learn(plain)
    assert torch.equal(gradient(student), gradient(plain))
