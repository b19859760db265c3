"""lead: delete this file; `PEFT_METHODS` comes from `hf_clear.tuners` (grep for `_peft_stand_in`)."""

from __future__ import annotations

from dataclasses import dataclass

from ._registry import Registry
from .tuners import ClearAdapterConfig, ClearBitFitConfig, ClearLoraConfig, ClearPromptConfig


@dataclass(frozen=True)
class PeftMethod:
    name: str
    config: type
    learning_rate: float


PEFT_METHODS: Registry[PeftMethod] = Registry("PEFT method", "register_peft_method")


def register_peft_method(name: str, config: type, learning_rate: float) -> None:
    PEFT_METHODS.add(name, PeftMethod(name, config, learning_rate))


register_peft_method("lora", ClearLoraConfig, 2e-3)
register_peft_method("adapter", ClearAdapterConfig, 3e-3)
register_peft_method("bitfit", ClearBitFitConfig, 3e-3)
register_peft_method("prompt", ClearPromptConfig, 1e-2)
