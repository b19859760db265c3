"""PEFT methods, one file each: its config, its registration with peft, and how its layers are gated."""

from .adapter import ClearAdapterConfig
from .base import export_to_peft
from .bitfit import ClearBitFitConfig
from .lora import ClearLoraConfig
from .prompt import ClearPromptConfig

__all__ = ["ClearAdapterConfig", "ClearBitFitConfig", "ClearLoraConfig", "ClearPromptConfig", "export_to_peft"]
