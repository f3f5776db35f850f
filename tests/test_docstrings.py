"""The examples in docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import paredown

NAMES = ["paredown", *(info.name for info in pkgutil.walk_packages(paredown.__path__, "paredown."))]
FINDER = doctest.DocTestFinder()


@pytest.mark.parametrize("name", NAMES)
def test_examples(name):
    assert not doctest.testmod(importlib.import_module(name)).failed


def test_there_are_examples():
    found = [test for name in NAMES for test in FINDER.find(importlib.import_module(name)) if test.examples]
    assert len(found) > 10
