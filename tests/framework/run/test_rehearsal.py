import copy

import pytest
import torch
from sample_models import conv_net, mlp, pruning, recipe_of

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from paredown import Recipe, ScheduledManager

CHANNELS = {"type": "channel_pruning", "final_sparsity": 0.5, "end": 1}
QAT = {"type": "quantization_aware_training", "start": 1}


def manager_of(**modifiers):
    recipe = recipe_of(2, **modifiers)
    return ScheduledManager(Recipe.load({**recipe, "run": {**recipe["run"], "engine": "onnxruntime"}}))


def batches():
    torch.manual_seed(0)
    return [(torch.randn(16, 1, 8, 8), torch.randint(0, 4, (16,))) for _ in range(4)]


def trained(manager, model, data):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    manager.modify(model, optimizer, steps_per_epoch=len(data), example_inputs=data[0][0])
    for x, labels in data * 2:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    manager.finalize()
    return model.eval()


def test_bytes_of_the_plan_are_those_of_the_file(tmp_path):
    data, model = batches(), conv_net()
    schedule = {"type": "learning_rate", "final": 0.0}
    manager = manager_of(prune=CHANNELS, quantize=QAT, rate=schedule)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    plan = manager.plan(model, steps_per_epoch=len(data), example_inputs=data[0][0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    trained(manager, model, data)
    made = manager.export(tmp_path / "model.onnx", repetitions=0)
    assert made.integer_share == 1
    assert plan.file.bytes[1] == pytest.approx(made.bytes, rel=0.05)
    assert plan.file.bytes[0] > made.bytes
    assert all(0 < each < 10 for each in plan.file.latency)
    assert plan.file.left_out == ("rate",)
    assert f"bytes of the file for onnxruntime {plan.file.bytes[0]:>20,} -> {plan.file.bytes[1]:>16,}" in str(plan)


def test_scales_that_training_finds_are_foreseen_by_a_forward(tmp_path):
    """Of scales that are learned, inputs have none before the first training forward; the file is in integers."""
    data, model = batches(), conv_net()
    manager = manager_of(quantize={"type": "learned_step_size"})
    plan = manager.plan(model, steps_per_epoch=len(data), example_inputs=data[0][0])
    trained(manager, model, data)
    made = manager.export(tmp_path / "model.onnx", repetitions=0)
    assert made.integer_share == 1
    assert plan.file.bytes[1] == pytest.approx(made.bytes, rel=0.05)


def test_without_an_engine_without_inputs_or_unasked_nothing_is_written():
    manager, model, x = manager_of(quantize=QAT), conv_net(), torch.randn(4, 1, 8, 8)
    assert manager.plan(model, steps_per_epoch=4).file is None
    assert manager.plan(model, steps_per_epoch=4, example_inputs=x, rehearse=False).file is None
    unnamed = ScheduledManager(Recipe.load(recipe_of(2, quantize=QAT)))
    assert unnamed.plan(model, steps_per_epoch=4, example_inputs=x).file is None


def test_what_cannot_be_foreseen_is_said_and_data_helps():
    pruning = {"type": "channel_pruning", "final_sparsity": 0.5, "criterion": "taylor"}
    manager, model, x = manager_of(prune=pruning), conv_net(), torch.randn(4, 1, 8, 8)
    plan = manager.plan(model, steps_per_epoch=4, example_inputs=x)
    assert plan.file is None
    assert "its file is not foreseen: prune needs the loss" in str(plan)
    assert manager.plan(model, steps_per_epoch=4, example_inputs=x, data=batches()).file is not None


def test_what_zeros_pay_is_told_where_there_are_some():
    """In bytes, as the file lies and zipped; in time, by what each engine says of itself."""
    model, x = mlp(256), torch.randn(16, 16)
    plans = []
    for share in (0.9, None):
        prune = {} if share is None else {"p": pruning(share, end=1, scope="local")}
        recipe = {
            **recipe_of(1, q={"type": "static_quantization"}, **prune),
            "run": {"epochs": 1, "engine": "onnxruntime"},
        }
        plans.append(ScheduledManager(Recipe.load(recipe)).plan(model, steps_per_epoch=4, example_inputs=x))
    zeros, without = plans
    assert zeros.file.zipped[1] < 0.6 * without.file.zipped[1]
    assert zeros.file.bytes[1] == pytest.approx(without.file.bytes[1], rel=0.02)
    assert not without.file.zeros
    assert zeros.file.zeros["onnxruntime"] == "zeros are not skipped"
    assert "sparse_layers" in zeros.file.zeros["torch"]
    assert "bytes of it, zipped" in str(zeros)
    assert "zeros in time: onnxruntime: zeros are not skipped; " in str(zeros)
    assert "channel_pruning and head_pruning remove weights for every engine" in str(zeros)
    assert "zeros in time" not in str(without)
