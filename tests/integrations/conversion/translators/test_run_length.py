from old_recipes import GM

from paredown.integrations.conversion.conversion import convert


def test_the_run_is_as_long_as_its_longest_modifier():
    text = "modifiers:\n  - !EpochRangeModifier\n    start_epoch: 0\n    end_epoch: 5\n" + GM.format(
        tag="GMPruningModifier", end=9, frequency=1, extra=""
    ).removeprefix("modifiers:\n")
    assert convert(text, "old.yaml").recipe["run"] == {"epochs": 9}
