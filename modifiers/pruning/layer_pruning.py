"""`layer_pruning`: whole layers of low worth leave the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field

from paredown.framework.errors import TargetError
from paredown.framework.measure.counts import measure_model
from paredown.framework.modifier.base import Foreseen
from paredown.framework.modifier.curves import share_of
from paredown.framework.modifier.fields import Share
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.removal.base import StructuredPruning
from paredown.modifiers.pruning.removal.channels import configuration_of, settings_for
from paredown.modifiers.pruning.removal.layer_trial import Setting, left_out, tried
from paredown.modifiers.pruning.removal.whole_layers import Layer, find_layers
from paredown.modifiers.pruning.scoring.criterion import criterion_named
from paredown.modifiers.pruning.scoring.scores import scores_now

__all__ = ["LayerPruning", "LayerState"]

BLOCK_INFLUENCE = "block_influence"


def _known(name: str) -> str:
    if name != BLOCK_INFLUENCE:
        criterion_named(name)
    return name


@dataclass
class LayerState:
    """How far the removal of layers has come.

    Attributes:
        original: layers before anything was removed.
        costs: of the model before anything was removed, by the budget's kinds.
        gone: layers that were removed.
        reached: of these costs what is left, as shares.
        refused: layers that turned out to be needed, with the reason.
    """

    original: int = 0
    costs: dict[str, float] = field(default_factory=dict)
    gone: int = 0
    reached: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


class LayerPruning(StructuredPruning):
    """Layer pruning (ShortGPT, Men et al., 2024, arXiv:2403.03853): whole layers are removed, the least needed first.

    A layer is a child of an ``nn.ModuleList`` or ``nn.Sequential``, with parts of its own, whose input and output have
    one shape, so that the model runs without it: a transformer's layers, residual blocks. Its worth is the block
    influence, 1 - cos(input, output), the mean over ``data`` or else over the example inputs (Eq. 1); or a criterion's
    mean score over its weights. Each removal is tried out first: the model without the layer has to give what it gives
    with the layer's input passed on. Those behind it move up, attributes that number them (``layer_idx``) and a Hugging
    Face config's number of layers follow. At least one layer of each list stays.
    """

    example: ClassVar = {"final_sparsity": 0.5}
    state_type: ClassVar = LayerState

    type: Literal["layer_pruning"] = "layer_pruning"
    final_sparsity: Share | None = Field(None, validate_default=True)
    """Share of the layers that is removed from the end of the window on."""
    criterion: Annotated[str, AfterValidator(_known)] = BLOCK_INFLUENCE
    """What a layer is worth: ``block_influence``, or the name of a mask modifier without ``_pruning``."""

    @property
    def wanted_share(self) -> float | None:
        return self.final_sparsity

    @property
    def calibrates(self) -> bool:
        if self.criterion == BLOCK_INFLUENCE:
            return False
        criterion = criterion_named(self.criterion)
        return criterion.needs in ("data", "gradients")

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        if not training.data.has_example or self.calibrates:
            return []
        layers, reasons = find_layers(training)
        state = self._begun(training, LayerState(), layers, reasons)
        chosen, _, refused = self._chosen(training, state, layers, self.aim(1.0))
        lines = [Foreseen(name, reason, refused=True) for name, reason in {**reasons, **refused}.items()]
        return lines + [Foreseen(layer.name, f"removed (influence {layer.influence:.3g})") for layer in chosen]

    def on_start(self, training: Training) -> LayerState:
        return LayerState()

    def on_update(self, training: Training, state: LayerState) -> None:
        aim = self.aim(training.progress)
        if self.aims_at_nothing(aim):
            return
        layers, reasons = find_layers(training)
        if not state.original:
            self._begun(training, state, layers, reasons)
        chosen, attributes, refused = self._chosen(training, state, layers, aim)
        settings, remark = self._settings(training, chosen, attributes)
        training.refuse({**reasons, **refused})
        self._commit(training, chosen, attributes, settings)
        if remark is not None:
            training.record("configuration", remark=remark)
        state.gone += len(chosen)
        state.refused = dict(refused)
        state.reached = {kind: self._cost(training, (), (), kind) / cost for kind, cost in state.costs.items()}
        training.record("update", sparsity=state.gone / max(state.original, 1))

    def unreached(self, training: Training, state: LayerState | None) -> str | None:
        state = state or LayerState()
        total = max(state.original, 1)
        missed = self.missed_budget(state.reached) or self.missed_share(state.gone / total, slack=0.5 / total)
        refused = "; ".join(f"{name}: {reason}" for name, reason in list(state.refused.items())[:3])
        return missed and missed + (f" ({refused})" if refused else "")

    # -- inside ------------------------------------------------------------------------------------------------------

    def _begun(
        self, training: Training, state: LayerState, layers: Sequence[Layer], reasons: Mapping[str, str]
    ) -> LayerState:
        if not layers:
            named = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
            raise TargetError(f"{self.name}: no layer can be removed ({named or 'no list of layers is a target'})")
        state.original = len(layers)
        if self.budget is not None:
            state.costs = {kind: self._cost(training, (), (), kind) for kind in self.budget.shares}
        return state

    def _chosen(
        self, training: Training, state: LayerState, layers: Sequence[Layer], aim: float
    ) -> tuple[list[Layer], tuple[Setting, ...], dict[str, str]]:
        """The layers that go, least needed first, the attributes that come with it, and the layers that the code
        turned out to need."""
        refused: dict[str, str] = {}
        chosen: list[Layer] = []
        attributes: tuple[Setting, ...] = ()
        for layer in self._ranked(training, layers):
            if self._enough(training, state, chosen, attributes, aim):
                break
            if not self._may_go(layer, layers, chosen, state, aim):
                continue
            attempt = sorted([*chosen, layer], key=lambda each: layers.index(each))
            trial = tried(training, attempt)
            if trial.reason is None:
                chosen, attributes = attempt, trial.attributes
            else:
                refused[layer.name] = trial.reason
        return chosen, attributes, refused

    def _ranked(self, training: Training, layers: Sequence[Layer]) -> list[Layer]:
        if self.criterion == BLOCK_INFLUENCE:
            return sorted(layers, key=lambda layer: layer.influence)
        criterion = criterion_named(self.criterion)
        weights = {f"{layer.name}.{key}": each for layer in layers for key, each in layer.module.named_parameters()}
        scores = scores_now(criterion, training, weights)
        worth = {}
        for layer in layers:
            own = [score for name, score in scores.items() if name.startswith(f"{layer.name}.")]
            total = sum(float(score.double().sum()) for score in own)
            mean = torch.tensor(total / max(sum(score.numel() for score in own), 1))
            worth[layer.name] = float(criterion.combined(mean))
        return sorted(layers, key=lambda layer: worth[layer.name])

    def _enough(
        self,
        training: Training,
        state: LayerState,
        chosen: Sequence[Layer],
        attributes: Sequence[Setting],
        aim: float,
    ) -> bool:
        if self.budget is not None:
            allowed = {kind: share * state.costs[kind] for kind, share in self.allowed(aim).items()}
            return all(self._cost(training, chosen, attributes, kind) <= most for kind, most in allowed.items())
        return state.gone + len(chosen) >= share_of(aim, state.original)

    def _may_go(
        self, layer: Layer, layers: Sequence[Layer], chosen: Sequence[Layer], state: LayerState, aim: float
    ) -> bool:
        """Whether something of its list stays, and, with ``scope: local``, its list has not lost its share yet."""
        own = [each for each in layers if each.container == layer.container]
        gone = sum(each.container == layer.container for each in chosen)
        if gone + 1 >= len(own):
            return False
        return self.scope == "global" or self.budget is not None or gone < max(1, share_of(aim, len(own)))

    def _cost(self, training: Training, chosen: Sequence[Layer], attributes: Sequence[Setting], kind: str) -> float:
        example = training.data.example()
        assert example is not None
        with left_out(training.model, chosen, attributes):
            if kind == "latency":
                return training.latency({"it": training.model}, *example)["it"].median
            measured = measure_model(training.model, *(example if kind == "macs" else ()))
        return float(measured.parameters if kind == "parameters" else measured.weight_macs or 0)

    def _settings(
        self, training: Training, chosen: Sequence[Layer], changed: Sequence[Setting]
    ) -> tuple[list[tuple[str, Any]], str | None]:
        """What the model's config is to say: the number of layers, and lists with an entry for each."""
        config, example = configuration_of(training.model), training.data.example()
        if config is None or not chosen or example is None:
            return [], None
        containers = {layer.container for layer in chosen}
        if len(containers) > 1:
            return [], "its layers are in several lists: the config is left as it was"
        before = len(training.model.get_submodule(chosen[0].container))  # type: ignore[arg-type]
        after = before - len(chosen)
        gone = {layer.index for layer in chosen}
        lists = [
            (f"config.{key}", [each for place, each in enumerate(value) if place not in gone])
            for key, value in vars(config).items()
            if isinstance(value, list) and len(value) == before
        ]
        remark = None
        with left_out(training.model, chosen, changed):
            for some in _subsets(lists):
                attributes, reason = settings_for(training.model, {before: [after]}, *example, lists=some)
                if reason is None:
                    return [*some, *((each.key, each.value) for each in attributes)], None
                remark = remark or reason
        return [], remark

    def _commit(
        self,
        training: Training,
        chosen: Sequence[Layer],
        attributes: Sequence[Setting],
        settings: Sequence[tuple[str, Any]],
    ) -> None:
        for name, key, value in attributes:
            training.surgery.set_attribute(name, key, value)
        for container in dict.fromkeys(layer.container for layer in chosen):
            indices = [layer.index for layer in chosen if layer.container == container]
            training.surgery.remove(container, indices)
        for key, value in settings:
            training.surgery.set_attribute("", key, value)
        for layer in chosen:
            training.record("remove", layer=layer.name, influence=layer.influence)


def _subsets(lists: Sequence[tuple[str, list[Any]]]) -> Iterator[Sequence[tuple[str, list[Any]]]]:
    """Which lists may have an entry for each layer: those not of tokens, none, each alone, all."""
    likely = [each for each in lists if "token" not in each[0]]
    yield likely
    if likely:
        yield ()
    if len(lists) > 1:
        yield from ([each] for each in lists)
    if len(likely) < len(lists):
        yield lists
