"""The contract of a modifier: one class, one file; its fields are its YAML fields, its docstring is its page.

A modifier is a frozen pydantic model and functions on an explicit state. The manager keeps the states, saves and
restores them (`paredown.framework.storage.state`), so no modifier writes a ``state_dict`` of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import PrivateAttr
from torch import Tensor, nn

from paredown.framework.errors import TargetError
from paredown.framework.model.targets import Selection
from paredown.framework.modifier.fields import Options, Pattern, Patterns, Trial
from paredown.framework.modifier.proposals import Proposal
from paredown.framework.modifier.run import Run
from paredown.framework.modifier.time import Span, Time
from paredown.framework.modifier.training import Training

__all__ = ["Foreseen", "Modifier", "Recalibrating", "TargetedModifier"]


@dataclass(frozen=True)
class Foreseen:
    """A line of the plan: what a modifier will do to one layer, or why it leaves it alone.

    ``parameters``, ``density`` (share of weights that stay non-zero) and ``bits`` (per weight) are those of the layer
    afterwards, where the modifier changes them.
    """

    layer: str
    effect: str
    refused: bool = False
    parameters: int | None = None
    density: float | None = None
    bits: int | None = None


#: with a few thousand, statistics are as good as those of all data (Wu & Johnson, 2021, arXiv:2105.07576, section 3)
RECALIBRATION_SAMPLES = 2048


class Modifier(Options):
    """Base of all modifiers.

    A subclass gives ``type`` a ``Literal`` with its name, and overrides what it needs of the methods below. Before a
    run: ``check``, and for the plan ``foresee`` and ``remarks``. In a run a modifier is in one of three phases, and
    the manager calls in this order:

    .. code-block:: text

        waiting ──▶ open ──────────────────────────▶ ended ──────────────────▶ (the run is finalized)
                │       │ on the grid:                │ on_step, where it holds      on_finalize
                │       │   on_update                 │ after every step             detach
                │       │ after every step:           │
                │       │   on_step                   at or after its end, once: on_update (progress 1), on_end
                │       │ after what all did at a step:
                │       │   settle                    settle, where it holds
                │
                at or after its start, once: on_start (returns the state), attach, on_update

        somebody else wrote what it holds:      put_right, before the next training forward, a checkpoint, finalize
        the run ends, apply, ``manager.done``:  unreached

        a checkpoint is loaded: rebuild (for each module that it had replaced), attach with the saved state
        the run is given up:    release instead of on_finalize and detach

    ``training`` is the run as this modifier sees it. Each call computes everything first and commits last, so that a
    failure leaves the model as it was.
    """

    #: fewest fields, beside ``type``, of a working modifier: conformance tests, schema and reference use it
    example: ClassVar[Mapping[str, Any]] = {}
    #: what it claims of a parameter ("zeros", "grid", "structure", ...): the same in overlapping windows conflicts
    claims: ClassVar[frozenset[str]] = frozenset()
    #: claims of others that had better be settled before it begins: the plan remarks where they are not
    follows: ClassVar[frozenset[str]] = frozenset()
    #: claims of others that act before it where both are due at once, wherever they stand in the recipe
    after: ClassVar[frozenset[str]] = frozenset()
    #: changes nothing of what it claims, only keeps it
    only_keeps: ClassVar[bool] = False
    #: a dataclass with the state, of what `paredown.framework.storage.state` can save; None where there is no state
    state_type: ClassVar[type | None] = None
    #: changes modules or shapes: what `ScheduledManager.prepare` does before an optimizer is built
    structural: ClassVar[bool] = False
    #: whether what it finds to be worth nothing leaves the model, so that every engine is faster without it
    removes: ClassVar[bool] = False
    #: cannot work in `ScheduledManager.apply`
    needs_training: ClassVar[bool] = False
    #: how `paredown recommend` may use it; none: it does not
    proposals: ClassVar[Sequence[Proposal]] = ()

    type: str
    start: Time = Time.parse(0)
    """When the window opens (inclusive)."""
    end: Time | None = None
    """When the final update is made. Default: the end of the run."""

    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """The key under ``modifiers`` in the recipe."""
        return self._name or self.type

    def named(self, name: str) -> Modifier:
        """The same modifier under the recipe's name."""
        copy = self.model_copy()
        copy._name = name
        return copy

    def bind(self, run: Run) -> Training:
        """A run as this modifier sees it."""
        return Training(run, self.span, kind=self.type)

    # -- when it acts --------------------------------------------------------------------------------------------

    @property
    def span(self) -> Span:
        """When it acts, as the recipe has it."""
        return Span(self.name, self.start, self.end, self.update_interval, self.acts_once)

    @property
    def update_interval(self) -> Time | None:
        """Distance between updates; None: a fiftieth of the window."""
        return None

    @property
    def acts_once(self) -> bool:
        """Whether its one update, at ``start``, is the final one."""
        return False

    @property
    def holds(self) -> bool:
        """Whether ``on_step`` goes on after the window's end."""
        return False

    def later_times(self) -> Mapping[str, Time]:
        """Further times among the fields, by field name (``freeze_observers``): checked against the run's length."""
        return {}

    # -- what it needs, and what it leaves -----------------------------------------------------------------------

    @property
    def permanent(self) -> bool:
        """Whether what it made is part of the compressed model: attached again when that is loaded for inference."""
        return not self.needs_training

    @property
    def calibrates(self) -> bool:
        """Whether it needs ``data`` in `ScheduledManager.apply`."""
        return False

    @property
    def recalibrates(self) -> bool | None:
        """Whether batch-norms are estimated anew after what it changed; None: where that can be done."""
        return False

    @property
    def recalibration_samples(self) -> int | None:
        """How much of ``data`` is used for that; None: all."""
        return RECALIBRATION_SAMPLES

    @property
    def keeps_initial_model(self) -> bool:
        """Whether it needs a frozen copy of the model as it was handed over."""
        return False

    @property
    def copies_model(self) -> bool:
        """Whether it keeps a copy of the model as it was at some time of the run."""
        return False

    @property
    def works_on_parts(self) -> bool:
        """Whether it can act on parameters that are split among processes (FSDP2, tensor parallelism)."""
        return True

    # -- before a run --------------------------------------------------------------------------------------------

    def unused_fields(self) -> Sequence[str]:
        """Fields that were set but that another field's value makes irrelevant: the plan lists them."""
        return ()

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        """The parameters that its ``claims`` are about."""
        return ()

    def check(self, training: Training) -> None:
        """Raise what is wrong with this modifier on this model, before anything is changed; cheap."""

    def objection(self, training: Training, earlier: Modifier, before: Training) -> str | None:
        """Why it cannot act right after another modifier of the recipe, where nothing is trained in between; None: it
        can. ``before`` is the run as that one sees it."""
        return None

    def remarks(self, training: Training) -> Sequence[str]:
        """Further lines of the plan."""
        return ()

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        """What it will do, layer by layer, without doing it: the plan."""
        return ()

    def trials(self, training: Training) -> Sequence[Trial]:
        """What a scan of the model's sensitivity tries: each layer alone, at several settings."""
        return ()

    def with_settings(self, training: Training, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The fields of a recipe, in plain values, that treat each layer by a setting of its own (one of its trials';
        None: it is left alone); a field that is None is to be left out. None: there are no such fields."""
        return None

    # -- in a run ------------------------------------------------------------------------------------------------

    def on_start(self, training: Training) -> Any:
        """Open the window; return the state (an instance of ``state_type``) or None."""
        return None

    def attach(self, training: Training, state: Any) -> None:
        """Build what is not state (links around forwards, teacher); after ``on_start`` and after every load."""

    def on_update(self, training: Training, state: Any) -> None:
        """Act on the grid, at ``training.progress``."""

    def on_step(self, training: Training, state: Any) -> None:
        """Act after an optimizer step."""

    def settle(self, training: Training, state: Any) -> None:
        """Act on what all modifiers have left after a step, or one of them where nothing is trained."""

    def on_end(self, training: Training, state: Any) -> None:
        """Act after the final update."""

    def on_finalize(self, training: Training, state: Any) -> None:
        """Make permanent what is to stay."""

    def detach(self, training: Training, state: Any) -> None:
        """Take off what ``attach`` built, as far as it is not part of the compressed model."""

    def release(self, training: Training, state: Any) -> None:
        """Take off everything, also what would be part of the compressed model: the run is given up."""
        training.links.remove()
        training.gradients.remove()
        training.losses.remove()
        self.detach(training, state)

    def rebuild(self, module: nn.Module, spec: Mapping[str, Any]) -> nn.Module:
        """What replaced ``module`` when ``spec`` was recorded, with any contents: a checkpoint loads them after."""
        raise TypeError(f"{self.type} replaces no modules")

    # -- what it owes --------------------------------------------------------------------------------------------

    def unreached(self, training: Training, state: Any) -> str | None:
        """What was reached and what was wanted, in numbers, at any time of the run; None: nothing is owed.

        Asked where a run ends, in ``apply`` and by ``manager.done``: also after the final update, which may have had to
        stop short of its aim, and with no state where the window was never entered.
        """
        return None

    def held(self, training: Training, state: Any) -> Sequence[nn.Parameter]:
        """The parameters of which something is held from step to step, whoever writes them."""
        return ()

    def disturbed(self, training: Training, state: Any, parameters: Sequence[nn.Parameter]) -> int:
        """How many values of some of these parameters are not as they are held."""
        return 0

    def put_right(self, training: Training, state: Any, parameters: Sequence[nn.Parameter]) -> None:
        """Bring values that somebody else wrote into some of these parameters back to what is held."""

    def conform(self, training: Training, state: Any, parameter: nn.Parameter, other: Tensor) -> None:
        """Bring the counterpart in another model of a parameter of which something is held to what is held of it:
        what is zero here is zero there."""
        other.masked_fill_((parameter == 0).to(other.device), 0)


class TargetedModifier(Modifier):
    """Base of modifiers that act on layers or parameters of the model."""

    #: the layers that are its business: the default of ``targets``, and what is taken below a name
    kinds: ClassVar[tuple[type[nn.Module], ...]] = ()

    targets: Patterns = ()
    """Class names, module names with globs, "re:" patterns. Default: the layer kinds of the family."""
    ignore: tuple[Pattern, ...] = ()
    """The same, for what is left alone."""

    def bind(self, run: Run) -> Training:
        return Training(run, self.span, Selection(self.targets, self.ignore, self.kinds), self.type)

    @property
    def works_on_parts(self) -> bool:
        return False

    def check(self, training: Training) -> None:
        reasons = self.refusals(training)
        if len(reasons) == len(training.targets()):
            raise TargetError(
                f"{training.label} would treat nothing, all that it is meant for is left alone: "
                + "; ".join(f"{name or 'the model'}: {reason}" for name, reason in reasons.items())
            )

    def refusal(self, training: Training, name: str, module: nn.Module) -> str | None:
        """Why a target is left alone, as far as that is known beforehand; None: it is treated."""
        return None

    def refusals(self, training: Training) -> dict[str, str]:
        """The targets that are left alone, with the reasons."""
        reasons = {name: self.refusal(training, name, module) for name, module in training.targets().items()}
        return {name: reason for name, reason in reasons.items() if reason}

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        weights = (module._parameters.get("weight") for module in training.targets().values())
        return [weight for weight in weights if weight is not None]

    def remarks(self, training: Training) -> Sequence[str]:
        matches = training.matches()
        lines = [f"ignore {pattern!r} matches nothing" for pattern in matches.idle_ignores]
        if matches.beside:
            lines.append(
                f"{', '.join(matches.beside)}: adapters and disabled copies are left alone unless targets name them"
            )
        return lines


class Recalibrating(Modifier):
    """Base of modifiers after which batch-norms get other inputs than those that their statistics are of."""

    recalibrate_batch_norm: bool | None = None
    """Estimate the statistics of batch-norms anew: on ``data``, where nothing is trained at once, else in ``finalize``
    where they are still those of the model before; without ``data`` from what the batches of the training loop have
    left since. Default: where ``data`` is given or the loop trains."""

    @property
    def recalibrates(self) -> bool | None:
        return self.recalibrate_batch_norm
