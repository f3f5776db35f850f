"""Engines are found by name."""

import subprocess
import sys

import pytest

from paredown.framework.engine.registry import engine_called, engines
from paredown.framework.errors import ExportError


def test_the_built_in_engines():
    assert {"executorch", "gguf", "inductor", "onnxruntime", "openvino", "tensorrt", "torch"} <= set(engines())
    assert all(engine.name == name for name, engine in engines().items())


def test_an_unknown_one_is_an_error_with_the_nearest_name():
    with pytest.raises(ExportError, match=r"unknown engine 'openvno'; the engines are .*did you mean 'openvino'\?"):
        engine_called("openvno")


MISSING = """
import sys
sys.modules["openvino"] = None
from paredown.framework.engine.registry import engine_called, engines
from paredown.framework.errors import ExportError
engines()
assert not {"onnx", "onnxruntime"} & set(sys.modules)
try:
    engine_called("openvino")
except ExportError as error:
    assert "pip install 'paredown[openvino]'" in str(error), error
else:
    raise AssertionError
"""


def test_finding_them_imports_no_program_and_what_is_missing_is_named():
    subprocess.run([sys.executable, "-c", MISSING], check=True, timeout=120)
