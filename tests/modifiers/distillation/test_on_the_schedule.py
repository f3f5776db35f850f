"""Every kind of distillation with every other family in one recipe: it ends the same wherever it is interrupted."""

import torch
from resuming import assert_resumes, going
from sample_models import batches, conv_net, recipe_of

from paredown import Recipe, ScheduledManager

KD = {"type": "knowledge_distillation"}
MODIFIERS = {
    "low": {"type": "svd_decomposition", "targets": ["head"], "rank": 3, "start": 1, "guard": "none"},
    "prune": {"type": "magnitude_pruning", "targets": ["Conv2d"], "final_sparsity": 0.5, "start": 1, "end": 4},
    "quantize": {"type": "quantization_aware_training", "targets": ["Conv2d"], "start": 3},
    "again": {**KD, "weight": 0.3, "teacher": "start", "start": 2},
    "average": {**KD, "weight": 0.2, "teacher": "ema", "decay": 0.7, "start": 2.5},
    "features": {
        "type": "feature_distillation",
        "pairs": {"body": "body"},
        "weight": 0.1,
        "teacher": "start",
        "start": 3.5,
    },
    "peers": {"type": "mutual_learning", "weight": 0.1, "start": 1.5},
    "exits": {"type": "self_distillation", "exits": ["norm"], "weight": 0.1, "start": 0.5},
}


def begun():
    model = conv_net(3, channels=16)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = ScheduledManager(Recipe.load(recipe_of(6, **MODIFIERS)))
    manager.modify(model, optimizer, 4)
    return model, optimizer, manager


go = going(batches(4, image=True))


def test_all_together_resume(tmp_path):
    model = assert_resumes(begun, go, 24, (0, 3, 6, 9, 12, 15, 20), tmp_path)
    assert sum(int((m.weight == 0).sum()) for m in (model.stem, model.body)) > 0
    assert not hasattr(model, "exits")
