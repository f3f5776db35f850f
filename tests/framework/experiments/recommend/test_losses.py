import numpy as np
import pytest

from paredown.framework.experiments.recommend.losses import LEAST, NOISE, SHARE, LossModel
from paredown.framework.experiments.recommend.mixtures import Mixture, known_choices


def choices():
    known = known_choices(True)
    return known["shape"][0], known["zeros"][0], known["grid"][0]


def test_without_runs_a_loss_is_what_is_not_healed():
    model = LossModel()
    a, b, c = choices()
    for choice, loss in ((a, 0.4), (b, 1.7), (c, -0.1)):
        model.expect(choice, loss)
    expected = 0.4 * a.proposal.healed + b.proposal.healed
    assert model.of(Mixture((a, b, c)), model.estimates()) == pytest.approx(expected)


def test_runs_move_the_estimates_as_the_joint_distribution_says():
    """Against the information form of the posterior (Bishop, 2006, equations 3.53 and 3.54), in NumPy."""
    model = LossModel()
    a, b, c = choices()
    for choice in (a, b, c):
        model.expect(choice, 0.5)
    runs = [(Mixture((a,)), 0.02), (Mixture((a, b)), 0.2), (Mixture((b, c)), 0.1)]
    for run in runs:
        model.learn(*run)
    keys = [each.key for each in (a, b, c)]
    mean = np.array([model.priors[key] for key in keys])
    precision = np.diag((SHARE * mean + LEAST) ** -2.0)
    rows = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]])
    information = precision @ mean + rows.T @ np.array([0.02, 0.2, 0.1]) / NOISE**2
    expected = np.linalg.inv(precision + rows.T @ rows / NOISE**2) @ information
    found = model.estimates()
    np.testing.assert_allclose([found[key] for key in keys], expected, rtol=1e-9)
