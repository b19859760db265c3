"""PEFT methods, one file each: its config, its registration with peft, and how its layers are gated."""

from ._base import RoutedLayerConfig, export_to_peft, note_loading
from ._merging import can_be_merged
from ._table import PEFT_METHODS, PeftMethod, register_peft_method
from .adapter import ClearAdapterConfig
from .bitfit import ClearBitFitConfig
from .lora import ClearLoraConfig
from .prompt import ClearPromptConfig

__all__ = [
    "PEFT_METHODS",
    "ClearAdapterConfig",
    "ClearBitFitConfig",
    "ClearLoraConfig",
    "ClearPromptConfig",
    "PeftMethod",
    "RoutedLayerConfig",
    "can_be_merged",
    "export_to_peft",
    "note_loading",
    "register_peft_method",
]
