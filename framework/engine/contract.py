"""`Engine`, the contract of a program that runs models: writes its file, opens it, says what it computes.

.. code-block:: text

    profile ──▶ a recipe simulates it        write ──▶ file ──▶ open ──▶ Session: run, layers
                                               └──▶ Written: which value of the file is which layer's result

Adding an engine is two new files: the module in `paredown.integrations.engines` (or behind an entry point of the group
``paredown.engines``) and its test.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from paredown.framework.engine.profile import Profile
from paredown.framework.errors import ExportError
from paredown.framework.model.forward import Forward

__all__ = ["Engine", "Session", "Written"]


@dataclass(frozen=True)
class Written:
    """A file that an engine wrote.

    Attributes:
        path: the file, or the folder.
        results: by the name of a layer the name that its result has in the file.
        modules: by the name of a layer the module whose result that is, where it is another one's: of a convolution
            with a folded batch-norm the latter's.
        dynamic: whether the batch may be of any size.
        remarks: what a user must know of it.
    """

    path: Path
    results: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    dynamic: bool = True
    remarks: Sequence[str] = ()


class Session(ABC):
    """A file opened in its engine."""

    @abstractmethod
    def run(self, example_inputs: Any) -> tuple[Tensor, ...]:
        """The outputs for a tensor, a tuple of positional arguments, or a dict of named ones."""

    def run_inside(self, example_inputs: Any) -> Mapping[str, Tensor]:
        """The results of the layers that it was opened with, by layer; none where the engine hands none out."""
        return {}

    @property
    def operators(self) -> Mapping[str, int]:
        """How often each operator is in the graph that the engine made of the file, by the engine's names."""
        return {}

    @property
    def layers(self) -> Mapping[str, str]:
        """By the name of a layer "integer" or "float": how it is computed, as far as the engine tells."""
        return {}


class Engine(ABC):
    """A program that runs models. Subclasses are found by their ``name``."""

    name: ClassVar[str]
    #: what it computes
    profile: ClassVar[Profile] = Profile()
    #: modules that it imports, and the command that installs them
    needs: ClassVar[Sequence[str]] = ()
    install: ClassVar[str] = ""
    #: of its files
    suffix: ClassVar[str] = ""
    #: why the time that a session takes is not that of the file where it is used; None: it is
    untimed: ClassVar[str | None] = None

    @classmethod
    def missing(cls) -> str | None:
        """What is not installed, and the command that installs it; None: nothing is missing."""
        absent = [module for module in cls.needs if importlib.util.find_spec(module) is None]
        return f"the engine {cls.name} needs {', '.join(absent)}: {cls.install}" if absent else None

    @classmethod
    def require(cls) -> None:
        """Raise ExportError where something is not installed."""
        missing = cls.missing()
        if missing is not None:
            raise ExportError(missing)

    @property
    def version(self) -> str:
        """Of the program that is installed."""
        return importlib.metadata.version(self.name)

    @abstractmethod
    def write(
        self,
        model: nn.Module,
        example_inputs: Any,
        path: Path,
        *,
        forward: Forward | None = None,
        dynamic: Sequence[str] = ("batch",),
        **options: Any,
    ) -> Written:
        """Write a model, with the quantizers that it has; the model stays as it is.

        Args:
            example_inputs: a tensor, a tuple of positional arguments, or a dict of named ones.
            forward: called as ``forward(model, example_inputs)`` where the above does not fit.
            dynamic: ``("batch",)``: the first dimension of the inputs may be any; ``()``: all shapes are fixed.
            options: of this engine alone.

        Raises:
            ExportError: something cannot be written; the message names the layer.
        """

    def mend(self, path: Path, samples: Sequence[Any], layers: Sequence[str]) -> str | None:
        """Rewrite a file that this engine wrote and that computes something else on this machine.

        Args:
            samples: arguments of the model with which that was seen.
            layers: those whose results part from the simulation's, in their order, where they are known.

        Returns:
            What a user must know of it; None: there is nothing to mend.
        """
        return None

    def pack(self, path: Path, target: Path, plain: Collection[str] = ()) -> Mapping[str, str]:
        """Write a file that this engine wrote anew, with its constants packed and operators of ``profile.folds`` that
        unpack them; of an engine that folds none it is not called.

        Args:
            path: the file; it stays.
            target: what is written.
            plain: the names of constants that stay as they are.

        Returns:
            The constants that are packed: by the name of each what a user is told of it.
        """
        raise NotImplementedError

    def opening(self, path: Path) -> tuple[str, str] | None:
        """What opens a file in a process of its own: Python that imports what is needed, and an expression."""
        return None

    @abstractmethod
    def open(self, path: Path, *, threads: int = 1, results: Mapping[str, str] | None = None) -> Session:
        """Open a file.

        Args:
            threads: in which it computes.
            results: of `Written`: what `Session.run_inside` is to hand out.
        """

    def zeros_pay(self, model: nn.Module, example_inputs: Any, forward: Forward | None = None) -> str:
        """What zeros in a model's weights are worth in time here, in words.

        Args: see `write`.
        """
        return "zeros are not skipped"

    def packed_bytes(self, path: Path) -> int | None:
        """The size of a file that this engine wrote where zeros and few bits are stored as such; None: it reads no such
        file."""
        if not self.profile.folds:
            return None
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / path.name
            self.pack(path, target)
            return self.bytes(target)

    def files(self, path: Path) -> list[Path]:
        """The file, and those beside it that belong to it; of a folder all that are in it."""
        if path.is_dir():
            return [each for each in path.rglob("*") if each.is_file()]
        return [each for each in (path, path.with_name(f"{path.name}.data")) if each.is_file()]

    def bytes(self, path: Path) -> int:
        """The size of them together."""
        return sum(each.stat().st_size for each in self.files(path))
