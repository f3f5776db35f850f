"""Mistakes on the command line: a message and an exit code."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "recipe.yaml", "--task", "job:nowhere"], 2, "nowhere"),
        (["run", "recipe.yaml", "--task", "jobb:task"], 2, "jobb"),
        (["run", "recipe.yaml", "--task", "job"], 2, "module:function"),
        (["run", "recipe.yaml", "--task", "job:nothing"], 2, "returned a int"),
        (["run", "gone.yaml", "--task", "job:task"], 2, "no such file"),
        (["run", "recipe.yaml"], 2, "--task"),
        (["run", "recipe.yaml", "modifiers.prune.final=0.5", "--task", "job:task"], 1, "final_sparsity"),
        (["plan", "recipe.yaml", "modifiers.prune.targets=[Conv2d]", "--task", "job:task"], 1, "nothing to act on"),
        (["run", "recipe.yaml", "--task", "job:wordy"], 1, "evaluate returned 'well'; a number is wanted"),
        (["report", "nowhere"], 2, "nowhere"),
        (["report", "recipe.yaml"], 1, "no report"),
        (["report", "."], 2, "report.json"),
    ],
)
def test_mistakes_are_messages_with_an_exit_code(folder, paredown, arguments, code, message):
    found, out, err = paredown(*arguments)
    assert found == code, out + err
    assert message in err
