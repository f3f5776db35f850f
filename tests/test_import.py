"""`import paredown` defines things and does nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRAS = (
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "matplotlib",
    "lightning",
    "accelerate",
    "pandas",
    "safetensors",
    "compressed_tensors",
    "mlxtend",
    "sklearn",
    "hydra",
    "tensorly",
    "typer",
    "rich",
)

WATCHED = """
import sys
import torch, yaml, omegaconf
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

told = []
def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "urllib.", "http.")):
        told.append((event, str(arguments)))
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        told.append((event, str(arguments)))
    if event in ("os.mkdir", "os.remove", "os.rename"):
        told.append((event, str(arguments)))

def tables():
    classes = (yaml.SafeLoader, yaml.Loader, yaml.FullLoader, yaml.SafeDumper)
    loaders = [
        (set(c.__dict__.get("yaml_constructors", {})), set(c.__dict__.get("yaml_implicit_resolvers", {})))
        for c in classes[:3]
    ]
    return loaders, set(yaml.SafeDumper.yaml_representers), set(BaseContainer._resolvers)

before = tables()
sys.dont_write_bytecode = True
sys.addaudithook(watch)
import paredown
import logging, warnings
done = list(told)
assert not done, done
assert tables() == before
assert not logging.root.handlers and logging.root.level == logging.WARNING
named = [n for n, l in logging.root.manager.loggerDict.items() if n.startswith("paredown") and getattr(l, "handlers", 0)]
assert not named, named
"""


def python(code, *options):
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


@pytest.fixture(scope="module")
def imported():
    """The modules that torch brings, and those that paredown brings after it."""
    done = python("import torch, sys; print(*sys.modules); import paredown; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    return before, after - before


def test_no_extra_is_imported(imported):
    roots = {name.split(".")[0] for name in imported[1]}
    assert "paredown" in roots
    assert roots.isdisjoint(EXTRAS)


def test_torch_alone_brings_none_of_them_either(imported):
    """Otherwise the test above would look away."""
    assert {name.split(".")[0] for name in imported[0]}.isdisjoint(EXTRAS)


def test_no_modifier_is_looked_for(imported):
    assert not [name for name in imported[1] if name.startswith("paredown.modifiers")]


@pytest.mark.skipif(sys.platform == "win32", reason="asyncio opens a socket pair there")
def test_no_network_no_file_no_logging_no_global_table():
    done = python(WATCHED, "-W", "error::UserWarning")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_a_missing_extra_is_named_where_it_is_wanted():
    code = """
import sys
sys.modules["matplotlib"] = sys.modules["matplotlib.figure"] = None
import torch
from paredown import ParedownError, Recipe, ScheduledManager
recipe = {"recipe": 1, "run": {"epochs": 2}, "modifiers": {"p": {"type": "magnitude_pruning", "final_sparsity": 0.5}}}
plan = ScheduledManager(Recipe.load(recipe)).plan(torch.nn.Linear(4, 4))
try:
    plan.plot()
except ParedownError as error:
    print(error)
"""
    done = python(code)
    assert "pip install 'paredown[report]'" in done.stdout, done.stderr
