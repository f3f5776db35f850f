import json

import torch
from sample_models import batches, mlp, pruning, recipe_of, train

from paredown import Recipe, ScheduledManager
from paredown.integrations.trackers import JsonLines


def test_events_are_kept_told_and_written(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = ScheduledManager(Recipe.load(recipe_of(2, prune=pruning(0.5, 0, 1, every=0.5))))
    heard = []
    manager.events.listeners += [heard.append, JsonLines(tmp_path / "events.jsonl")]
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(), 2)
    manager.finalize()
    assert [(e["step"], e["event"]) for e in manager.events] == [
        (0, "start"),
        (0, "update"),
        (5, "update"),
        (10, "update"),
        (10, "end"),
        (20, "finalize"),
    ]
    assert heard == list(manager.events)
    assert [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()] == heard
