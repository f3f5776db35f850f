"""The teachers of a run: modules given in Python, a copy of the model, files of tensors, Hugging Face folders."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from paredown.framework.distributed.shards import sharded_in
from paredown.framework.errors import CheckpointError, ScheduleError
from paredown.framework.storage.files import read_tensors

__all__ = ["OwnTeachers", "Teachers", "frozen_copy", "teachers_in"]


class Teachers:
    """The teachers of a run.

    Args:
        model: the student, the user's own module.

    Attributes:
        initial: the frozen copy of the model as it was handed over, where one was taken.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.initial: nn.Module | None = None
        self._given: Any = None

    def take(self, given: Any) -> None:
        """Keep what the user gave: a module, a path, a list of them, or a mapping from modifier names to either."""
        self._given = self._given if given is None else given

    def given(self, owner: str) -> Sequence[Any]:
        """What the user gave for the modifier of this name."""
        if isinstance(self._given, Mapping):
            return teachers_in(self._given.get(owner))
        return teachers_in(self._given)

    def given_by_name(self, owner: str) -> Sequence[Any]:
        """What the user gave for the modifier of this name alone."""
        return self.given(owner) if isinstance(self._given, Mapping) else ()

    def of(self, owner: str, sources: Sequence[str]) -> list[nn.Module]:
        """A modifier's teachers, in eval mode: those given in Python, or those that its recipe names.

        Args:
            owner: the modifier's name.
            sources: ``initial``, or paths of files of tensors or of Hugging Face folders.

        Raises:
            ScheduleError: there is none, or it does not fit the model.
        """
        return [self._one(owner, source).eval() for source in self.given(owner) or sources]

    def check(self, owner: str, sources: Sequence[str]) -> None:
        """Raise ScheduleError where a path does not exist."""
        for source in self.given(owner) or sources:
            if not isinstance(source, nn.Module) and source != "initial" and not Path(source).exists():
                raise ScheduleError(
                    f"{owner}: the teacher {str(source)!r} does not exist; name a file of tensors or a Hugging "
                    "Face folder, or give modify(..., teacher=module)"
                )

    def keep_initial(self, owner: str, needed: bool) -> None:
        """Take a frozen copy of the model as it is now, if the modifier of this name needs one and got no teacher."""
        if not needed or self.initial is not None or self.given(owner):
            return
        if sharded_in(self.model.parameters()):
            raise ScheduleError(
                "the initial teacher is a copy of the model, and its parameters are split among processes already: "
                "call manager.prepare(model) before fully_shard, or give modify(..., teacher=module)"
            )
        self.initial = frozen_copy(self.model)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the initial teacher the tensors that a checkpoint kept. Raises CheckpointError where they do not fit."""
        if self.initial is None:
            return
        try:
            self.initial.load_state_dict(tensors)
        except RuntimeError as error:
            raise CheckpointError(f"the teacher that was kept does not fit the model: {error}") from error

    def _one(self, owner: str, source: Any) -> nn.Module:
        if isinstance(source, nn.Module):
            return source
        if source != "initial":
            return self._read(Path(source))
        if self.initial is None:
            raise ScheduleError(f"{owner}: the initial teacher was not taken; give modify(..., teacher=module)")
        return self.initial

    def _read(self, path: Path) -> nn.Module:
        if path.is_dir():
            return _hugging_face_model(path)
        tensors = read_tensors(path)
        teacher = frozen_copy(self.model if self.initial is None else self.initial)
        try:
            teacher.load_state_dict(tensors)
        except RuntimeError as error:
            raise ScheduleError(
                f"the teacher {path} does not fit the model: {error}\n"
                "A teacher of another architecture is given in Python (modify(..., teacher=module)) or lies in a "
                "Hugging Face folder"
            ) from None
        return teacher


@dataclass(frozen=True)
class OwnTeachers:
    """The teachers of one modifier; see `Teachers`."""

    teachers: Teachers
    owner: str

    @property
    def given(self) -> Sequence[Any]:
        """What the user gave for the modifier."""
        return self.teachers.given(self.owner)

    @property
    def given_by_name(self) -> Sequence[Any]:
        """What the user gave for this modifier alone."""
        return self.teachers.given_by_name(self.owner)

    def of(self, sources: Sequence[str]) -> list[nn.Module]:
        """Those that were given in Python, or those that the recipe names: see `Teachers.of`."""
        return self.teachers.of(self.owner, sources)

    def check(self, sources: Sequence[str]) -> None:
        """Raise ScheduleError where a path does not exist."""
        self.teachers.check(self.owner, sources)


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters want no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def teachers_in(given: Any) -> Sequence[Any]:
    """The teachers in what a user gives for one modifier: none, one, or a list."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, (list, tuple)) else (given,)


def _hugging_face_model(folder: Path) -> nn.Module:
    """The model of a folder that ``save_pretrained`` wrote, of the class that its configuration names.

    Nothing is downloaded, and no code of the folder runs.
    """
    try:
        import transformers
    except ImportError:
        raise ScheduleError(
            f"the teacher {folder} is a folder, which needs the package transformers: "
            "pip install 'paredown[huggingface]'"
        ) from None
    try:
        configuration = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        architecture = (configuration.architectures or ["AutoModel"])[0]
        kind: Any = getattr(transformers, architecture, transformers.AutoModel)
        model: nn.Module = kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ScheduleError(f"the teacher {folder} is no folder of a Hugging Face model: {error}") from None
    return model.eval().requires_grad_(False)
