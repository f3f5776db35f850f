"""A task is found by its name, and its accuracy is a number."""

import dataclasses
import sys

import pytest
import tiny_task
import torch

from paredown import ParedownError, Task
from paredown.framework.errors import ArgumentError
from paredown.framework.experiments.task import load_task


def test_a_task_by_its_name():
    assert isinstance(load_task("tiny_task:task"), Task)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tiny_task", "write module:function"),
        (":task", "write module:function"),
        ("tiny_tusk:task", "cannot be imported"),
        ("tiny_task:nothing", "cannot be imported"),
        ("tiny_task:Batches.__class__", "cannot be imported"),
        ("tempfile:gettempdir", "returned a str; a paredown.Task is wanted"),
    ],
)
def test_a_wrong_name(source, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        load_task(source)
    assert caught.value.argument == "task"


def test_an_accuracy_is_a_number():
    task = dataclasses.replace(tiny_task.task(), evaluate=lambda model: "well")
    with pytest.raises(ParedownError, match="evaluate returned 'well'; a number is wanted"):
        task.measure(task.build_model())


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of a name that nothing else has, in a folder that is not the current one."""
    names = []

    def written(text, folder="."):
        name = f"job_{tmp_path.name}_{len(names)}".replace("-", "_")
        names.append(name)
        path = tmp_path / folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    monkeypatch.setattr(sys, "path", list(sys.path))
    yield written
    for name in [name for name in sys.modules if name.rpartition(".")[2] in names]:
        sys.modules.pop(name)


def test_a_task_by_its_file(module):
    assert isinstance(load_task(f"{module('from tiny_task import task')}:task"), Task)


def test_a_task_in_a_file_of_a_package(module, tmp_path):
    package = tmp_path / "package_of_tasks"
    path = module("from package_of_tasks.other import task", "package_of_tasks")
    (package / "__init__.py").touch()
    (package / "other.py").write_text("from tiny_task import task")
    assert isinstance(load_task(f"{path.name}:task", folder=package), Task)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def task(:", "cannot be imported"),
        ("import no_such_package", "No module named 'no_such_package'"),
        ("def task():\n    return 1 / 0", "failed: ZeroDivisionError: division by zero .*, line 2"),
        ("def task():\n    return None.x", "cannot be imported: .*, line 2"),
    ],
)
def test_a_mistake_in_a_task_has_its_line(module, text, message):
    with pytest.raises(ArgumentError, match=message):
        load_task(f"{module(text)}:task")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ArgumentError, match="no such file"):
        load_task(f"{tmp_path / 'nothing.py'}:task")


def test_a_metric_that_is_declared_is_returned():
    task = dataclasses.replace(tiny_task.task(), metrics={"f1": "max", "recall": "max"})
    with pytest.raises(ParedownError, match="metrics declares 'f1'"):
        task.measure(task.build_model())
    named = dataclasses.replace(tiny_task.task(), metrics={"f1": "max"})
    assert list(named.measure(named.build_model())) == ["f1"]


def test_batches_without_labels_have_no_loss():
    task = tiny_task.named_arguments()
    with pytest.raises(ParedownError, match=r"give Task\(loss=\.\.\.\)"):
        task.loss_of(task.build_model()(torch.zeros(2, 6)), {"x": torch.zeros(2, 6)})
