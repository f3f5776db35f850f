import copy
import json

import jsonschema
from small_recipes import recipe

from paredown import Recipe


def test_schema():
    schema = Recipe.schema()
    json.dumps(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    good = recipe(variables={"s": 0.5})
    good["modifiers"]["prune"]["final_sparsity"] = "${variables.s}"
    check.validate(good)
    check.validate({"recipe": 1, "extends": "a.yaml", "modifiers": {"prune": None, "x": {"end": 3}}})
    for wrong in ({"final_sparsity": 2}, {"curv": 1}, {"type": "x"}):
        bad = copy.deepcopy(good)
        bad["modifiers"]["prune"].update(wrong)
        assert not check.is_valid(bad)
    assert not check.is_valid({"recipe": 2, "modifiers": {}})
    fields = schema["$defs"]["magnitude_pruning"]["properties"]
    assert fields["final_sparsity"]["description"]
    assert fields["start"]["default"] == 0
