from paredown.integrations.conversion.conversion import convert


def test_variables_of_a_stage_keep_apart():
    text = "goal: 1\n" + "".join(
        f"{stage}_stage:\n  goal: {goal}\n  run_type: oneshot\n  a_modifiers:\n"
        f"    WandaPruningModifier:\n      sparsity: eval(goal)\n      targets: ['{goal}']\n"
        for stage, goal in (("one", 0.5), ("two", 0.25))
    )
    converted = convert(text, "old.yaml").recipe
    assert converted["variables"] == {"goal": 1, "one_goal": 0.5, "two_goal": 0.25}
    assert converted["modifiers"]["prune_2"]["final_sparsity"] == "${variables.two_goal}"
