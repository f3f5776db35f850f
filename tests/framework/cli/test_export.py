"""`paredown export`, `paredown compare` and `paredown run --export`: from a run to a file."""

import json
import zipfile

import pytest

onnxruntime = pytest.importorskip("onnxruntime")


def test_from_a_run_to_a_file_and_its_table(folder, paredown):
    code, out, err = paredown("run", "recipe.yaml", "--task", "job:task", "--output", "out", "--export", "onnxruntime")
    assert code == 0, err
    assert "for onnxruntime" in out
    session = onnxruntime.InferenceSession("out/model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1] == 6

    code, out, err = paredown(
        "export", "out", "--task", "job:task", "--output", "new/m.onnx", "--zip", "--json", "--allow-slower"
    )
    assert code == 0, err
    told = json.loads(out)
    assert told["bytes"] == (folder / "new" / "m.onnx").stat().st_size
    assert told["zip_bytes"] == (folder / "new" / "m.onnx.zip").stat().st_size
    assert zipfile.ZipFile(folder / "new" / "m.onnx.zip").namelist() == ["m.onnx"]

    code, out, err = paredown(
        "export", "out", "--task", "job:task", "--output", "new/p.onnx", "--packed", "--json", "--allow-slower"
    )
    assert code == 0, err
    assert json.loads(out)["plain_bytes"] == told["bytes"] >= json.loads(out)["bytes"]

    code, out, err = paredown("compare", "out", "--task", "job:task")
    assert code == 0, err
    assert "simulated" in out
    assert "Linear" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", ".", "--task", "job:task", "--output", "m.onnx"), "holds no checkpoint.pt"),
        (("run", "recipe.yaml", "--task", "job:task", "--export", "onnxruntim"), "did you mean 'onnxruntime'?"),
        (("run", "recipe.yaml", "--task", "job:task", "--export", "torch", "--packed"), "packed=True: torch computes"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(folder, paredown, arguments, message):
    code, out, err = paredown(*arguments)
    assert code in (1, 2)
    assert message in " ".join(err.split())
    assert "Plan of" not in out
