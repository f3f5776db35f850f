"""How much worse a mixture is expected to make a model: learned from what single choices do, and from short runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from paredown.framework.experiments.recommend.mixtures import Choice, Mixture

__all__ = ["LossModel"]

#: standard deviation of what a run's loss is off by, beside what its choices explain
NOISE = 0.01
#: of the prior of a choice's loss: a share of it, and at least
SHARE, LEAST = 0.7, 0.01


@dataclass
class LossModel:
    """The loss of a mixture as the sum of the losses of its choices: Bayesian linear regression with Gaussian priors
    (Bishop, 2006, Pattern Recognition and Machine Learning, equations 3.50 and 3.51).

    A loss is by how much the metric that decides is worse than the dense model's, as a share of that.

    Attributes:
        priors: by the key of a choice, the loss that is expected of it after training.
        runs: of the mixtures that were trained, the losses.
    """

    priors: dict[str, float] = field(default_factory=dict)
    runs: list[tuple[Mixture, float]] = field(default_factory=list)

    def expect(self, choice: Choice, at_once: float) -> None:
        """Give the prior of a choice: the loss that it brings without training, as far as that is not healed."""
        self.priors[choice.key] = choice.proposal.healed * min(max(at_once, 0.0), 1.0)

    def learn(self, mixture: Mixture, loss: float) -> None:
        """Take over the loss of a run."""
        self.runs.append((mixture, min(max(loss, -1.0), 1.0)))

    def estimates(self) -> Mapping[str, float]:
        """By the key of a choice, its loss: the mean of the posterior."""
        keys = sorted(self.priors)
        if not keys or not self.runs:
            return self.priors
        mean = torch.tensor([self.priors[key] for key in keys], dtype=torch.float64)
        rows = torch.stack([_row(mixture, keys) for mixture, _ in self.runs])
        off = torch.tensor([loss for _, loss in self.runs], dtype=torch.float64) - rows @ mean
        covariance = torch.diag((SHARE * mean + LEAST).square())
        seen = rows @ covariance @ rows.T + NOISE**2 * torch.eye(len(rows), dtype=torch.float64)
        moved = mean + covariance @ rows.T @ torch.linalg.solve(seen, off)
        return dict(zip(keys, moved.tolist(), strict=True))

    def of(self, mixture: Mixture, estimates: Mapping[str, float]) -> float:
        """The expected loss of a mixture."""
        return sum(estimates.get(choice.key, 0.0) for choice in mixture.choices)


def _row(mixture: Mixture, keys: Sequence[str]) -> Tensor:
    own = {choice.key for choice in mixture.choices}
    return torch.tensor([float(key in own) for key in keys], dtype=torch.float64)
