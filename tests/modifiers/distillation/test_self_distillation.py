import copy

import pytest
import torch
from distilling import gradient, manager_of, sgd
from resuming import assert_resumes, going
from sample_models import batches, conv_net, mlp, recipe_of, token_net, train
from torch import nn
from torch.nn import functional as F

import paredown
from paredown import ParedownError, RecipeError, TargetError
from paredown.framework.model.links import links_of
from paredown.modifiers.distillation.losses.divergences import kl_divergence_loss
from paredown.modifiers.distillation.losses.features import relative_squared_loss
from paredown.modifiers.distillation.signals.early_exits import EarlyExits, early_exit

SELF = "self_distillation"
W, A, T = 0.4, 0.3, 3.0


def setup(model, image=True, dtype=torch.float64, **fields):
    modify = fields.pop("modify", {})
    manager, optimizer = manager_of(SELF, weight=W, imitation=A, temperature=T, **fields), sgd(model)
    manager.modify(model, optimizer, 10, **modify)
    return manager, optimizer, [(x.to(dtype), y) for x, y in batches(image=image)]


@pytest.mark.parametrize("way", ["automatic", "loss", "criterion"])
@pytest.mark.parametrize("example", [False, True])
def test_the_gradient_of_model_and_exits(way, example):
    model = conv_net(1).double()
    x, y = batches(1, image=True)[0]
    x = x.double()
    modify = {"example_inputs": (x,)} if example else {}
    manager, *_ = setup(model, exits=["stem", "norm"], hint="body", hint_weight=0.2, modify=modify)
    criterion = manager.wrap_criterion(F.cross_entropy) if way == "criterion" else F.cross_entropy
    loss = criterion(model(x), y)
    (manager.loss(loss) if way == "loss" else loss).backward()
    exits = copy.deepcopy(manager.run.modules.of("distill"))
    reference = copy.deepcopy(model)
    for module in (reference, *exits.values()):
        module.zero_grad()

    stem = reference.stem(x)
    norm = reference.norm(stem)
    body = reference.body(torch.relu(norm))
    logits = reference.head(torch.relu(body).mean((2, 3)))
    goal = body.detach().mean((2, 3))
    total = (1 - W) * F.cross_entropy(logits, y)
    for layer, feature in (("stem", stem), ("norm", norm)):
        exit_ = exits[layer]
        embedding = exit_.body(feature).mean((2, 3))
        own = exit_.classifier(embedding)
        part = (1 - A) * F.cross_entropy(own, y) + A * kl_divergence_loss(own, logits.detach(), T)
        total = total + W / 2 * (part + 0.2 * relative_squared_loss(embedding, goal))
    total.backward()
    assert (gradient(model) - gradient(reference)).abs().max() < 1e-12
    for layer, exit_ in manager.run.modules.of("distill").items():
        assert (gradient(exit_) - gradient(exits[layer])).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("model", "image", "exits", "kinds"),
    [
        (lambda: mlp(seed=1), False, ["1", "3"], ["flat", "flat"]),
        (token_net, True, ["layers.[01]"], ["tokens", "tokens"]),
        (lambda: conv_net(1), True, ["re:stem|norm"], ["space", "space"]),
    ],
)
def test_exits_on_all_kinds_of_features(model, image, exits, kinds, tmp_path):
    manager, optimizer, data = setup(model(), image, torch.float32, exits=exits)
    student = manager.run.model
    train(student, optimizer, data[:3])
    found = manager.run.modules.of("distill")
    assert [exit_.kind for exit_ in found.values()] == kinds
    before = copy.deepcopy({layer: exit_.state_dict() for layer, exit_ in found.items()})
    train(student, optimizer, data[3:4])
    for layer, exit_ in found.items():
        assert not torch.equal(exit_.classifier.weight, before[layer]["classifier.weight"])


def test_labels_that_the_forward_is_given():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=8, num_attention_heads=2, num_hidden_layers=2, intermediate_size=8, vocab_size=20, num_labels=3,
        hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).double()
    manager, optimizer, _ = setup(model, exits=["bert.encoder.layer.0"])
    ids, mask, y = (
        torch.arange(12).view(3, 4),
        torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]),
        torch.tensor([0, 2, 1]),
    )
    model.train()(input_ids=ids, attention_mask=mask, labels=y).loss.backward()
    exits = copy.deepcopy(manager.run.modules.of("distill"))
    reference = copy.deepcopy(model)
    for module in (reference, *exits.values()):
        module.zero_grad()
    out = reference(input_ids=ids, attention_mask=mask, labels=y, output_hidden_states=True)
    (exit_,) = exits.values()
    own = exit_(out.hidden_states[1], mask.bool())
    part = (1 - A) * F.cross_entropy(own, y) + A * kl_divergence_loss(own, out.logits.detach(), T)
    ((1 - W) * out.loss + W * part).backward()
    assert (gradient(model) - gradient(reference)).abs().max() < 1e-12
    optimizer.step()


def test_nothing_is_left_behind():
    model = conv_net(1)
    names = list(model.state_dict())
    manager, optimizer, data = setup(model, dtype=torch.float32, exits=["stem"])
    assert list(model.state_dict()) == names
    train(model, optimizer, data, 4)
    manager.finalize()
    assert list(model.state_dict()) == names
    assert not hasattr(model, "exits")
    assert not any(links_of(module) for module in model.modules())
    assert not manager.run.modules.of("distill")


def kept_model(tmp_path=None, **fields):
    model = conv_net(1)
    manager, optimizer, data = setup(model, dtype=torch.float32, exits=["stem", "norm"], keep_exits=True, **fields)
    train(model, optimizer, data, 4)
    if tmp_path is not None:
        paredown.save(tmp_path / "c.pt", model, optimizer, manager)
    manager.finalize()
    return model, data


@pytest.mark.parametrize("end", [2, 4])
def test_exits_that_stay_and_are_left_early(end):
    model, data = kept_model(end=end)
    assert isinstance(model.exits, EarlyExits)
    assert model.exits.layers == ["stem", "norm"]
    x = data[0][0]
    model.eval()
    stem = model.stem(x)
    for threshold, layer, want in (
        (0.0, "stem", model.exits.each[0](stem)),
        (1.01, "", model(x)),
    ):
        logits, left = early_exit(model, x, threshold=threshold)
        assert left == layer
        assert torch.allclose(logits, want, atol=1e-6)
    sure = model.exits.each[1](model.norm(stem)).softmax(-1).amax(-1).min().item()
    first = model.exits.each[0](stem).softmax(-1).amax(-1).min().item()
    if first < sure:
        assert early_exit(model, x, threshold=sure)[1] == "norm"
    assert not any(links_of(module) for module in model.modules())
    twin = copy.deepcopy(model)
    assert torch.equal(early_exit(twin, x, threshold=0.0)[0], early_exit(model, x, threshold=0.0)[0])


def test_what_lies_behind_an_exit_is_not_computed():
    model, data = kept_model()
    calls = []
    model.body.register_forward_hook(lambda *_: calls.append(1))
    early_exit(model, data[0][0], threshold=0.0)
    assert not calls
    early_exit(model, data[0][0], threshold=1.01)
    assert calls == [1]
    with pytest.raises(TargetError, match="keep_exits: true leaves them"):
        early_exit(conv_net(), data[0][0])


def test_kept_exits_come_back_with_a_checkpoint(tmp_path):
    model, data = kept_model(tmp_path)
    loaded = paredown.load(tmp_path / "c.pt", conv_net(2))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    x = data[0][0]
    assert torch.equal(early_exit(loaded, x, threshold=0.0)[0], early_exit(model, x, threshold=0.0)[0])


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("example", [False, True])
def test_resume_in_the_middle_of_the_window(keep, example, tmp_path):
    def begun():
        model = conv_net(1)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        manager = manager_of(SELF, 5, exits=["stem"], start=1, end=4, keep_exits=keep)
        more = {"example_inputs": (batches(1, image=True)[0][0],)} if example else {}
        manager.modify(model, optimizer, 4, **more)
        return model, optimizer, manager

    go = going(batches(4, image=True))

    assert_resumes(begun, go, 20, (0, 4, 5, 10, 15, 16, 19), tmp_path)


def test_mistakes():
    model = conv_net()
    for fields, told in (
        ({"exits": ["stme"]}, "did you mean 'stem'"),
        ({"exits": ["stem"], "hint": "bodi"}, "did you mean 'body'"),
    ):
        with pytest.raises(TargetError, match=told):
            manager_of(SELF, **fields).modify(model, sgd(model), 10)
    for fields in ({}, {"exits": []}, {"exits": ["stem"], "imitation": 2}, {"exits": ["stem"], "temperature": 0}):
        with pytest.raises(RecipeError):
            manager_of(SELF, **fields)
    model.exits = nn.Identity()
    with pytest.raises(TargetError, match="has an attribute 'exits' already"):
        manager_of(SELF, exits=["stem"], keep_exits=True).modify(model, sgd(model), 10)
    assert "hint_weight" in str(manager_of(SELF, exits=["stem"], hint_weight=1).plan(conv_net()))


@pytest.mark.parametrize("way", ["loss", "criterion"])
def test_a_loss_of_which_nothing_stays_is_refused_where_exits_read_it(way):
    """Its gradient is zero: exits would learn nothing from it, in silence. Injected gradients are whole."""
    model = conv_net(1)
    x, y = batches(1, image=True)[0]
    manager = manager_of(SELF, exits=["stem"], weight=1.0)
    manager.modify(model, sgd(model), 10)
    criterion = manager.wrap_criterion(F.cross_entropy) if way == "criterion" else F.cross_entropy
    output = model(x)
    with pytest.raises(ParedownError, match="weights of distill are 1 in sum.*without manager.loss"):
        manager.loss(criterion(output, y))
    F.cross_entropy(output, y).backward()
    (exit_,) = manager.run.modules.of("distill").values()
    assert gradient(exit_).abs().max() > 0


def test_logits_that_no_exit_gives_are_named():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Conv2d(1, 4, 3)

        def forward(self, x):
            return self.net(x)

    model = Dense()
    manager_of(SELF, exits=["net"]).modify(model, sgd(model), 10)
    with pytest.raises(TargetError, match=r"gives no logits of the shape \(8, 4, 6, 6\)"):
        model(batches(1, image=True)[0][0])


def test_a_compiled_forward_needs_the_sizes_before():
    torch._dynamo.reset()
    model = conv_net()
    manager_of(SELF, exits=["stem"]).modify(model, sgd(model), 10)
    x, y = batches(1, image=True)[0]
    with pytest.raises(Exception, match="give modify example_inputs"):
        torch.compile(model, backend="aot_eager", fullgraph=True)(x)


@pytest.mark.parametrize("kind", ["self_distillation", "feature_distillation"])
def test_layers_that_lose_channels_meanwhile(kind):
    fields = {"exits": ["stem"]} if kind == SELF else {"pairs": {"stem": "stem"}}
    modifiers = {
        "cut": {"type": "channel_pruning", "final_sparsity": 0.5, "start": 1, "round_to": 1},
        "distill": {"type": kind, **fields},
    }
    model, data = conv_net(1), batches(10, image=True)
    manager, optimizer = paredown.ScheduledManager(paredown.Recipe.load(recipe_of(3, **modifiers))), sgd(model)
    manager.modify(model, optimizer, 10, example_inputs=(data[0][0],))
    train(model, optimizer, data, 3)
    assert model.stem.out_channels < 8
    report = manager.finalize()
    assert report.compressed.parameters < report.dense.parameters
