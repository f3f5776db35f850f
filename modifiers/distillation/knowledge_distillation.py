"""`knowledge_distillation`: a teacher's logits as a second target."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict

from paredown.framework.modifier import Modifier, Share


class KnowledgeDistillation(Modifier):
    """Distilling the knowledge in a neural network (Hinton, Vinyals & Dean, 2015, arXiv:1503.02531)."""

    example: ClassVar = {}
    needs_training: ClassVar = True

    type: Literal["knowledge_distillation"] = "knowledge_distillation"
    teacher: str = "initial"
    """``initial`` (a frozen copy of the model as it was handed over), or the path of a file with tensors."""
    temperature: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] = 4.0
    weight: Share = 0.9
