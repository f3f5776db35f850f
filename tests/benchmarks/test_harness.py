import importlib.util
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("harness", Path(__file__).parents[2] / "benchmarks" / "harness.py")
harness = importlib.util.module_from_spec(spec)
spec.loader.exec_module(harness)


def test_turns_begin_with_each_in_turn_and_leave_out_the_warming_up():
    called = []
    calls = {name: lambda name=name: called.append(name) or len(called) for name in "abc"}
    assert harness.in_turns(calls, 2, warm_up=1) == {"a": [6, 8], "b": [4, 9], "c": [5, 7]}
    assert "".join(called) == "abcbcacab"


def test_a_table_aligns_numbers_and_text_alike(capsys):
    table = harness.Table(("what", "<6"), ("seconds", ">9.2f"), ("  note", "<"))
    table.row("one", 1.234, "  slow")
    table.row("two", "-")
    assert capsys.readouterr().out == "what    seconds  note\none        1.23  slow\ntwo           -\n"


def test_the_verdict_is_the_exit_status(capsys):
    assert harness.verdict([]) == 0
    assert harness.verdict(["one", "two"]) == 1
    assert capsys.readouterr().out == "holds\nFALLS SHORT: one\nFALLS SHORT: two\n"


def test_a_process_gives_its_last_line_or_what_it_said_when_it_failed():
    code = "import os; print('so far'); print([1, int(os.environ['NUMBER'])])"
    assert harness.printed_json([sys.executable, "-c", code], {"NUMBER": "2"}) == [1, 2]
    with pytest.raises(RuntimeError, match="ended with 1:\nno such thing"):
        harness.printed_json([sys.executable, "-c", "raise SystemExit('no such thing')"])
