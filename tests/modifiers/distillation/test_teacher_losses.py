"""Where teachers come from, and that they stand still and apart."""

import copy

import pytest
import torch
from distilling import manager_of, sgd
from resuming import assert_resumes, going
from sample_models import batches, conv_net, mlp, train
from torch import nn
from torch.nn import functional as F

import paredown
from paredown import ParedownError, ScheduleError, TargetError
from paredown.modifiers.distillation.signals.moving_average import average_, averaging_decay

KD = "knowledge_distillation"


def test_the_teacher_stands_still_in_eval_and_apart():
    student, teacher = mlp(seed=1), mlp().train()
    before, names = copy.deepcopy(teacher.state_dict()), list(student.state_dict())
    optimizer, manager = sgd(student), manager_of(KD)
    manager.modify(student, optimizer, 10, teacher=teacher)
    assert not teacher.training
    teacher.train()
    train(student, optimizer, batches())
    assert not teacher.training
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert list(student.state_dict()) == names


def ends(student, **modify):
    """The weights after three steps under each of the given recipes' fields."""
    model = copy.deepcopy(student)
    fields = modify.pop("fields", {})
    manager, optimizer = manager_of(KD, **fields), sgd(model)
    manager.modify(model, optimizer, 10, **modify)
    train(model, optimizer, batches(3))
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_teacher_by_modifier_name_or_path(tmp_path):
    student, teacher = mlp(seed=1), mlp(seed=2)
    path = tmp_path / "teacher.pt"
    torch.save(teacher.state_dict(), path)
    want = ends(student, teacher=teacher)
    assert torch.equal(ends(student, teacher={"distill": teacher}), want)
    assert torch.equal(ends(student, teacher=path), want)
    assert torch.equal(ends(student, teacher=[teacher]), want)
    assert torch.equal(ends(student, fields={"teacher": str(path)}), want)
    assert torch.equal(ends(student, fields={"teacher": [str(path)]}), want)
    assert not torch.equal(ends(student), want)


def test_a_safetensors_file(tmp_path):
    from safetensors.torch import save_file

    student, teacher = mlp(seed=1), mlp(seed=2)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    assert torch.equal(ends(student, teacher=tmp_path / "teacher.safetensors"), ends(student, teacher=teacher))


def test_a_hugging_face_folder_of_another_architecture(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20, "num_labels": 3}
    big, small = (
        transformers.BertForSequenceClassification(transformers.BertConfig(num_hidden_layers=count, **sizes))
        for count in (2, 1)
    )
    big.save_pretrained(tmp_path / "big")
    manager, optimizer = manager_of(KD, teacher=str(tmp_path / "big"), weight=1.0, temperature=2), sgd(small)
    manager.modify(small, optimizer, 4)
    ids = torch.arange(12).view(3, 4)
    small.train()
    for dropout in (module for module in small.modules() if isinstance(module, nn.Dropout)):
        dropout.p = 0.0
    out = small(input_ids=ids, labels=torch.tensor([0, 1, 2]))
    out.loss.backward()
    soft = [F.log_softmax(z / 2, -1) for z in (out.logits, big.eval()(input_ids=ids).logits)]
    assert manager.last_losses["distill"] == pytest.approx(
        4 * F.kl_div(*soft, log_target=True, reduction="batchmean").item(), rel=1e-5
    )
    optimizer.step()


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: torch.save(mlp(width=8).state_dict(), path), "does not fit the model"),
        (lambda path: torch.save(mlp(), path), "damaged, or no file of tensors"),
        (lambda path: torch.save([1, 2], path), "no state dict"),
        (lambda path: path.mkdir(), "no folder of a Hugging Face model"),
    ],
)
def test_a_teacher_that_is_none(write, told, tmp_path):
    path = tmp_path / "teacher.pt"
    write(path)
    student = mlp()
    with pytest.raises(ScheduleError, match=told):
        manager_of(KD, teacher=str(path)).modify(student, sgd(student), 10)
    assert type(student) is torch.nn.Sequential


@pytest.mark.parametrize("given", [3, {"distill": 3}, [mlp(), 3]])
def test_what_is_no_teacher(given):
    student = mlp()
    with pytest.raises(ParedownError, match="a module or a path is wanted, not a int"):
        manager_of(KD).modify(student, sgd(student), 10, teacher=given)


def test_the_initial_teacher_is_the_model_as_it_was():
    student = mlp()
    optimizer, manager = sgd(student), manager_of(KD)
    manager.modify(student, optimizer, 10)
    teacher = manager.run.teachers.initial
    assert teacher is not student
    train(student, optimizer, batches())
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), mlp().parameters(), strict=True))
    assert not any(p.requires_grad for p in teacher.parameters())


def test_born_again_the_teacher_is_the_model_when_the_window_opens():
    student = mlp()
    optimizer, manager = sgd(student), manager_of(KD, teacher="start", start=1)
    manager.modify(student, optimizer, 10)
    train(student, optimizer, batches())
    then = copy.deepcopy(student.state_dict())
    train(student, optimizer, batches())
    teacher = manager.run.modules.of("distill")["start"]
    assert all(torch.equal(v, then[k]) for k, v in teacher.state_dict().items())
    assert not any(torch.equal(v, then[k]) for k, v in student.state_dict().items())
    assert not teacher.training
    train(student, optimizer, batches(), 2)
    assert not manager.run.modules.of("distill")
    manager.finalize()


def test_an_average_of_the_student_teaches():
    student = conv_net()
    optimizer, manager = sgd(student), manager_of(KD, teacher="ema", decay=0.6)
    manager.modify(student, optimizer, 10)
    want = {name: p.detach().clone() for name, p in student.named_parameters()}
    step = 0

    def follow():
        nonlocal step
        decay = min(0.6, 1 - 1 / (step + 1))
        for name, p in student.named_parameters():
            want[name] = decay * want[name] + (1 - decay) * p.detach()
        step += 1
        averaged = dict(manager.run.modules.of("distill")["ema"].named_parameters())
        assert all(torch.allclose(averaged[name], value, atol=1e-6) for name, value in want.items())

    train(student, optimizer, batches(image=True), 3, after=follow)
    assert torch.equal(manager.run.modules.of("distill")["ema"].norm.running_mean, student.norm.running_mean)
    train(student, optimizer, batches(image=True), 1)
    manager.finalize()


def test_an_average_begins_anew_where_the_structure_changes():
    student = mlp(width=64)
    svd = {"type": "svd_decomposition", "targets": ["2"], "rank": 4, "start": 1, "guard": "none"}
    manager = paredown.ScheduledManager(
        paredown.Recipe.load(
            {"recipe": 1, "run": {"epochs": 3}, "modifiers": {"svd": svd, "kd": {"type": KD, "teacher": "ema"}}}
        )
    )
    optimizer = sgd(student)
    manager.modify(student, optimizer, 10)
    train(student, optimizer, batches(), 3)
    assert any(event["event"] == "average starts over" for event in manager.events)
    manager.finalize()


SURGERY = {"type": "svd_decomposition", "targets": ["2"], "rank": 4, "guard": "none"}


@pytest.mark.parametrize("teacher", ["start", "ema", "initial"])
@pytest.mark.parametrize("surgery", [None, 0.5, 2.5])
def test_resume_in_the_middle_of_the_window(teacher, surgery, tmp_path):
    modifiers = {"kd": {"type": KD, "teacher": teacher, "decay": 0.7, "start": 1, "end": 4}}
    if surgery is not None:
        modifiers["svd"] = {**SURGERY, "start": surgery}
    recipe = {"recipe": 1, "name": "r", "run": {"epochs": 5}, "modifiers": modifiers}

    def begun():
        model = mlp(width=64)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        manager = paredown.ScheduledManager(paredown.Recipe.load(recipe))
        manager.modify(model, optimizer, 4)
        return model, optimizer, manager

    go = going(batches(4))

    assert_resumes(begun, go, 20, (0, 3, 4, 7, 10, 15, 16, 19), tmp_path)


def test_an_average_is_changed_whole_or_not_at_all():
    averaged, other = mlp(width=8), mlp(width=9)
    before = [p.clone() for p in averaged.parameters()]
    assert not average_(averaged, other, 0.5)
    assert all(torch.equal(p, b) for p, b in zip(averaged.parameters(), before, strict=True))
    assert [averaging_decay(0.5, step) for step in range(3)] == [0.0, 0.5, 0.5]


def test_a_teacher_that_is_called_otherwise_is_named():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x, more):
            return self.net(x)

    student = mlp(seed=1)
    manager_of(KD).modify(student, sgd(student), 10, teacher=Other())
    with pytest.raises(TargetError, match="the teacher, a Other, could not be called.*wrap it in a module"):
        student(batches()[0][0])


def test_the_losses_are_told_after_the_windows_have_ended():
    student = mlp(seed=1)
    recipe = {
        "recipe": 1,
        "run": {"epochs": 2},
        "modifiers": {"a": {"type": KD, "weight": 0.5}, "b": {"type": KD, "weight": 0.3}},
    }
    manager, optimizer = paredown.ScheduledManager(paredown.Recipe.load(recipe)), sgd(student)
    manager.modify(student, optimizer, 10, teacher=mlp())
    assert manager.last_losses == {}
    train(student, optimizer, batches(), 2)
    manager.finalize()
    told = manager.last_losses
    assert told["a"] == told["b"] > 0
    assert told["injected"] == pytest.approx(0.8 * told["a"])
