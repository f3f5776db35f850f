"""Stop and go on: the end is the same, bit for bit."""

import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from sample_models import batches, conv_net, pruning, recipe_of, size, zeros
from torch import nn

import paredown
from paredown import CheckpointError, Recipe, ScheduledManager
from paredown.framework.model.links import links_of

ALL = {
    "svd": {"type": "svd_decomposition", "targets": ["head"], "rank": 3, "start": 1, "guard": "none"},
    "prune": pruning(0.6, 1, 4, every=0.3, targets=["Conv2d"], scope="local", initial_sparsity=0.1),
    "quantize": {
        "type": "quantization_aware_training",
        "targets": ["Conv2d"],
        "start": 3,
        "freeze_observers": 5,
        "freeze_batch_norm": 4.5,
    },
    "distill": {"type": "knowledge_distillation", "weight": 0.5},
    "rate": {"type": "learning_rate", "start": 2, "final": 0.001},
    "thaw": {"type": "freeze", "targets": ["stem"], "end": 2},
}


def run(modifiers=ALL, epochs=6, **modify):
    model = conv_net(3, channels=16)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = ScheduledManager(Recipe.load(recipe_of(epochs, **modifiers)))
    manager.modify(model, optimizer, 10, **modify)
    return model, optimizer, manager


def go(model, optimizer, first, last):
    data = batches(10, image=True)
    for step in range(first, last):
        x, y = data[step % 10]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def everything(model, optimizer, manager):
    """Weights, buffers, optimizer state and the manager's state, flat."""
    found = {}

    def walk(value, path):
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{path}.{key}")
        elif isinstance(value, (list, tuple)):
            for index, part in enumerate(value):
                walk(part, f"{path}.{index}")
        else:
            found[path] = value

    walk({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "manager": manager.state_dict()}, "")
    return found


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        same = torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key]
        assert same, key


@pytest.fixture(scope="module")
def reference():
    parts = run()
    go(*parts[:2], 0, 60)
    return everything(*parts)


@pytest.mark.parametrize("at", [0, 1, 9, 10, 11, 19, 20, 29, 30, 31, 39, 40, 44, 45, 49, 50, 59, 60])
def test_resuming_ends_the_same(at, tmp_path, reference):
    model, optimizer, manager = run()
    go(model, optimizer, 0, at)
    paredown.save(tmp_path / "c.pt", model, optimizer, manager, step=at, notes={"loss": [0.5, None, "x"]})
    torch.manual_seed(99)
    model, optimizer, manager = run()
    extra = paredown.resume(tmp_path / "c.pt", model, optimizer, manager)
    assert extra == {"step": at, "notes": {"loss": [0.5, None, "x"]}}
    go(model, optimizer, at, 60)
    assert_same(everything(model, optimizer, manager), reference)


def test_a_state_loads_before_modify_too(tmp_path, reference):
    model, optimizer, manager = run()
    go(model, optimizer, 0, 35)
    state, weights, moments = manager.state_dict(), model.state_dict(), optimizer.state_dict()
    model = conv_net(3, channels=16)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = ScheduledManager(Recipe.load(recipe_of(6, **ALL)))
    manager.load_state_dict(state)
    manager.modify(model, optimizer, 10)
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    go(model, optimizer, 35, 60)
    assert_same(everything(model, optimizer, manager), reference)


def test_random_generators_go_on(tmp_path):
    import numpy as np

    model, optimizer, manager = run()
    paredown.save(tmp_path / "c.pt", model, optimizer, manager)
    want = torch.rand(3), random.random(), np.random.rand()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    paredown.resume(tmp_path / "c.pt", *run())
    assert torch.equal(torch.rand(3), want[0])
    assert (random.random(), np.random.rand()) == want[1:]


def test_structure_of_time_zero_is_taken_back_and_replayed(tmp_path):
    early = {**ALL, "svd": {**ALL["svd"], "start": 0}}
    parts = run(early)
    go(*parts[:2], 0, 5)
    paredown.save(tmp_path / "c.pt", *parts)
    other = {**early, "svd": {**early["svd"], "rank": 2}}  # the rank that was recorded counts
    model, optimizer, manager = run(other)
    assert model.head[0].out_features == 2
    paredown.resume(tmp_path / "c.pt", model, optimizer, manager)
    assert model.head[0].out_features == 3
    go(model, optimizer, 5, 60)
    manager.finalize()


def test_a_moved_end_still_loads_and_the_share_does_not_fall(tmp_path):
    parts = run()
    go(*parts[:2], 0, 25)
    paredown.save(tmp_path / "c.pt", *parts)
    before = zeros(parts[0])
    moved = {**ALL, "prune": {**ALL["prune"], "end": 7}}
    model, optimizer, manager = run(moved, epochs=8)
    paredown.resume(tmp_path / "c.pt", model, optimizer, manager)
    go(model, optimizer, 25, 30)
    assert zeros(model) >= before
    go(model, optimizer, 30, 80)
    manager.finalize()
    convolutions = [model.stem.weight, model.body.weight]
    assert [int((w == 0).sum()) for w in convolutions] == [round(0.6 * w.numel()) for w in convolutions]


def test_loading_for_inference(tmp_path):
    model, optimizer, manager = run()
    go(model, optimizer, 0, 60)
    paredown.save(tmp_path / "c.pt", model, optimizer, manager)
    manager.finalize()
    fresh = paredown.load(tmp_path / "c.pt", conv_net(7, channels=16))
    x = batches(image=True)[0][0]
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    assert all(link.permanent for module in fresh.modules() for link in links_of(module))
    assert size(fresh) == size(model)


def test_a_kept_teacher_replaces_the_copy(tmp_path):
    parts = run()
    go(*parts[:2], 0, 5)
    paredown.save(tmp_path / "kept.pt", *parts, teacher=True)
    paredown.save(tmp_path / "bare.pt", *parts)
    other = conv_net(8, channels=16)
    optimizer = torch.optim.AdamW(other.parameters(), 1e-2)
    manager = ScheduledManager(Recipe.load(recipe_of(6, **ALL)))
    manager.modify(other, optimizer, 10)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="initial teacher of the checkpoint was another model"):
        paredown.resume(tmp_path / "bare.pt", other, optimizer, manager)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    paredown.resume(tmp_path / "kept.pt", other, optimizer, manager)
    go(other, optimizer, 5, 10)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "damaged"),
        (lambda path: path.write_bytes(b"no checkpoint at all"), "damaged"),
        (lambda path: path.unlink(), "no such file"),
        (lambda path: torch.save({"model": {}}, path), "no checkpoint that paredown.save wrote"),
        (lambda path: torch.save(nn.Linear(2, 2), path), "damaged, or no file of tensors"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_changes(damage, told, tmp_path):
    parts = run()
    go(*parts[:2], 0, 15)
    paredown.save(tmp_path / "c.pt", *parts)
    damage(tmp_path / "c.pt")
    model, optimizer, manager = run()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=told):
        paredown.resume(tmp_path / "c.pt", model, optimizer, manager)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    go(model, optimizer, 0, 60)
    manager.finalize()


def test_another_recipe_or_model_is_named(tmp_path):
    parts = run()
    go(*parts[:2], 0, 15)
    paredown.save(tmp_path / "c.pt", *parts)
    fewer = {name: fields for name, fields in ALL.items() if name != "thaw"}
    with pytest.raises(CheckpointError, match="thaw: freeze there, absent here"):
        paredown.resume(tmp_path / "c.pt", *run(fewer))
    model = conv_net(3, channels=8)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = ScheduledManager(Recipe.load(recipe_of(6, **{**ALL, "distill": {**ALL["distill"], "start": 5}})))
    manager.modify(model, optimizer, 10, teacher=conv_net(1))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"does not fit"):
        paredown.resume(tmp_path / "c.pt", model, optimizer, manager)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in before.items()}


def test_loading_in_the_middle_of_a_run_is_refused():
    model, optimizer, manager = run()
    state = manager.state_dict()
    go(model, optimizer, 0, 3)
    with pytest.raises(CheckpointError, match="taken 3 steps"):
        manager.load_state_dict(state)


def test_what_cannot_be_kept_is_named_and_the_old_file_stays(tmp_path):
    parts = run()
    paredown.save(tmp_path / "c.pt", *parts)
    before = (tmp_path / "c.pt").read_bytes()
    with pytest.raises(CheckpointError, match=r"extra\['why'\]\[1\] is a Linear"):
        paredown.save(tmp_path / "c.pt", *parts, why=[1, nn.Linear(1, 1)])
    assert (tmp_path / "c.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_masks_take_a_bit_a_weight():
    model, optimizer, manager = run()
    go(model, optimizer, 0, 20)
    masks = manager.state_dict()["modifiers"]["prune"]["state"]["masks"]
    assert masks["body.weight"]["bits"].numel() == model.body.weight.numel() // 8


WORKER = """
import os, sys
sys.path[:0] = {paths!r}
from test_checkpoint import ALL, everything, go, run
import paredown, torch
from pathlib import Path

def work(path, kill_at):
    parts = run()
    begin = paredown.resume(path, *parts)["step"] if path.exists() else 0
    for step in range(begin, 60):
        go(*parts[:2], step, step + 1)
        if step + 1 == kill_at:
            os.kill(os.getpid(), 9)
        if (step + 1) % 3 == 0:
            paredown.save(path, *parts, step=step + 1)
    torch.save(everything(*parts), f"{{path}}.end")

def status_of(path, kill_at):
    child = os.fork()  # the imports, once for all
    if child:
        return os.waitpid(child, 0)[1]
    work(path, kill_at)
    os._exit(0)

run()  # what torch imports at its first optimizer
for kill_at in map(int, sys.argv[1:]):
    path = Path(f"{{kill_at}}.pt")
    assert status_of(path, kill_at) == 9
    assert status_of(path, 0) == 0
"""


@pytest.mark.slow
def test_killed_at_random_steps(tmp_path, reference):
    tests = Path(__file__).parents[2]
    script = textwrap.dedent(WORKER).format(paths=[str(Path(__file__).parent), str(tests), str(tests.parent / "src")])
    (tmp_path / "worker.py").write_text(script)
    steps = [str(step) for step in random.Random(0).sample(range(1, 60), 20)]
    subprocess.run([sys.executable, "worker.py", *steps], cwd=tmp_path, check=True)
    for step in steps:
        assert_same(torch.load(tmp_path / f"{step}.pt.end"), reference)
