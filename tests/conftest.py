"""Settings of all tests: one thread, random numbers that do not depend on the order, patience on a busy machine."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
torch.set_num_threads(1)  # tests run side by side, and small models are many times slower with more
settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("busy machine")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
