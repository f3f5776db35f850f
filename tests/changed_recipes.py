"""A recipe with two modifiers, and copies of it in which one value is another."""

import json

BASE = {
    "recipe": 1,
    "name": "base",
    "run": {"epochs": 4},
    "variables": {"s": 0.5},
    "modifiers": {
        "prune": {"type": "magnitude_pruning", "start": 1, "end": 3, "every": 0.5, "final_sparsity": "${variables.s}"},
        "quantize": {"type": "quantization_aware_training", "start": 3},
    },
}


def changed(path, value, base=BASE):
    """A copy of plain values, with another value at a dotted path."""
    copy = json.loads(json.dumps(base))
    *above, last = path.split(".")
    place = copy
    for key in above:
        place = place[key]
    place[last] = value
    return copy
