"""A task is found by its name, and its accuracy is a number."""

import dataclasses

import pytest
import tiny_task

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
