"""An LSTM with rounded hidden states: torch's where nothing is rounded, a loop in float64 where it is."""

import pytest
import torch
from torch import nn

from paredown.modifiers.quantization.layers.recurrent import HiddenStates
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

SCHEME = ActivationScheme(observer="minmax")


class Whole(HiddenStates):
    def _rounded(self, x):
        return x


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_first": True},
        {"num_layers": 2, "bidirectional": True},
        {"num_layers": 2, "proj_size": 5},
        {"bias": False, "bidirectional": True, "batch_first": True},
    ],
)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_without_rounding_it_is_torch_s(settings, batched):
    torch.manual_seed(0)
    model = nn.LSTM(8, 12, **settings).double()
    x = torch.randn(*((3, 6) if batched else (6,)), 8).double()
    with torch.no_grad():
        want, got = model(x), Whole(SCHEME).around(nn.LSTM.forward, model, x)
    for one, other in zip((got[0], *got[1]), (want[0], *want[1]), strict=True):
        torch.testing.assert_close(one, other)


def rounded(x):
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round(-low / scale)
    return (torch.clamp(torch.round(x / scale) + zero, 0, 255) - zero) * scale


def test_inputs_and_states_are_rounded_in_every_step():
    torch.manual_seed(0)
    model, x = nn.LSTM(8, 12), torch.randn(6, 3, 8)
    hidden = cell = torch.zeros(3, 12)
    want = []
    with torch.no_grad():
        inputs = rounded(x)
        for step in inputs:
            gates = step @ model.weight_ih_l0.T + model.bias_ih_l0 + model.bias_hh_l0
            gates = gates + rounded(hidden) @ model.weight_hh_l0.T if hidden.any() else gates
            enter, forget, new, leave = gates.chunk(4, -1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            want.append(hidden)
        got = HiddenStates(SCHEME).around(nn.LSTM.forward, model, x)[0]
    torch.testing.assert_close(got, torch.stack(want), atol=1e-4, rtol=0)


def test_packed_sequences_are_left_to_torch():
    model = nn.LSTM(8, 12)
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 8), torch.randn(2, 8)])
    want, got = model(packed)[0], HiddenStates(SCHEME).around(nn.LSTM.forward, model, packed)[0]
    torch.testing.assert_close(got.data, want.data)
