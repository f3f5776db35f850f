"""`paredown convert` as it is called: files, exit codes, what goes where."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from paredown import Recipe
from paredown.framework.cli.main import main

FOLDER = Path(__file__).parent / "recipes"


@pytest.fixture
def paredown(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["paredown", *map(str, arguments)])
        try:
            code = main() or 0
        except SystemExit as exit:
            code = exit.code or 0
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_a_complete_translation(paredown):
    code, out, err = paredown("convert", FOLDER / "global_magnitude.yaml", "--output", "new.yaml", "--strict")
    assert (code, out, err) == (0, "new.yaml: prune\n", "")
    assert list(Recipe.load("new.yaml").modifiers) == ["prune"]


def test_what_is_left_out_goes_to_standard_error_and_into_the_file(paredown):
    code, _, err = paredown("convert", FOLDER / "leftovers.yaml", "--output", "new.yaml")
    assert code == 0
    assert re.search(r"leftovers\.yaml:26: !ASRegModifier: not converted", err)
    assert "# not converted: line 26: !ASRegModifier: " in Path("new.yaml").read_text()


def test_strict_asks_for_everything(paredown):
    assert paredown("convert", FOLDER / "leftovers.yaml", "--output", "new.yaml", "--strict")[0] == 1
    assert Path("new.yaml").exists()


def test_a_difference_is_not_left_out(paredown):
    code, _, err = paredown("convert", FOLDER / "gm_cubic.yaml", "--output", "new.yaml", "--strict")
    assert code == 0
    assert "translated with a difference" in err


def test_without_output_the_recipe_is_printed(paredown):
    code, out, _ = paredown("convert", FOLDER / "global_magnitude.yaml")
    assert code == 0
    assert out.startswith("# converted from global_magnitude.yaml\nrecipe: 1\n")


def test_quiet(paredown):
    assert paredown("convert", FOLDER / "global_magnitude.yaml", "-o", "new.yaml", "--quiet") == (0, "", "")


@pytest.mark.parametrize("text", ["a: [", "a: 1", "modifiers:\n  - !!python/object/apply:os.system [ls]\n"])
def test_a_bad_file_is_a_message_and_nothing_is_written(paredown, text):
    Path("old.yaml").write_text(text)
    code, out, err = paredown("convert", "old.yaml", "--output", "new.yaml")
    assert code == 1
    assert out == ""
    assert err.startswith("old.yaml:")
    assert not Path("new.yaml").exists()


def test_an_invalid_translation_is_not_written(paredown):
    Path("old.yaml").write_text((FOLDER / "global_magnitude.yaml").read_text().replace("0.75", "7.5"))
    code, _, err = paredown("convert", "old.yaml", "--output", "new.yaml")
    assert code == 1
    assert "final_sparsity" in err
    assert not Path("new.yaml").exists()


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read(paredown, content):
    if content:
        Path("old.yaml").write_bytes(content)
    code, _, err = paredown("convert", "old.yaml", "--output", "new.yaml")
    assert code == 2
    assert "old.yaml" in err


def test_nothing_heavy_is_imported_for_the_command_line():
    code = "import sys; import paredown.integrations.conversion.command; " + (
        "print([name for name in sys.modules if name.startswith('paredown.integrations.conversion.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['paredown.integrations.conversion.command']"


def test_the_document_shows_what_comes_out(paredown):
    page = (Path(__file__).parents[3] / "docs" / "from-sparseml.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r'```yaml title="(\w+\.yaml)"[^\n]*\n(.*?)```', page, re.DOTALL))
    Path("old.yaml").write_text(blocks["old.yaml"])
    paredown("convert", "old.yaml", "--output", "new.yaml")
    assert Path("new.yaml").read_text() == blocks["new.yaml"]
