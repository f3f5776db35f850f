"""`svd_decomposition`: two thin layers in place of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict
from torch import Tensor, nn

from paredown.framework.modifier import Foreseen, TargetedModifier
from paredown.framework.training import Training
from paredown.framework.weights import refuse_not_finite
from paredown.modifiers.decomposition.factorization import rank_for_energy, rank_for_ratio, truncated_svd_factors
from paredown.modifiers.decomposition.guard import layer_inputs, slower_by_latency, slower_by_rule
from paredown.modifiers.decomposition.layers import (
    Convolution,
    as_matrix,
    factorized,
    matrix_shape,
    reason_to_refuse,
    skeleton,
)
from paredown.modifiers.decomposition.ranks import Energy, Rank, Ratio

NOTHING_CHANGED = "it cannot be decomposed; nothing was changed"


class SvdDecomposition(TargetedModifier):
    """Truncated singular value decomposition: W of (out, in) becomes two factors of rank r, the optimum of that rank.

    By the Eckart-Young theorem no other matrix of rank r is nearer to W in the Frobenius norm. A Linear becomes a
    Linear (in, r) without bias and a Linear (r, out). A Conv2d is factorized in its matrix form, ``channel`` (k x k to
    r channels, then 1 x 1; Zhang et al., 2015, arXiv:1505.06798) or ``spatial`` (k x 1, then 1 x k; Jaderberg et al.,
    2014, arXiv:1405.3866); stride, padding and dilation are kept. The factors share the singular values evenly, so
    that both train well.

    It acts once, at ``start``: the layers are ordinary ones in an ``nn.Sequential``, the new parameters take the old
    one's place in the optimizer. What would not pay (``guard``), or cannot be done, is left alone with the reason in
    the plan.
    """

    example: ClassVar = {"rank": 2, "guard": "none"}
    claims: ClassVar = frozenset({"structure"})
    kinds: ClassVar = (nn.Linear, nn.Conv2d)
    structural: ClassVar = True

    type: Literal["svd_decomposition"] = "svd_decomposition"
    rank: Rank = Ratio(ratio=2.0)
    """An integer (clamped to the full rank), ``{ratio: 2}`` (the layer's parameters divided by two) or
    ``{energy: 0.95}`` (the share of the squared singular values that is kept)."""
    convolution: Convolution = "spatial"
    """The matrix form of a Conv2d; a 1 x 1 kernel is the same in both."""
    guard: Literal["latency", "rule", "none"] | None = None
    """What decides whether a layer pays: measured latency, a rule of thumb, or nothing. Default: latency where
    ``example_inputs`` are given, else the rule."""
    min_speedup: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] = 1.05
    """What ``guard: latency`` asks for."""

    @property
    def acts_once(self) -> bool:
        return True

    def unused_fields(self) -> Sequence[str]:
        idle = self.guard in ("rule", "none") and "min_speedup" in self.model_fields_set
        return ["min_speedup"] if idle else []

    def check(self, training: Training) -> None:
        super().check(training)
        for name, module in training.targets(self).items():
            refuse_not_finite(name, module, NOTHING_CHANGED)

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        targets = training.targets(self)
        inputs = self._inputs(training, targets)
        lines = []
        for name, module in targets.items():
            rank, reason = self._rank_or_reason(training, name, module, inputs.get(name))
            lines.append(Foreseen(name, reason, refused=True) if reason else self._foreseen(name, module, rank))
        return lines

    def on_update(self, training: Training, state: None) -> None:
        targets = training.targets(self)
        inputs = self._inputs(training, targets)
        done = {}
        for name, module in targets.items():
            rank, reason = self._rank_or_reason(training, name, module, inputs.get(name))
            if reason:
                training.record(self, "left alone", layer=name, reason=reason)
            else:
                done[name] = self._decomposed(name, module, rank), rank
        for name, (new, rank) in done.items():
            training.surgery.replace(name, new, self.name, {"rank": rank, "convolution": self.convolution})
            training.record(self, "decompose", layer=name, rank=rank)

    def rebuild(self, module: nn.Module, spec: Mapping[str, Any]) -> nn.Module:
        return skeleton(module, spec["rank"], spec["convolution"])

    def _rank_or_reason(
        self, training: Training, name: str, module: nn.Module, inputs: Tensor | None
    ) -> tuple[int, str | None]:
        """The layer's rank, and why it is left alone, if it is."""
        reason = reason_to_refuse(training.model, name, module, training.states)
        if reason:
            return 0, reason
        rank = self._rank(module)
        return rank, self._slower(module, rank, inputs)

    def _decomposed(self, name: str, module: nn.Module, rank: int) -> nn.Sequential:
        refuse_not_finite(name, module, NOTHING_CHANGED)
        left, right = truncated_svd_factors(as_matrix(module, self.convolution), rank)
        return factorized(module, left, right, self.convolution)

    def _rank(self, module: nn.Module) -> int:
        rows, columns = matrix_shape(module, self.convolution)
        if isinstance(self.rank, Ratio):
            return rank_for_ratio(rows, columns, self.rank.ratio)
        if isinstance(self.rank, Energy):
            return rank_for_energy(as_matrix(module, self.convolution), self.rank.energy)
        return min(self.rank, rows, columns)

    def _slower(self, module: nn.Module, rank: int, inputs: Tensor | None) -> str | None:
        if self.guard == "none":
            return None
        if self.guard == "rule" or inputs is None:
            return slower_by_rule(module, matrix_shape(module, self.convolution), rank)
        return slower_by_latency(module, skeleton(module, rank, self.convolution), inputs, self.min_speedup)

    def _inputs(self, training: Training, targets: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        measured = self.guard in (None, "latency") and training.example_inputs is not None
        return layer_inputs(training, self, targets) if measured else {}

    def _foreseen(self, name: str, module: nn.Module, rank: int) -> Foreseen:
        rows, columns = matrix_shape(module, self.convolution)
        bias = module._parameters.get("bias")
        parameters = rank * (rows + columns) + (0 if bias is None else bias.numel())
        return Foreseen(name, f"rank {rank} of {min(rows, columns)}", parameters=parameters)
