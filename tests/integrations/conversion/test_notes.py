from pathlib import Path

from paredown.integrations.conversion.conversion import convert


def test_every_leftover_of_a_recipe_has_its_line():
    path = Path(__file__).parent / "recipes" / "leftovers.yaml"
    lines = path.read_text().splitlines()
    converted = convert(path.read_text(), path.name)
    tags = {line.strip().removeprefix("- ") for line in lines if "!" in line}
    told = {note.subject.split(".")[0].split(":")[0] for note in converted.notes.notes}
    assert tags - told == {"!EpochRangeModifier"}
    for note in converted.notes.notes:
        word = note.subject.partition(".")[2] or note.subject
        assert word.rpartition(": ")[2].removeprefix("bias") in lines[note.line - 1], note
