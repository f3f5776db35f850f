"""`paredown schema`."""

import json


def test_schema(paredown, tmp_path):
    assert json.loads(paredown("schema")[1])["title"] == "paredown recipe"
    assert paredown("schema", "--output", "s.json")[0] == 0
    assert "magnitude_pruning" in json.loads((tmp_path / "s.json").read_text())["$defs"]
