import copy
import inspect
import io
import pickle
import subprocess
import sys

import pytest
import torch
from sample_models import mlp
from torch import nn

from paredown import TargetError
from paredown.framework.model.links import Link, add_link, base_class, links_of, remove_links


class Scale(Link):
    def __init__(self, factor, permanent=False):
        self.factor = factor
        self.permanent = permanent

    def around(self, call, module, /, *args, **kwargs):
        return call(module, *args, **kwargs) * self.factor


class Sum(nn.Module):
    def forward(self, x, *, offset=0.0):
        return x.sum() + offset


def test_links_act_in_order_and_come_off():
    model, x = Sum(), torch.ones(3)
    double = Scale(2)
    add_link(model, double)
    add_link(model, Scale(5))
    assert model(x, offset=1.0) == 40
    assert type(model).__name__ == "Sum"
    assert base_class(model) is Sum
    remove_links(model, [double])
    assert model(x, offset=1.0) == 20
    remove_links(model, links_of(model))
    assert type(model) is Sum


def test_signature_is_kept():
    before = inspect.signature(Sum().forward)
    model = Sum()
    add_link(model, Scale(2))
    assert inspect.signature(model.forward) == before


def test_permanent_links_stand_inside():
    model = Sum()
    add_link(model, Scale(2))
    add_link(model, Scale(3, permanent=True))
    assert [link.factor for link in links_of(model)] == [2, 3]


def test_copies_and_pickles_are_plain_or_permanent():
    model = nn.Sequential(mlp(), nn.Linear(4, 4))
    add_link(model, Scale(2))
    add_link(model[1], Scale(3))
    add_link(model[1], Scale(5, permanent=True))
    x = torch.randn(2, 16)
    want = model(x) / 6
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is nn.Sequential
        assert [link.factor for link in links_of(twin[1])] == [5]
        assert torch.allclose(twin(x), want)
        assert twin[1].weight is not model[1].weight


def test_a_plain_pickle_loads_without_paredown(tmp_path):
    model = mlp()
    add_link(model, Scale(2))
    torch.save(model, tmp_path / "model.pt")
    code = "import sys, torch; torch.load(sys.argv[1], weights_only=False); assert 'paredown' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.pt")], check=True)


def test_a_forward_set_on_the_instance_is_the_inner_end():
    model = Sum()
    own = lambda x: x.prod()  # noqa: E731
    model.forward = own
    add_link(model, Scale(2))
    assert model(torch.tensor([3.0, 4.0])) == 24
    remove_links(model, links_of(model))
    assert model.__dict__["forward"] is own


def test_ours_goes_inert_beneath_a_class_that_was_swapped_over_it():
    model = Sum()
    link = Scale(2)
    add_link(model, link)

    class Foreign(type(model)):
        pass

    model.__class__ = Foreign
    assert model(torch.ones(3)) == 6
    remove_links(model, [link])
    assert isinstance(model, Foreign)
    assert model(torch.ones(3)) == 3


def test_script_modules_are_refused():
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(TargetError, match="TorchScript"):
        add_link(scripted, Scale(2))


@pytest.mark.parametrize("compiled_first", [True, False])
def test_seen_by_compile_also_when_the_class_was_compiled_before(compiled_first):
    torch.compile(mlp(), backend="eager")(torch.randn(2, 16))
    model, x, link = mlp(), torch.randn(2, 16), Scale(2)
    want = model(x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    if compiled_first:
        compiled(x)
    add_link(model, link)
    assert torch.allclose(compiled(x), 2 * want)
    remove_links(model, [link])
    assert torch.allclose(compiled(x), want)


def test_state_dict_of_a_copy_is_untouched():
    model = mlp()
    add_link(model, Scale(2))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    assert list(model.state_dict()) == list(mlp().state_dict())
