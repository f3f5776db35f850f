import pytest
import torch
from sample_models import conv_net, mlp
from torch import nn

from paredown import TargetError
from paredown.framework.model.targets import match, match_parameters, named_modules, plain_name, unwrap

LAYERS = (nn.Linear, nn.Conv2d)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = conv_net()
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, x):
        return self.head(self.body(x))


def names(model, *targets, ignore=()):
    return list(match(model, targets, ignore, LAYERS).modules)


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ([], ["body.stem", "body.body", "body.head", "head.0", "head.2"]),
        (["Conv2d"], ["body.stem", "body.body"]),
        (["head"], ["head.0", "head.2"]),
        (["head.0"], ["head.0"]),
        (["body.*"], ["body.stem", "body.body", "body.head"]),
        (["*.head"], ["body.head"]),
        (["*head*"], ["body.head", "head.0", "head.2"]),
        (["re:.*\\.(stem|head)"], ["body.stem", "body.head"]),
        (["ConvNet"], ["body.stem", "body.body", "body.head"]),
        (["_ConvNd"], ["body.stem", "body.body"]),
        (["Linear", "Conv3d"], ["body.head", "head.0", "head.2"]),
    ],
)
def test_patterns(targets, found):
    assert names(Block(), *targets) == found


def test_ignore_and_its_idle_patterns():
    matches = match(Block(), ["Linear"], ["head", "nothing_like_it"], LAYERS)
    assert list(matches.modules) == ["body.head"]
    assert matches.idle_ignores == ["nothing_like_it"]


@pytest.mark.parametrize(
    ("targets", "ignore", "told"),
    [
        (["Linaer"], [], "did you mean 'Linear'"),
        (["body.stm"], [], "did you mean 'body.stem'"),
        (["Conv3d"], [], "leave nothing"),
        (["Linear"], ["*"], "leave nothing"),
        (["Linear"], ["hed"], "did you mean 'head'"),
        (["re:("], [], "no regular expression"),
        (["Quux"], [], "ConvNet"),
    ],
)
def test_what_matches_nothing_is_told(targets, ignore, told):
    with pytest.raises(TargetError, match=told.replace("(", "\\(")):
        match(Block(), targets, ignore, LAYERS)


def test_subclass_is_covered_by_its_base():
    class Own(nn.Conv2d):
        pass

    assert names(nn.Sequential(Own(1, 1, 1)), "Conv2d") == ["0"]


def test_wrappers_are_seen_through():
    model = mlp()
    compiled = torch.compile(model)
    assert unwrap(compiled) is model
    assert list(named_modules(nn.Sequential(compiled)))[1:] == ["0", "0.0", "0.1", "0.2", "0.3", "0.4"]
    assert plain_name("module.layer._fsdp_wrapped_module.conv") == "layer.conv"


def test_parameters_by_their_own_name_or_their_module():
    assert list(match_parameters(Block(), ["head.0", "body.stem.weight"], ["*.bias"])) == [
        "body.stem.weight",
        "head.0.weight",
    ]
    with pytest.raises(TargetError, match="nothing"):
        match_parameters(Block(), ["body.stem.wieght"], [])
