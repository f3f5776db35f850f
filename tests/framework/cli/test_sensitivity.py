"""`paredown sensitivity`: a table, data, a page; wrong use is told."""

import json
import sys

import pytest
from sample_models import mlp

from paredown.framework.cli.main import main

TASK = """
import torch
from sample_models import batches, mlp
from paredown.framework.cli.task import Task


def task():
    return Task(
        name="small", build_model=mlp, train_loader=batches(4), evaluate=lambda model: 0.5,
        loss=torch.nn.functional.cross_entropy, optimizer=lambda model: torch.optim.SGD(model.parameters(), 0.1),
        example_inputs=(batches(1)[0][0],), dense_epochs=1,
    )
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    (tmp_path / "small_task.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["paredown", "sensitivity", *arguments])
        try:
            code = main() or 0
        except SystemExit as exit:
            code = exit.code or 0
        told = capsys.readouterr()
        return code, told.out, told.err

    yield run
    sys.modules.pop("small_task", None)


def test_a_row_a_layer_and_fewer_bits_hurt_more(command):
    code, out, _ = command("int8", "--task", "small_task:task", "--json")
    assert code == 0
    rows = json.loads(out)["sensitivities"]
    assert {row["layer"] for row in rows} == {
        name for name, module in mlp().named_modules() if hasattr(module, "weight")
    }
    for layer in {row["layer"] for row in rows}:
        errors = {row["setting"]: row["error"] for row in rows if row["layer"] == layer}
        assert errors[8] < errors[4] < errors[2]


def test_the_table_and_the_page(command, tmp_path):
    code, out, _ = command("int8", "--task", "small_task:task", "--samples", "8", "--output", "s.html")
    assert code == 0
    assert "8 bits" in out
    assert "relative squared error" in out
    page = (tmp_path / "s.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert command("int8", "--task", "small_task:task", "--output", "s.json", "--quiet")[:2] == (0, "")
    assert json.loads((tmp_path / "s.json").read_text())["sensitivities"]


def test_wrong_use(command):
    assert command("int8", "--task", "small_task:task", "--output", "s.txt")[0] == 2
    code, _, err = command("prune90", "--task", "small_task:task")
    assert code == 1
    assert "none of prune has settings to try" in err
