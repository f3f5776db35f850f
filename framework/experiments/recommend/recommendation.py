"""`Recommendation`: the recipe that was found, its proof, and why this one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.framework.experiments.recommend.budgets import COSTS, Budget
from paredown.framework.experiments.recommend.mixtures import NAMES
from paredown.framework.experiments.recommend.search import Candidate
from paredown.framework.recipe import Recipe
from paredown.framework.report import Report
from paredown.framework.report.page import page, section, source, table
from paredown.framework.storage.files import write_text

__all__ = ["Recommendation"]


@dataclass(frozen=True)
class Recommendation:
    """What `paredown.recommend` found.

    Attributes:
        recipe: an ordinary one, with its `results`.
        met: whether all budgets are met, by the file and the model that were made.
        report: of the run of the recipe.
        budgets: what was asked for.
        candidates: what was tried, the best first.
        reasons: what was left out, and why; what to try next.
        dense: costs and metrics of the dense model.
        one_shot: whether the recipe is applied without training.
        file: the best candidate's model for the engine; None where it could not be written.
    """

    recipe: Recipe
    met: bool
    report: Report
    budgets: Sequence[Budget]
    candidates: Sequence[Candidate]
    reasons: Sequence[str]
    dense: Mapping[str, float]
    one_shot: bool
    file: Path | None

    @property
    def best(self) -> Candidate:
        """The candidate that the recipe does."""
        return self.candidates[0]

    @property
    def front(self) -> list[Candidate]:
        """The candidates that no other one is better than in every budgeted quantity."""
        return [one for one in self.candidates if not any(self._dominates(other, one) for other in self.candidates)]

    def __str__(self) -> str:
        head = "met" if self.met else "not met; this is the nearest"
        lines = [f"{head}: {self.best.mixture.words}", *(f"  {line}" for line in self._budget_lines())]
        lines += ["", *_columns([self._head(), *map(self._cells, self.candidates)])]
        return "\n".join([*lines, *(f"note: {reason}" for reason in self.reasons)])

    def save(self, folder: str | Path) -> Path:
        """Write recipe.yaml, recommendation.html, report.html, report.json and the engine's file into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "recipe.yaml", self.recipe_text())
        write_text(folder / "recommendation.html", self.page())
        self.report.save(folder / "report.html")
        self.report.save(folder / "report.json")
        for each in () if self.file is None else self.file.parent.glob(f"{self.file.stem}.*"):
            if each.parent != folder:
                shutil.copy2(each, folder / each.name)
        return folder

    def recipe_text(self) -> str:
        """The recipe's YAML, with the evidence for each choice as comments."""
        words = {NAMES[each.proposal.stage]: each.proposal.words for each in self.best.mixture.choices}
        lines = []
        for line in self.recipe.to_yaml().splitlines():
            name = line.strip().rstrip(":")
            if line.startswith("  ") and not line.startswith("   ") and name in words:
                lines.append(f"  # {words[name]}")
            lines.append(line)
        return "\n".join([*(f"# {line}" for line in self._budget_lines()), *lines, ""])

    def page(self) -> str:
        """A page that opens offline: budgets, candidates, reasons and the recipe."""
        content = section("Budgets", "".join(f"<p>{line}</p>" for line in map(_escaped, self._budget_lines())))
        content += section("Candidates", table(self._head(), map(self._cells, self.candidates), [0]))
        front = [(self._name(one), *self._values(one)) for one in self.front]
        content += section("Not beaten in everything", table(("what", *self._quantities()), front, [0]))
        content += section("Left out, and next", "".join(f"<p>{_escaped(reason)}</p>" for reason in self.reasons))
        return page("Recommendation", content + section("Recipe", source(self.recipe_text())), "")

    def to_json(self) -> dict[str, Any]:
        """The same as values that JSON can hold."""
        return {
            "met": self.met,
            "recipe": self.recipe.resolved(),
            "budgets": [one.text for one in self.budgets],
            "candidates": [
                {"what": one.mixture.words, "epochs": one.epochs, **one.costs, **one.measured, "misses": one.excess}
                for one in self.candidates
            ],
            "dense": dict(self.dense),
            "reasons": list(self.reasons),
            "file": None if self.file is None else str(self.file),
        }

    def _budget_lines(self) -> list[str]:
        values = {**self.best.costs, **self.best.measured}
        return [one.shown(values.get(one.name, float("nan")), self.dense[one.name]) for one in self.budgets]

    def _quantities(self) -> list[str]:
        costs = [name for name in COSTS if any(name in one.costs for one in self.candidates)]
        return [*costs, *dict.fromkeys(name for one in self.candidates for name in one.measured)]

    def _head(self) -> tuple[str, ...]:
        return ("what", "epochs", *self._quantities(), "")

    def _cells(self, one: Candidate) -> tuple[str, ...]:
        state = "misses " + ", ".join(one.excess) if one.excess else "meets all"
        return (self._name(one), f"{one.epochs:g}", *self._values(one), state)

    def _name(self, one: Candidate) -> str:
        return one.mixture.words

    def _values(self, one: Candidate) -> list[str]:
        return [_shown(one, name, self.dense) for name in self._quantities()]

    def _dominates(self, one: Candidate, other: Candidate) -> bool:
        """Whether a candidate is at least as good in every budgeted quantity, and better in one."""
        mine_of, theirs_of = ({**each.costs, **each.measured} for each in (one, other))
        pairs = [(mine_of.get(b.name, 0.0), theirs_of.get(b.name, 0.0), b.most) for b in self.budgets]
        better = [mine < theirs if most else mine > theirs for mine, theirs, most in pairs]
        worse = [mine > theirs if most else mine < theirs for mine, theirs, most in pairs]
        return any(better) and not any(worse)


def _shown(one: Candidate, name: str, dense: Mapping[str, float]) -> str:
    if name in one.measured:
        return f"{one.measured[name]:.4f}"
    if name not in one.costs:
        return ""
    return f"{one.costs[name]:,.4g} ({one.costs[name] / max(dense[name], 1e-12):.3g}x)"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
