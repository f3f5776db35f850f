"""The public face, exactly."""

import inspect

import paredown

NAMES = {
    "CheckpointError",
    "ExportError",
    "Modifier",
    "ParedownError",
    "Plan",
    "Recipe",
    "RecipeError",
    "Recommendation",
    "Report",
    "ScheduleError",
    "ScheduledManager",
    "TargetError",
    "Task",
    "Time",
    "Training",
    "export",
    "load",
    "recommend",
    "register",
    "resume",
    "save",
}


def test_all_is_exactly_the_public_names():
    assert set(paredown.__all__) == NAMES
    assert len(paredown.__all__) == len(NAMES)


def test_nothing_else_is_public():
    # modules are there because a sub-package was imported; a version is no name to import
    public = {name for name, value in vars(paredown).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert public == NAMES


def test_every_public_name_is_documented():
    assert not [name for name in NAMES if not inspect.getdoc(getattr(paredown, name))]


def test_the_tree_of_errors():
    for name in ("RecipeError", "ScheduleError", "TargetError", "CheckpointError", "ExportError"):
        assert issubclass(getattr(paredown, name), paredown.ParedownError)
