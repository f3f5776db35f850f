"""The command `paredown`: help, versions, and exit code 2 for wrong use."""

import re


def test_wrong_use(paredown):
    for arguments in (
        ["validate", "no.yaml"],
        ["validate", "a.b=3"],
        ["validate", "--bad"],
        ["recipes", "show", "nix"],
        ["nix"],
    ):
        assert paredown(*arguments)[0] == 2


def test_help_has_examples(paredown):
    for arguments in (["validate"], ["recipes", "list"], ["recipes", "show"], ["schema"]):
        code, out, _ = paredown(*arguments, "--help")
        assert code == 0
        assert "Examples" in out or "yaml-language-server" in out


def test_version(paredown):
    code, out, _ = paredown("--version")
    assert code == 0
    assert re.match(r"paredown \S+, torch \d+\.\d+\S*, python 3\.\d+", out)
