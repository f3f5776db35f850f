import copy

import pytest
import torch
from sample_models import batches, mlp, recipe_of, train

from paredown import Recipe, ScheduledManager, ScheduleError, TargetError


def manager_of(**fields):
    return ScheduledManager(Recipe.load(recipe_of(4, distill={"type": "knowledge_distillation", **fields})))


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1)


def test_the_teacher_stands_still_in_eval_and_apart():
    student, teacher = mlp(seed=1), mlp().train()
    before, names = copy.deepcopy(teacher.state_dict()), list(student.state_dict())
    optimizer, manager = sgd(student), manager_of()
    manager.modify(student, optimizer, 10, teacher=teacher)
    assert not teacher.training
    teacher.train()
    train(student, optimizer, batches())
    assert not teacher.training
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert list(student.state_dict()) == names


def test_it_acts_in_its_window_alone():
    student = mlp(seed=1)
    optimizer, manager = sgd(student), manager_of(start=1, end=2)
    manager.modify(student, optimizer, 10, teacher=mlp())
    told = []
    train(student, optimizer, batches(), 3, after=lambda: told.append(manager.training.auxiliary is not None))
    assert told == [9 < step < 20 for step in range(1, 31)]
    assert manager.last_losses["distill"] > 0


def test_a_teacher_by_modifier_name_or_path(tmp_path):
    student, teacher = mlp(seed=1), mlp(seed=2)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    ends = []
    for given in ({"distill": teacher}, tmp_path / "teacher.pt", None):
        model = copy.deepcopy(student)
        manager = manager_of() if given is not None else manager_of(teacher=str(tmp_path / "teacher.pt"))
        optimizer = sgd(model)
        manager.modify(model, optimizer, 10, teacher=given)
        train(model, optimizer, batches(3))
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(ends[0], ends[1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ends[0], ends[2], strict=True))


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: torch.save(mlp(width=8).state_dict(), path), "does not fit the model"),
        (lambda path: torch.save(mlp(), path), "damaged, or no file of tensors"),
        (lambda path: torch.save([1, 2], path), "no state dict"),
    ],
)
def test_a_teacher_that_is_none(write, told, tmp_path):
    path = tmp_path / "teacher.pt"
    write(path)
    student = mlp()
    with pytest.raises(ScheduleError, match=told):
        manager_of(teacher=str(path)).modify(student, sgd(student), 10)
    assert type(student) is torch.nn.Sequential


def test_differing_logits_are_named():
    student = mlp()
    manager_of().modify(student, sgd(student), 10, teacher=mlp(outputs=7))
    with pytest.raises(TargetError, match=r"\(8, 4\).*\(8, 7\)"):
        student(batches()[0][0])


def test_the_initial_teacher_is_the_model_as_it_was():
    student = mlp()
    optimizer, manager = sgd(student), manager_of()
    manager.modify(student, optimizer, 10)
    teacher = manager.training.teachers.initial
    assert teacher is not student
    train(student, optimizer, batches())
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), mlp().parameters(), strict=True))
    assert not any(p.requires_grad for p in teacher.parameters())
