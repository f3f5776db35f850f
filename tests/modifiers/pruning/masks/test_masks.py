"""Every structure in every scope against a reference that sorts Python tuples."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_models import recipe_of
from torch import nn

from paredown import Recipe, RecipeError, ScheduledManager, TargetError
from paredown.framework.modifier.curves import share_of
from paredown.modifiers.pruning.masks.scope import (
    erdos_renyi_kernel_shares,
    lamp_scores,
    outlier_shares,
    uniform_plus_shares,
    whole_counts,
)
from paredown.modifiers.pruning.scoring.units import structure_of

STRUCTURES = [
    "unstructured",
    "2:4",
    "1:4",
    "3:6",
    {"block": [1, 4]},
    {"block": [4, 1]},
    {"block": [2, 3]},
    "kernel",
    "channel",
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


class Net(nn.Module):
    """A convolution, a transposed one and a linear layer: inputs divisible by 12, outputs by 4."""

    def __init__(self, values=None, dtype=torch.float32):
        super().__init__()
        self.conv = nn.Conv2d(12, 8, (3, 2))
        self.up = nn.ConvTranspose2d(12, 4, 2)
        self.linear = nn.Linear(24, 4)
        self.to(dtype)
        with torch.no_grad():
            for number, weight in enumerate(self.weights()):
                generator = torch.Generator().manual_seed(number)
                if values is None:
                    weight.copy_(torch.randn(weight.shape, generator=generator))
                else:
                    picked = torch.randint(len(values), weight.shape, generator=generator)
                    weight.copy_(torch.tensor(values, dtype=torch.float64)[picked])

    def weights(self):
        return [self.conv.weight, self.up.weight, self.linear.weight]


def rows_first(net, structure=None):
    """The weights, outputs first where units are more than single weights."""
    up = net.up.weight.detach()
    return [
        net.conv.weight.detach(),
        up if structure == "unstructured" else up.transpose(0, 1),
        net.linear.weight.detach(),
    ]


def units_of(weight, structure):
    """Lists of indices (outputs first) that go together, in the order of the units."""
    out, inputs, *rest = weight.shape
    places = list(itertools.product(*[range(n) for n in rest]))
    if structure == "channel":
        return [[(o, i, *k) for i in range(inputs) for k in places] for o in range(out)]
    if structure == "kernel":
        return [[(o, i, *k) for k in places] for o in range(out) for i in range(inputs)]
    if isinstance(structure, dict):
        a, b = structure["block"]
        return [
            [(o + x, i + y, *k) for x in range(a) for y in range(b)]
            for o in range(0, out, a)
            for i in range(0, inputs, b)
            for k in places
        ]
    return [[(o, i, *k)] for o in range(out) for i in range(inputs) for k in places]


def removable_of(weight, structure):
    """The places that an N:M pattern takes."""
    kept, of = map(int, structure.split(":"))
    out, inputs, *rest = weight.shape
    found = set()
    for o, start, k in itertools.product(
        range(out), range(0, inputs, of), list(itertools.product(*[range(n) for n in rest]))
    ):
        group = sorted((abs(float(weight[(o, i, *k)])), i) for i in range(start, start + of))
        found |= {(o, i, *k) for _, i in group[: of - kept]}
    return found


def reference(weights, structure, scope, share, floor=None):
    """Sets of places that are zero, by weight: one unit after the other goes, unless its layer is at its floor."""
    pattern = isinstance(structure, str) and ":" in structure
    entries = []
    for number, weight in enumerate(weights):
        units = units_of(weight, structure)
        allowed = removable_of(weight, structure) if pattern else None
        for place, unit in enumerate(units):
            if pattern and unit[0] not in allowed:
                score = math.inf
            elif len(unit) == 1:
                score = abs(float(weight[unit[0]]))
            else:
                score = sum(float(weight[index]) ** 2 for index in unit) / len(unit)
            entries.append((score, number, place, unit))
    groups = [entries] if scope == "global" else [[e for e in entries if e[1] == n] for n in range(len(weights))]
    part = min(Fraction(1, 100), (1 - Fraction(share)) / 2) if floor is None else Fraction(str(floor))
    left = [sum(e[1] == n for e in entries) for n in range(len(weights))]
    least = [math.ceil(part * size) for size in left]
    gone = [set() for _ in weights]
    for group in groups:
        going = share_of(share, len(group))
        for _, number, _, unit in sorted(group, key=lambda e: e[:3]):
            if going and left[number] > least[number]:
                gone[number] |= set(unit)
                left[number], going = left[number] - 1, going - 1
    return gone


def applicable(structure):
    targets = ["conv", "up", "linear"]
    return targets[:2] if structure == "kernel" else targets


def pruned(net, structure, scope, share, **more):
    fields = {
        "type": "magnitude_pruning",
        "structure": structure,
        "scope": scope,
        "targets": applicable(structure),
        **more,
    }
    if not (isinstance(structure, str) and ":" in structure):
        fields["final_sparsity"] = share
    ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(net)
    return net


def zero_places(weight):
    return {tuple(index) for index in (weight == 0).nonzero().tolist()}


@settings(max_examples=60, deadline=None)
@given(
    structure=st.sampled_from(STRUCTURES),
    scope=st.sampled_from(["global", "local"]),
    share=st.sampled_from([0.0, 0.1, 0.35, 0.5, 0.77, 1.0]),
    dtype=st.sampled_from(DTYPES),
    values=st.sampled_from([None, [1.0, -1.0, 0.5], [0.25]]),
    floor=st.sampled_from([None, 0.0, 0.1, 0.2]),
    loud=st.sampled_from([1.0, 100.0]),
)
def test_exactly_the_least_units_go(structure, scope, share, dtype, values, floor, loud):
    if isinstance(structure, str) and ":" in structure:
        share = structure_of(structure).share
    if floor and (share > 0.5 or structure == "channel"):
        floor = 0.0  # whole units of a small layer leave no room for it
    net = Net(values, dtype)
    net.conv.weight.data.mul_(loud)
    before = rows_first(net, structure)[: len(applicable(structure))]
    want = reference([w.clone() for w in before], structure, scope, share, floor)
    pruned(net, structure, scope, share, **({} if floor is None else {"layer_floor": floor}))
    after = rows_first(net, structure)[: len(want)]
    assert [zero_places(w) for w in after] == want


@pytest.mark.parametrize("structure", ["2:4", "1:4", "3:6"])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_patterns_are_reached_gradually(structure, scope):
    net = Net()
    start = [w.clone() for w in rows_first(net)]
    fields = {
        "type": "magnitude_pruning",
        "structure": structure,
        "scope": scope,
        "targets": ["conv", "up", "linear"],
        "curve": "linear",
        "end": "4 steps",
        "every": "1 steps",
    }
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    manager = ScheduledManager(Recipe.load(recipe_of(p=fields)))
    manager.modify(net, optimizer, 4)
    final = structure_of(structure).share
    for step in range(5):
        want = reference(start, structure, scope, final * step / 4)
        assert [len(zero_places(w)) for w in rows_first(net)] == [len(w) for w in want]
        assert [zero_places(w) for w in rows_first(net)] == want
        for weight in net.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()


def is_pattern(structure):
    return isinstance(structure, str) and ":" in structure


COUNTED = [
    (structure, scope)
    for structure in STRUCTURES
    for scope in ("global", "local", "erk", "uniform_plus", "lamp", "owl")
    if scope in ("global", "local") or not is_pattern(structure)
]


@pytest.mark.parametrize(("structure", "scope"), COUNTED)
def test_counts_are_exact_at_every_step(structure, scope):
    torch.manual_seed(0)
    net = Net()
    final = structure_of(structure).share if isinstance(structure, str) and ":" in structure else 0.7
    fields = {
        "type": "magnitude_pruning",
        "structure": structure,
        "scope": scope,
        "targets": applicable(structure),
        "end": "6 steps",
        "every": "1 steps",
        "initial_sparsity": 0.1,
    }
    if not (isinstance(structure, str) and ":" in structure):
        fields["final_sparsity"] = final
    optimizer = torch.optim.AdamW(net.parameters(), 0.1, weight_decay=0.1)
    ScheduledManager(Recipe.load(recipe_of(p=fields))).modify(net, optimizer, 6)
    for step in range(8):
        share = final + (0.1 - final) * (1 - min(step / 6, 1)) ** 3
        weights = rows_first(net, structure)[: len(applicable(structure))]
        units = [units_of(w, structure) for w in weights]
        gone = [
            sum(all(w[index] == 0 for index in unit) for unit in each) for w, each in zip(weights, units, strict=True)
        ]
        if scope == "local":
            assert gone == [share_of(share, len(each)) for each in units]
        else:
            assert sum(gone) == share_of(share, sum(map(len, units)))
        for weight in net.parameters():
            weight.grad = torch.randn_like(weight)
        optimizer.step()


@pytest.mark.parametrize("structure", ["unstructured", {"block": [2, 3]}, "channel"])
def test_a_global_choice_does_not_depend_on_the_order_or_chunking(structure, monkeypatch):
    from paredown.modifiers.pruning.selection import chunks

    def marks(order):
        net = Net()
        layers = nn.ModuleDict({name: getattr(net, name) for name in order})
        pruned(layers, structure, "global", 0.6)
        return {name: (layers[name].weight == 0) for name in order}

    first = marks(["conv", "up", "linear"])
    other = marks(["linear", "conv", "up"])
    monkeypatch.setattr(chunks, "_CPU_ELEMENTS", 7)
    small = marks(["up", "linear", "conv"])
    assert all(torch.equal(first[name], other[name]) and torch.equal(first[name], small[name]) for name in first)


def test_nan_is_refused_by_name_before_anything_changes():
    for structure in STRUCTURES:
        net = Net()
        with torch.no_grad():
            net.up.weight[3, 2, 1, 1] = math.nan
        before = [w.clone() for w in net.weights()]
        with pytest.raises(TargetError, match=r"up\.weight contains NaN"):
            pruned(net, structure, "global", 0.5)
        assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(net.weights(), before, strict=True))


def test_shares_by_layer():
    net = pruned(Net(), "unstructured", {"layers": {"conv": 0.25, "re:l.*": 0.75}}, None)
    assert [int((w == 0).sum()) for w in net.weights()] == [share_of(0.25, 576), 0, share_of(0.75, 96)]
    net = pruned(Net(), "unstructured", {"layers": {"conv": 0.25}}, 0.5)
    assert [int((w == 0).sum()) for w in net.weights()] == [share_of(0.25, 576), 96, 48]


@pytest.mark.parametrize("structure", ["kernel", "channel", {"block": [2, 3]}], ids=str)
def test_shares_by_layer_are_exact_where_units_differ_in_size(structure):
    shares = {"conv": 0.25, "up": 0.5} | ({} if structure == "kernel" else {"linear": 0.75})
    net = pruned(Net(), structure, {"layers": shares}, None)
    for name, weight in zip(("conv", "up", "linear"), rows_first(net), strict=True):
        units = 1 if name not in shares else len(units_of(weight, structure))
        zeros = share_of(shares.get(name, 0.0), units) * weight.numel() // units
        assert int((weight == 0).sum()) == zeros


def test_shares_by_layer_are_approached_together():
    net = Net()
    fields = {
        "type": "magnitude_pruning",
        "scope": {"layers": {"conv": 0.8, "linear": 0.4}},
        "curve": "linear",
        "end": "4 steps",
        "every": "1 steps",
    }
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    ScheduledManager(Recipe.load(recipe_of(p=fields))).modify(net, optimizer, 4)
    for step in range(5):
        assert [int((w == 0).sum()) for w in net.weights()] == [share_of(0.2 * step, 576), 0, share_of(0.1 * step, 96)]
        for weight in net.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"structure": "4:2", "final_sparsity": 0.5}, "no structure"),
        ({"structure": "0:4"}, "no structure"),
        ({"structure": "2:4", "final_sparsity": 0.7}, "is a sparsity of 0.5"),
        ({"structure": "2:4", "scope": "erk"}, "same share everywhere"),
        ({"structure": {"blocks": [1, 4]}, "final_sparsity": 0.5}, "no structure"),
        ({"structure": {"block": [0, 4]}, "final_sparsity": 0.5}, "block"),
        ({"scope": "row", "final_sparsity": 0.5}, "no scope"),
        ({"scope": {"layers": {}}, "final_sparsity": 0.5}, "layers"),
        ({"scope": {"layers": {"a": 1.5}}}, "1.5"),
        ({}, "final_sparsity is required"),
    ],
)
def test_mistakes_in_a_recipe(fields, told):
    with pytest.raises(RecipeError, match=told):
        Recipe.load(recipe_of(p={"type": "magnitude_pruning", **fields}))


def test_a_pattern_that_means_nothing():
    with pytest.raises(TargetError, match="convv"):
        pruned(Net(), "unstructured", {"layers": {"convv": 0.5}}, 0.5)


def test_layers_that_do_not_fit_are_refused_with_the_reason():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8))
    fields = {"type": "magnitude_pruning", "structure": "2:4"}
    plan = ScheduledManager(Recipe.load(recipe_of(p=fields))).plan(model, steps_per_epoch=2)
    assert "6 inputs cannot be divided into groups of 4" in str(plan)
    ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(model)
    assert (model[0].weight != 0).all()
    assert ((model[1].weight.view(-1, 4) == 0).sum(1) == 2).all()
    with pytest.raises(TargetError, match="no layer can be pruned by kernel"):
        ScheduledManager(Recipe.load(recipe_of(p={**fields, "structure": "kernel", "final_sparsity": 0.5}))).apply(
            model
        )


def test_attention_and_recurrent_weights_are_pruned_too():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "lstm": nn.LSTM(8, 4, 2, bidirectional=True)})
    ScheduledManager(
        Recipe.load(recipe_of(p={"type": "magnitude_pruning", "final_sparsity": 0.5, "scope": "local"}))
    ).apply(model)
    found = {name: float((p == 0).float().mean()) for name, p in model.named_parameters() if "weight" in name}
    assert len(found) == 10
    assert set(found.values()) == {0.5}


# -- the distributions over layers, each against its own equation ---------------------------------------------------


def test_erdos_renyi_kernel_by_bisection():
    shapes = {"a": torch.Size([16, 3, 3, 3]), "b": torch.Size([64, 16, 3, 3]), "c": torch.Size([10, 64])}
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    for share in (0.0, 0.3, 0.6, 0.9, 0.99):
        low, high = 0.0, 1e6
        for _ in range(200):  # the scale at which min(1, scale x sum/product) holds the wanted number of weights
            middle = (low + high) / 2
            held = sum(min(1.0, middle * sum(shape) / shape.numel()) * shape.numel() for shape in shapes.values())
            low, high = (middle, high) if held < (1 - share) * sum(sizes.values()) else (low, middle)
        found = erdos_renyi_kernel_shares(shapes, share)
        for name, shape in shapes.items():
            assert found[name] == pytest.approx(1 - min(1.0, high * sum(shape) / shape.numel()), abs=1e-9)


@given(share=st.floats(0, 1), first=st.booleans(), last=st.booleans())
def test_uniform_plus_adds_up(share, first, last):
    sizes = {"a": 432, "b": 9216, "c": 36864, "d": 640}
    found = uniform_plus_shares(sizes, share, "a" if first else None, "d" if last else None)
    assert sum(found[name] * size for name, size in sizes.items()) == pytest.approx(
        share * sum(sizes.values()), abs=1e-6
    )
    if share < 0.95:
        assert not first or found["a"] == 0
        assert not last or found["d"] <= 0.8
        assert found["b"] == found["c"]


def test_lamp_against_its_definition():
    scores = torch.tensor([3.0, 1.0, 2.0, 1.0, 0.0]).double()
    ordered = sorted((float(value), place) for place, value in enumerate(scores))
    for rank, (value, place) in enumerate(ordered):
        below = sum(other for other, _ in ordered[rank:])
        assert lamp_scores(scores)[place] == pytest.approx(value / below)


def test_owl_spreads_by_outliers():
    torch.manual_seed(0)
    scores = {f"layers.{block}.{name}.weight": torch.rand(40, 40) for block in range(3) for name in "qk"}
    scores["layers.1.q.weight"][:4] = 100.0
    found = outlier_shares(scores, 0.7, threshold=5, spread=0.08)
    assert sum(found.values()) / 6 == pytest.approx(0.7)
    assert found["layers.1.q.weight"] == found["layers.1.k.weight"] == pytest.approx(found["layers.0.q.weight"] - 0.16)


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=6), st.floats(0, 1))
def test_whole_counts(layers, share):
    sizes = {str(place): size for place, (size, _) in enumerate(layers)}
    shares = {str(place): each for place, (_, each) in enumerate(layers)}
    total = share_of(share, sum(sizes.values()))
    counts = whole_counts(sizes, shares, total)
    assert sum(counts.values()) == total
    assert all(0 <= counts[name] <= sizes[name] for name in sizes)
