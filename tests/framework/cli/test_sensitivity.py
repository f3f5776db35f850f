"""`paredown sensitivity`: a table, data, a page; wrong use is told."""

import json
import sys

import pytest
from sample_models import batches, mlp

from paredown import Recipe, ScheduledManager
from paredown.framework.cli.main import main
from paredown.framework.modifier.curves import share_of

TASK = """
import torch
from sample_models import batches, mlp
from paredown import Task


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


PRUNE = """
recipe: 1
name: mine
run: {epochs: 2}
variables: {sparsity: 0.9}
results: [{task: another, dense: {accuracies: [0.5]}}]
modifiers:
  prune:
    type: KIND
    final_sparsity: ${variables.sparsity}
"""


def reached(path):
    """Zeros by layer after applying a recipe."""
    model = mlp()
    ScheduledManager.from_yaml(path).apply(model, data=batches(4), example_inputs=(batches(1)[0][0],))
    return {
        name: int((module.weight == 0).sum()) for name, module in model.named_modules() if hasattr(module, "weight")
    }


@pytest.mark.parametrize("measure", ["output", "loss"])
@pytest.mark.parametrize("kind", ["magnitude_pruning", "taylor_pruning", "wanda_pruning"])
def test_a_recipe_with_a_share_for_each_layer(command, tmp_path, kind, measure):
    (tmp_path / "mine.yaml").write_text(PRUNE.replace("KIND", kind))
    code, out, _ = command(
        *("mine.yaml", "--task", "small_task:task", "--measure", measure, "--json"),
        *("--recipe", "made/by-layer.yaml", "--target", "0.8"),
    )
    assert code == 0
    told = json.loads(out)
    assert told["measure"] == measure
    assert told["recipe"]["path"] == "made/by-layer.yaml"
    recipe = Recipe.load("made/by-layer.yaml")
    prune = recipe.modifiers["prune"]
    assert prune.final_sparsity is None
    assert not recipe.results
    assert prune.scope.layers == {name: share or 0.0 for name, share in told["recipe"]["settings"].items()}
    zeros = reached("made/by-layer.yaml")
    sizes = {name: module.weight.numel() for name, module in mlp().named_modules() if hasattr(module, "weight")}
    assert zeros == {name: share_of(prune.scope.layers[name], size) for name, size in sizes.items()}
    assert told["recipe"]["reached"] == pytest.approx(sum(zeros.values()) / sum(sizes.values()))
    assert 0.8 <= told["recipe"]["reached"] < 0.9


def test_the_share_that_is_reached_is_told_and_shares_are_hundredths(command, tmp_path):
    arguments = ("prune90", "--task", "small_task:task", "--recipe", "r.yaml", "--target", "0.5")
    code, out, _ = command(*arguments, "--measure", "loss", "--output", "s.html")
    assert code == 0
    assert "rise of the loss" in out
    assert "50% zeros" in out
    assert "r.yaml written: it reaches 0." in out
    page = (tmp_path / "s.html").read_text()
    assert "rise of the loss, over % zeros" in page
    assert "at 95 % zeros" in page
    assert command(*arguments, "--quiet")[:2] == (0, "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("prune90", "--recipe", "r.yaml"), "go together"),
        (("prune90", "--target", "0.5"), "go together"),
        (("prune90", "--recipe", "r.txt", "--target", "0.5"), ".yaml or .yml"),
        (("prune90", "--recipe", "r.yaml", "--target", "1.5"), "less than or equal to 1"),
        (("prune90", "--recipe", "r.yaml", "--target", "0.99"), "0.99 cannot be met"),
        (("prune90", "modifiers.prune.structure=2:4", "~modifiers.prune.final_sparsity"), "no fields"),
        (("int8",), "no fields"),
        (("prune90", "--measure", "accuracy"), "accuracy"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_recipe_that_cannot_be_written(command, tmp_path, arguments, told):
    if told == "no fields":
        arguments = (*arguments, "--recipe", "r.yaml", "--target", "0.5")
    code, out, err = command(*arguments, "--task", "small_task:task")
    assert code == 2
    assert told in " ".join(err.replace("│", " ").split())
    assert out == "" or "scan" in out or "dense" in out
    assert not (tmp_path / "r.yaml").exists()


def test_wrong_use(command, tmp_path):
    assert command("int8", "--task", "small_task:task", "--output", "s.txt")[0] == 2
    (tmp_path / "freeze.yaml").write_text("recipe: 1\nmodifiers: {still: {type: freeze, targets: ['0']}}\n")
    code, _, err = command("freeze.yaml", "--task", "small_task:task")
    assert code == 1
    assert "none of still has settings to try" in err
