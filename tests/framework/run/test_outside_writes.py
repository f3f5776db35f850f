"""What is held stays held, whoever writes the weights: seen by each training forward, told in the events."""

import copy
import itertools

import pytest
import torch
from sample_models import batches, mlp, recipe_of
from torch import nn
from torch.nn import functional

from paredown import ParedownError, Recipe, ScheduledManager, ScheduleError, load, save
from paredown.framework.model.optimizers import copies_of_weights
from paredown.framework.run.outside_writes import OutsideWrites

PRUNE = {"type": "magnitude_pruning", "final_sparsity": 0.8, "start": 0.5, "end": 1}
DATA = batches(10)


def zeros(model):
    return sum(int((module.weight == 0).sum()) for module in model.modules() if isinstance(module, nn.Linear))


class Probe(nn.Module):
    """Notes how many zeros each training forward sees."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(sum(zeros(layer) for layer in self.layers))
        return x


def probed():
    model = mlp()
    model.append(Probe([each for each in model if isinstance(each, nn.Linear)]))
    return model, sum(each.weight.numel() for each in model if isinstance(each, nn.Linear))


def managed(model, optimizer, epochs=4, accumulate=None, **modifiers):
    manager = ScheduledManager(Recipe.load(recipe_of(epochs, **(modifiers or {"prune": PRUNE}))))
    manager.modify(model, optimizer, len(DATA), accumulate=accumulate)
    return manager


def backward(model, batch):
    inputs, labels = batch
    functional.cross_entropy(model(inputs), labels).backward()


def steps(model, optimizer, count, after=None):
    for batch in itertools.islice(itertools.cycle(DATA), count):
        optimizer.zero_grad()
        backward(model, batch)
        optimizer.step()
        if after is not None:
            after()


@torch.no_grad()
def written(model, how):
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        if how == "in place":
            parameter.add_(noise, alpha=0.1)
        elif how == "foreach":
            torch._foreach_add_([parameter], [0.1 * noise])
        elif how == "data":
            parameter.data.add_(noise, alpha=0.1)
        elif how == "another tensor":
            parameter.data = parameter.data + 0.1 * noise
        else:
            parameter.set_(parameter + 0.1 * noise)


@pytest.mark.parametrize("how", ["in place", "foreach", "data", "another tensor", "storage"])
def test_any_way_of_writing_is_noticed(how):
    model = mlp()
    writes = OutsideWrites()
    for _ in range(3):
        writes.note(model.parameters())
        assert not writes.found()
        written(model, how)
        assert len(writes.found()) == len(list(model.parameters()))


@pytest.mark.parametrize("how", ["in place", "data"])
@pytest.mark.parametrize("kind", ["magnitude_pruning", "taylor_pruning", "rigl", "sparsegpt", "constant_sparsity"])
def test_zeros_come_back_before_the_next_forward(kind, how):
    model, size = probed()
    fields = {} if kind == "constant_sparsity" else {"final_sparsity": 0.8}
    if kind == "constant_sparsity":
        ScheduledManager(
            Recipe.load({"recipe": 1, "modifiers": {"p": {"type": "magnitude_pruning", "final_sparsity": 0.8}}})
        ).apply(model)
    manager = ScheduledManager(
        Recipe.load(recipe_of(4, p={"type": kind, "start": 0, **({"end": 1} if fields else {}), **fields}))
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    manager.modify(model, optimizer, len(DATA), data=DATA)
    steps(model, optimizer, 12)
    count = zeros(model)
    assert abs(count - 0.8 * size) <= 3
    written(model, how)
    assert zeros(model) < 0.1 * size
    assert how == "data" or not manager.done
    steps(model, optimizer, 28)
    assert set(model[-1].seen[12:]) == {count}
    manager.finalize()
    assert zeros(model) == count
    told = [event for event in manager.events if event["event"] == "put right"]
    assert len(told) == 1
    assert told[0]["values"] == count
    assert told[0]["step"] == 12


@pytest.mark.parametrize("how", ["in place", "data"])
def test_what_is_written_last_is_put_right_by_finalize_and_in_checkpoints(how, tmp_path):
    model, size = probed()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    manager = managed(model, optimizer)
    steps(model, optimizer, 40)
    assert manager.done
    written(model, "in place")
    assert not manager.done
    save(tmp_path / "run.pt", model, optimizer, manager)
    assert zeros(load(tmp_path / "run.pt", probed()[0])) == zeros(model) == int(0.8 * size + 0.5)
    written(model, how)
    manager.finalize()
    assert zeros(model) == int(0.8 * size + 0.5)


class Lookahead(torch.optim.Optimizer):
    """Every k steps the weights go half the way back to slow ones; written through ``data`` or in place."""

    def __init__(self, inner, through_data):
        super().__init__(inner.param_groups, {})
        self.fast, self.through_data, self.count = inner, through_data, 0
        self.param_groups = inner.param_groups
        self.slow = {each: each.detach().clone() for group in self.param_groups for each in group["params"]}

    @torch.no_grad()
    def step(self, closure=None):
        self.fast.step()
        self.count += 1
        for parameter, slow in self.slow.items() if self.count % 5 == 0 else ():
            (parameter.data if self.through_data else parameter).copy_(slow.lerp_(parameter, 0.5))


@pytest.mark.parametrize("through_data", [False, True])
def test_an_optimizer_in_an_optimizer_of_any_name(through_data):
    model, size = probed()
    optimizer = Lookahead(torch.optim.AdamW(model.parameters(), 1e-2), through_data)
    manager = managed(model, optimizer)
    steps(model, optimizer, 40)
    assert set(model[-1].seen[10:]) == {int(0.8 * size + 0.5)}
    manager.finalize()
    assert zeros(model) == int(0.8 * size + 0.5)


def test_copies_that_an_optimizer_writes_back_are_found_by_their_values():
    """Averages and slow weights are copies; momenta are none, whatever their names."""
    model = mlp()
    optimizer = torch.optim.ASGD(model.parameters(), 1e-3, t0=2)
    steps(model, optimizer, 5)
    weights = [each for each in model.parameters() if each.dim() == 2]
    assert copies_of_weights([optimizer], weights) == ["ax"]
    for plain in (torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9), torch.optim.AdamW(model.parameters(), 1e-3)):
        steps(model, plain, 5)
        assert copies_of_weights([plain], weights) == []


@pytest.mark.parametrize("first", ["generator", "discriminator"])
def test_between_a_forward_and_its_backward_only_what_stepped_is_written(first):
    """One forward of the generator, the discriminator's step, then the generator's backward; whichever is the clock."""
    torch.manual_seed(0)
    pair = nn.ModuleDict(
        {
            "G": nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16)),
            "D": nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1)),
        }
    )
    generator, discriminator = pair["G"], pair["D"]
    theirs = {
        "generator": torch.optim.Adam(generator.parameters(), 1e-3),
        "discriminator": torch.optim.Adam(discriminator.parameters(), 1e-3),
    }
    order = [theirs.pop(first), *theirs.values()]
    one, two = (order[0], order[1]) if first == "generator" else (order[1], order[0])
    manager = managed(pair, order, accumulate=1, p={**PRUNE, "end": 3, "scope": "local"})
    loss = functional.binary_cross_entropy_with_logits
    for _ in range(40):
        fake = generator(torch.randn(8, 8))
        two.zero_grad()
        (
            loss(discriminator(torch.randn(8, 16)), torch.ones(8, 1))
            + loss(discriminator(fake.detach()), torch.zeros(8, 1))
        ).backward()
        two.step()
        one.zero_grad()
        loss(discriminator(fake), torch.ones(8, 1)).backward()
        one.step()
    manager.finalize()
    for layer in (generator[0], generator[2], discriminator[0], discriminator[2]):
        assert int((layer.weight == 0).sum()) == int(0.8 * layer.weight.numel() + 0.5)


def test_sparse_weights_that_are_loaded_before_the_first_step_are_held():
    sparse, size = probed()
    ScheduledManager(
        Recipe.load({"recipe": 1, "modifiers": {"p": {"type": "magnitude_pruning", "final_sparsity": 0.8}}})
    ).apply(sparse)
    model, _ = probed()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = managed(model, optimizer, keep={"type": "constant_sparsity"})
    model.load_state_dict(copy.deepcopy(sparse.state_dict()))
    steps(model, optimizer, 40)
    assert set(model[-1].seen) == {zeros(sparse)}
    manager.finalize()
    assert zeros(model) == zeros(sparse) == int(0.8 * size + 0.5)


def test_zeros_that_are_not_there_cannot_be_held():
    model, _ = probed()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    manager = managed(model, optimizer, keep={"type": "constant_sparsity"})
    steps(model, optimizer, 40)
    assert not manager.done
    with pytest.raises(ScheduleError, match="no weight of its targets was zero"):
        manager.finalize()
    with pytest.raises(ScheduleError, match="nothing is held"):
        ScheduledManager(Recipe.load({"recipe": 1, "modifiers": {"k": {"type": "constant_sparsity"}}})).apply(mlp())


def test_under_compile_weights_are_put_right_by_the_next_step():
    """A compiled forward cannot look at version counters; the step does."""
    model, size = probed()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    manager = managed(model, optimizer)
    compiled = torch.compile(model[:-1], backend="eager", fullgraph=True)
    steps(compiled, optimizer, 20)
    written(model, "in place")
    steps(compiled, optimizer, 1)
    assert zeros(model) == int(0.8 * size + 0.5)
    steps(compiled, optimizer, 19)
    manager.finalize()


def test_fused_momentum_goes_on_beside_new_parameters():
    """Like the plain kernel in float64, whatever is new: torch's fused SGD wants momenta of all parameters or of none."""
    weights = []
    for fused in (False, True):
        model = mlp().double()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, fused=fused)
        svd = {"type": "svd_decomposition", "targets": ["0"], "rank": 8, "start": 1, "guard": "none"}
        manager = managed(model, optimizer, d=svd)
        for inputs, labels in DATA * 3:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs.double()), labels).backward()
            optimizer.step()
        manager.finalize()
        weights.append(torch.cat([each.detach().flatten() for each in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-9, atol=1e-9)


def test_an_optimizer_that_never_called_init_is_refused():
    class Plain(torch.optim.Optimizer):
        def __init__(self, parameters):
            self.param_groups = [{"params": list(parameters), "lr": 0.1}]

    model = mlp()
    with pytest.raises(ParedownError, match="never called its __init__"):
        managed(model, Plain(model.parameters()))
    assert type(model) is nn.Sequential
