import io
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from paredown import CheckpointError
from paredown.framework.storage.state import PerParameter, containers, restore, to_plain


@dataclass
class Inner:
    low: torch.Tensor
    count: int = 0


@dataclass
class Everything:
    masks: PerParameter = field(default_factory=PerParameter)
    inner: dict[str, Inner] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=torch.Generator)
    share: float = 0.0
    names: list[str] = field(default_factory=list)
    flag: bool = False


def test_a_state_survives_a_checkpoint():
    layer = nn.Linear(5, 3)
    mask = torch.rand(3, 5) > 0.5
    state = Everything(
        PerParameter({layer.weight: mask}), {"a.b": Inner(torch.tensor(-1.5), 3)}, share=0.25, names=["x"]
    )
    state.generator.manual_seed(7)
    torch.rand(3, generator=state.generator)
    file = io.BytesIO()
    torch.save(to_plain(state, {id(layer.weight): "weight"}), file)
    file.seek(0)
    other = nn.Linear(5, 3)
    back = restore(Everything, torch.load(file, weights_only=True), {"weight": other.weight}, torch.device("cpu"))
    assert torch.equal(back.masks[other.weight], mask)
    assert back.inner["a.b"].low == -1.5
    assert (back.inner["a.b"].count, back.share, back.names, back.flag) == (3, 0.25, ["x"], False)
    assert torch.equal(torch.rand(4, generator=back.generator), torch.rand(4, generator=state.generator))
    assert list(containers(back)) == [back.masks]


def test_what_does_not_fit_is_named():
    with pytest.raises(CheckpointError, match="'gone.weight'"):
        restore(Everything, {"masks": {"gone.weight": torch.ones(1)}}, {}, torch.device("cpu"))
    with pytest.raises(CheckpointError, match="old_field"):
        restore(Everything, {"old_field": 1}, {}, torch.device("cpu"))
