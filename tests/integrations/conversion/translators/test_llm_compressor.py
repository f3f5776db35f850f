from old_recipes import new_of


def test_groups_in_a_stage_that_is_trained():
    text = (
        "num_epochs: 9\na_stage:\n  run_type: train\n  a_modifiers:\n    QuantizationModifier:\n      start: 2\n"
        "      disable_quantization_observer_epoch: 5\n      config_groups:\n        one: {weights: {num_bits: 4}}\n"
    )
    new = new_of(text)[0]["quantize"]
    assert (new["type"], new["start"], new["freeze_observers"]) == ("quantization_aware_training", 2, 5)
    assert new["activations"] is None
