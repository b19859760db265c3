"""What is inside: the model of a PEFT model, the tokenizer of a trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from peft import PeftMixedModel, PeftModel
from torch import nn

if TYPE_CHECKING:
    from transformers import Trainer


def base_of(model: nn.Module) -> nn.Module:
    """The base model of a model of peft, with the adapter's layers in it; any other model as it is."""
    if isinstance(model, PeftMixedModel):  # which is no `PeftModel`
        return cast(nn.Module, model.base_model.model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def processing_class_of(trainer: Trainer) -> Any:
    """What `Trainer` saves beside a model: its tokenizer or other processing class or, if it was given none, that of
    the collator. None if there is neither."""
    own = trainer.processing_class
    return getattr(trainer.data_collator, "tokenizer", None) if own is None else own
