"""Every modifier that is installed, through the same trials with its `example`."""

import copy
import io

import pytest
import torch
from sample_models import batches, conv_net, token_net
from torch import nn

import paredown
from paredown import ParedownError, Recipe, RecipeError, ScheduledManager, ScheduleError
from paredown.framework.model.links import base_class
from paredown.framework.modifier.registry import registry

DATA = batches(4, image=True)
TYPES = sorted(registry().types)


def sparse_net():
    model = conv_net()
    with torch.no_grad():
        model.body.weight[::2] = 0
    return model


#: what has nothing to act on in the small convolutional network
MODELS = {"head_pruning": token_net, "layer_pruning": token_net, "constant_sparsity": sparse_net}


def built(kind):
    return MODELS.get(kind, conv_net)()


def recipe(kind, **more):
    fields = {"type": kind, **registry().types[kind].example, **more}
    return Recipe.load({"recipe": 1, "name": kind, "run": {"epochs": 3}, "modifiers": {"it": fields}})


def hooked(kind, model=None, **modify):
    model = built(kind) if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = ScheduledManager(recipe(kind))
    data = [(x.to(next(model.parameters()).dtype), y) for x, y in DATA]
    manager.modify(model, optimizer, 4, data=data, example_inputs=(data[0][0],), **modify)
    return model, optimizer, manager


def go(model, optimizer, first=0, last=12, forward=None, autocast=False):
    for step in range(first, last):
        x, y = DATA[step % 4]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = (model if forward is None else forward)(x)
        nn.functional.cross_entropy(out.float(), y).backward()
        optimizer.step()


@pytest.fixture(params=TYPES)
def kind(request):
    return request.param


def test_documented(kind):
    modifier = registry().types[kind]
    assert modifier.__doc__
    assert len(modifier.__doc__.split()) > 20
    for name, info in modifier.model_fields.items():
        assert info.description or name == "type", f"{name} has no docstring"


def test_runs_and_leaves_nothing_of_the_manager(kind):
    model, optimizer, manager = hooked(kind)
    go(model, optimizer)
    assert manager.done
    manager.finalize()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert base_class(model) is type(built(kind))
    assert not optimizer._optimizer_step_post_hooks
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_resume_is_bit_identical(kind, tmp_path):
    whole = hooked(kind)
    go(*whole[:2])
    for at in (0, 1, 5, 11):
        parts = hooked(kind)
        go(*parts[:2], 0, at)
        paredown.save(tmp_path / "c.pt", *parts)
        again = hooked(kind)
        paredown.resume(tmp_path / "c.pt", *again)
        go(*again[:2], at, 12)
        ours, theirs = again[0].state_dict(), whole[0].state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(v, theirs[k]) for k, v in ours.items())


def test_one_shot_or_a_refusal_by_name(kind):
    model = built(kind)
    before = copy.deepcopy(model.state_dict())
    manager = ScheduledManager(recipe(kind))
    if registry().types[kind].needs_training:
        with pytest.raises(ScheduleError, match=rf"it \({kind}\)"):
            manager.apply(model, data=DATA)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        return
    manager.apply(model, data=DATA, example_inputs=(DATA[0][0],))
    assert torch.isfinite(model.eval()(DATA[0][0])).all()


def test_copies_and_pickles_in_the_middle(kind):
    model, optimizer, manager = hooked(kind)
    go(model, optimizer, 0, 6)
    twin = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    x = DATA[0][0]
    want = model.eval()(x)
    assert torch.equal(twin.eval()(x), want)
    assert torch.equal(loaded.eval()(x), want)
    assert base_class(twin) is type(built(kind))
    torch.export.export(twin, (x,))


def test_release_in_the_middle_restores_names(kind):
    model, optimizer, manager = hooked(kind)
    go(model, optimizer, 0, 6)
    manager.release()
    if not manager.recipe.modifiers["it"].structural:
        assert model.state_dict().keys() == built(kind).state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())
    hooked(kind, model)


def test_compiled(kind):
    torch._dynamo.reset()
    ends = []
    for compiled in (False, True):
        model, optimizer, manager = hooked(kind)
        forward = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        go(model, optimizer, forward=forward)
        manager.finalize()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert ends[0].shape == ends[1].shape
    assert torch.isfinite(ends[1]).all()


def test_autocast_and_channels_last(kind):
    model, optimizer, manager = hooked(kind, built(kind).to(memory_format=torch.channels_last))
    go(model, optimizer, autocast=True)
    manager.finalize()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_double_precision_stays(kind):
    model, optimizer, manager = hooked(kind, built(kind).double())
    for x, y in DATA * 3:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x.double()), y).backward()
        optimizer.step()
    manager.finalize()
    assert all(p.dtype == torch.float64 for p in model.parameters())


def test_the_plan_tells_of_it(kind):
    model = built(kind)
    before = copy.deepcopy(model.state_dict())
    plan = ScheduledManager(recipe(kind)).plan(model, steps_per_epoch=4, example_inputs=(DATA[0][0],))
    assert f"it ({kind})" in str(plan)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert base_class(model) is type(built(kind))


def test_bad_input_is_an_error_of_ours(kind):
    with pytest.raises(RecipeError, match="nonsense"):
        recipe(kind, nonsense=1)
    if "targets" in registry().types[kind].model_fields:
        model = built(kind)
        manager = ScheduledManager(recipe(kind, targets=["stme"]))
        with pytest.raises(ParedownError, match="did you mean 'stem'"):
            manager.modify(model, torch.optim.SGD(model.parameters(), 0.1), 4)


def test_a_cast_after_modify_is_followed(kind):
    model, optimizer, manager = hooked(kind)
    go(model, optimizer, 0, 5)
    model.double()
    optimizer.state.clear()
    for x, y in (DATA * 3)[5:12]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x.double()), y).backward()
        optimizer.step()
    report = manager.finalize()
    assert all(p.dtype == torch.float64 for p in model.parameters())
    assert any("could not be run on the example inputs" in note for note in report.notes)


def test_loaded_for_inference_it_computes_the_same(kind, tmp_path):
    model, optimizer, manager = hooked(kind)
    go(model, optimizer, 0, 7)
    paredown.save(tmp_path / "c.pt", model, optimizer, manager)
    loaded = paredown.load(tmp_path / "c.pt", built(kind))
    x = DATA[0][0]
    with torch.no_grad():  # as one evaluates
        assert torch.equal(loaded.eval()(x), model.eval()(x))
    assert loaded.state_dict().keys() == model.state_dict().keys()
