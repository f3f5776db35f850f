from old_recipes import pruning


def test_minus_one_means_the_start_and_every_step():
    modifiers, listed = pruning()
    assert {"start", "end"} & set(modifiers["prune"]) == {"end"}
    assert modifiers["prune"]["every"] == "1 steps"
    assert listed == []
