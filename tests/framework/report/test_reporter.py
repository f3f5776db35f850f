"""The versions in a report; the reports of runs are tested in `run`."""

import importlib.metadata

from paredown.framework.report.reporter import versions


def test_the_version_is_that_of_the_installed_package(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", {"paredown": "9.8"}.__getitem__)
    assert versions()["paredown"] == "9.8"


def test_a_checkout_that_is_not_installed_has_no_version(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert versions()["paredown"] == "not installed"
