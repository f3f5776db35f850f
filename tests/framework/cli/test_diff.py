"""`paredown diff`: the differences of two recipes."""

import json

import yaml
from changed_recipes import BASE, changed


def test_diff(paredown, tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "b.yaml").write_text("# other\n" + yaml.safe_dump(changed("modifiers.prune.end", 2), sort_keys=False))
    code, out, err = paredown("diff", "a.yaml", "b.yaml")
    assert (code, err) == (1, "")
    assert [line.split() for line in out.splitlines() if line.startswith(("modifiers.prune.end", "prune"))] == [
        ["modifiers.prune.end", "3", "2"],
        ["prune", "1", "to", "3", "1", "to", "2"],
    ]
    assert paredown("diff", "a.yaml", "a.yaml")[:2] == (0, "a.yaml and a.yaml mean the same\n")
    assert json.loads(paredown("diff", "a.yaml", "b.yaml", "--json")[1]) == [
        {"path": "modifiers.prune.end", "first": 3, "second": 2}
    ]
    assert paredown("diff", "a.yaml", "nowhere.yaml")[0] == 2
