"""PEFT methods, one file each: its config, its registration with peft, and how its layers are gated."""

from .lora import ClearLoraConfig

__all__ = ["ClearLoraConfig"]
