"""What trackers get of a run: read back from their own files."""

import subprocess
import sys

import pytest
import torch
from sample_models import batches, mlp, pruning, recipe_of, train

from paredown import Recipe, ScheduledManager
from paredown.integrations.trackers import MLflow, TensorBoard, WeightsAndBiases

RECIPE = recipe_of(
    4,
    prune=pruning(0.75, every=0.5),
    quantize={"type": "quantization_aware_training", "start": 3, "freeze_observers": 3.5},
    distill={"type": "knowledge_distillation", "weight": 0.5, "temperature": 4},
)


def run(listen):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    manager = ScheduledManager(Recipe.load(RECIPE))
    manager.events.listeners.append(listen(manager))
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(10), 4)
    manager.finalize()
    return manager


class Kept:
    """Stands in for a run of Weights & Biases."""

    def __init__(self):
        self.rows = []

    def log(self, row):
        self.rows.append(row)


def test_every_event_is_told():
    kept = Kept()
    manager = run(lambda manager: WeightsAndBiases(manager, kept))
    shares = [(row["optimizer step"], row["prune/sparsity"]) for row in kept.rows if "prune/sparsity" in row]
    assert shares == [(e["step"], e["sparsity"]) for e in manager.events if e["event"] == "update" and "sparsity" in e]
    assert shares[-1] == (30, 0.75)
    titles = [row["event"] for row in kept.rows if "event" in row]
    assert [title for title in titles if title.startswith("prune")] == [
        "prune: start",
        "prune: end",
        "prune: finalize",
    ]
    assert "quantize: freeze observers" in titles
    last = [row for row in kept.rows if "sparsity/2" in row][-1]
    zeros = int((manager.run.model[2].weight == 0).sum())
    assert last["sparsity/2"] == pytest.approx(zeros / (32 * 32 + 32))
    assert last["bits/2"] < 32
    assert any(row.get("loss/distill", 0) > 0 for row in kept.rows)


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(lambda manager: TensorBoard(manager, tmp_path))
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert found.Scalars("prune/sparsity")[-1].value == 0.75
    assert found.Scalars("prune/sparsity")[-1].step == 30
    assert "loss/distill" in found.Tags()["scalars"]
    assert "events/text_summary" in found.Tags()["tensors"]


@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path.as_uri())
    mlflow.set_experiment("pruning")
    with mlflow.start_run() as active:
        run(MLflow)
    history = mlflow.tracking.MlflowClient().get_metric_history(active.info.run_id, "prune/sparsity")
    assert (history[-1].step, history[-1].value) == (30, 0.75)
    assert "step 30: prune: end" in mlflow.get_run(active.info.run_id).data.tags


OFFLINE = """
import test_trackers, wandb
from paredown.integrations.trackers import WeightsAndBiases
with wandb.init(project="paredown", mode="offline", dir=".") as run:
    test_trackers.run(lambda manager: WeightsAndBiases(manager, run))
    print("SHARE", run.summary["prune/sparsity"])
"""


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path):
    pytest.importorskip("wandb")
    from pathlib import Path

    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(tests), str(tests.parent)]!r}\n{OFFLINE}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "SHARE 0.75" in done.stdout, done.stderr
    assert list(tmp_path.rglob("*.wandb"))
