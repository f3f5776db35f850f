import statistics
import subprocess
import sys
import time

import pytest
import torch
from torch import nn, randn

from paredown.framework.measure.latency import measure_latency


@pytest.fixture
def busy():
    """Six processes that take what they get of the cores."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


class Watched(nn.Module):
    """Counts its calls, and the threads that torch has in them."""

    def __init__(self):
        super().__init__()
        self.threads = []

    def forward(self, x):
        self.threads.append(torch.get_num_threads())
        return x


class Waiting(nn.Module):
    def forward(self, x):
        time.sleep(0.02)
        return x


def convolutions(channels):
    return nn.Sequential(*[nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4)])


def seconds_by_hand(calls):
    """The median CPU time of each of some calls, in turns."""
    taken = [[] for _ in calls]
    with torch.no_grad():
        for _ in range(30):
            for call, times in zip(calls, taken, strict=True):
                begin = time.thread_time()
                call()
                times.append(time.thread_time() - begin)
    return [statistics.median(times) for times in taken]


def test_latency_orders_models_by_work():
    small, large = nn.Linear(512, 8), nn.Sequential(*[nn.Linear(512, 512) for _ in range(8)])
    found = measure_latency({"small": small, "large": large}, randn(64, 512), repetitions=10)
    quick, slow = found["small"], found["large"]
    assert quick.median < slow.median
    assert slow.low <= slow.median <= slow.high


def test_other_processes_change_nothing(busy):
    small, large = convolutions(8), convolutions(32)
    inputs = {small: randn(4, 8, 16, 16), large: randn(4, 32, 16, 16)}
    found = measure_latency({"small": small, "large": large}, inputs, lambda model, given: model(given[model]))
    by_hand = seconds_by_hand([lambda: small(inputs[small]), lambda: large(inputs[large])])
    assert found["large"].median / found["small"].median == pytest.approx(by_hand[1] / by_hand[0], rel=0.3)


def test_waiting_is_no_latency():
    assert measure_latency({"it": Waiting()}, randn(1), repetitions=5)["it"].median < 5


def test_torch_has_one_thread_meanwhile(two_threads):
    model = Watched()
    measure_latency({"it": model}, randn(1), repetitions=2)
    assert set(model.threads) == {1}
    assert torch.get_num_threads() == 2


def test_threads_come_back_after_an_error(two_threads):
    with pytest.raises(RuntimeError):
        measure_latency({"it": nn.Linear(4, 4)}, randn(3))
    assert torch.get_num_threads() == 2


def test_a_short_forward_is_run_many_times():
    short, long = Watched(), Watched()

    def forward(model, x):
        begin = time.thread_time()
        while model is long and time.thread_time() - begin < 1e-3:
            pass
        return model(x)

    measure_latency({"short": short, "long": long}, randn(1), forward, repetitions=4, warm_up=2)
    assert len(long.threads) == 6
    assert len(short.threads) > 60


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_device_is_timed_by_the_wall_clock_until_it_is_done():
    model, x = nn.Linear(8192, 8192).cuda(), randn(8192, 8192).cuda()
    found = measure_latency({"it": model}, x, repetitions=5)["it"]
    begin = time.perf_counter()
    with torch.no_grad():
        model(x)
    torch.cuda.synchronize()
    assert found.median == pytest.approx(1e3 * (time.perf_counter() - begin), rel=0.5)
