from torch import nn, randn

from paredown.framework.measure.latency import measure_latency


def test_latency_orders_models_by_work():
    small, large = nn.Linear(512, 8), nn.Sequential(*[nn.Linear(512, 512) for _ in range(8)])
    found = measure_latency({"small": small, "large": large}, randn(64, 512), repetitions=10)
    quick, slow = found["small"], found["large"]
    assert quick.median < slow.median
    assert slow.low <= slow.median <= slow.high
