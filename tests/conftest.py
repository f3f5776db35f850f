"""Settings of all tests: random numbers that do not depend on the order of the tests, and patience on a busy machine."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("busy machine")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
