"""The command line in this process, in an empty folder."""

import sys

import pytest

from paredown.framework.cli.main import main


@pytest.fixture
def paredown(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["paredown", *arguments])
        try:
            code = main()
        except SystemExit as exit:
            code = exit.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code or 0, out, err

    return run
