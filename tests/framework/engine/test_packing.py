import pytest
import torch

from paredown import ExportError
from paredown.framework.engine.contract import Engine, Session, Written
from paredown.framework.engine.opening import opened_apart
from paredown.framework.engine.packing import pack, require_packing
from paredown.framework.engine.profile import Profile
from paredown.framework.engine.registry import engines


class Opened(Session):
    def __init__(self, text):
        self.text = text

    def run(self, example_inputs):
        return (torch.tensor([float("nan"), -0.0, float("other" in self.text)]),)

    @property
    def operators(self):
        return {"product": 2, "gather": self.text.count("_") + ("Gather" in self.text)}


class Folding(Engine):
    """Its file is a text: the names of packed constants, with a line in front of those whose unpacking is left."""

    name, version = "folding", "1"
    profile = Profile(folds={"Gather": frozenset()})

    def __init__(self, unfolded=(), extra=""):
        self.unfolded, self.extra = unfolded, extra

    def write(self, model, example_inputs, path, *, forward=None, dynamic=("batch",), **options):
        return Written(path)

    def open(self, path, *, threads=1, results=None):
        return Opened(path.read_text())

    def pack(self, path, target, plain=()):
        names = [name for name in "abc" if name not in plain]
        target.write_text(" ".join("_" + name if name in self.unfolded else name for name in names) + self.extra)
        return {name: f"layer {name}" for name in names}


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "model.txt"
    found.write_text("plain" * 20)
    return found


def test_what_the_engine_folds_is_packed(path):
    made = pack(Folding(), path, [None], measured=False)
    assert (made.constants, made.plain_bytes, made.remarks) == (3, 100, ())
    assert path.read_text() == "a b c"


@pytest.mark.parametrize("unfolded", ["b", "ac", "abc"])
def test_what_it_does_not_fold_stays_and_is_named(path, unfolded):
    made = pack(Folding(unfolded=unfolded), path, [None], measured=False)
    packed = [name for name in "abc" if name not in unfolded]
    assert made.constants == len(packed)
    assert path.read_text() == " ".join(packed)
    assert [remark.split(":")[0] for remark in made.remarks] == [
        f"layer {name} stays as it is in the file" for name in unfolded
    ]


@pytest.mark.parametrize(("extra", "message"), [(" Gather", "another graph"), (" other", "other outputs")])
def test_a_file_that_is_another_one_is_refused_and_the_plain_one_stays(path, extra, message):
    with pytest.raises(ExportError, match=message):
        pack(Folding(extra=extra), path, [None], measured=False)
    assert path.read_text() == "plain" * 20


def test_a_file_gets_no_larger(path):
    made = pack(Folding(extra=" " * 200), path, [None], measured=False)
    assert made.constants == 0
    assert path.read_text() == "plain" * 20


def test_engines_that_fold_nothing_are_refused_by_name():
    packing = {name for name, engine in engines().items() if engine.profile.folds}
    assert packing == {"onnxruntime", "openvino"}
    with pytest.raises(ExportError, match="executorch .*zip.* onnxruntime and openvino"):
        require_packing(engines()["executorch"]())


def test_opening_is_measured_in_a_process_of_its_own():
    found = opened_apart(("import time", "bytearray(b'1' * 50_000_000)"))
    assert found.seconds > 0
    assert found.peak is None or 40e6 < found.peak < 150e6
    assert opened_apart(("import nothing_like_it", "1")) is None
    assert opened_apart(None) is None
