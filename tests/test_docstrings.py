"""The examples in docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import paredown

NAMES = ["paredown", *(info.name for info in pkgutil.walk_packages(paredown.__path__, "paredown."))]
FINDER = doctest.DocTestFinder()
#: examples that are known to be wrong
WRONG = {"paredown.framework.curves": "curve_value gives 0.7000000000000001, its example says 0.7"}


@pytest.mark.parametrize("name", NAMES)
def test_examples(name, request):
    if name in WRONG:
        request.applymarker(pytest.mark.xfail(reason=WRONG[name], strict=False))
    assert not doctest.testmod(importlib.import_module(name)).failed


def test_there_are_examples():
    found = [test for name in NAMES for test in FINDER.find(importlib.import_module(name)) if test.examples]
    assert len(found) > 10
