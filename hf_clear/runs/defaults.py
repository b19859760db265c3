"""The defaults that some arguments ask for in others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import Trainer

from ..hub.paths import check_model_name
from ..mixin import ClearMixin
from ..presets import PRESETS, preset
from ..training_args import ClearArguments
from ..tuners import PEFT_METHODS
from .effects import Run, check_effects
from .models import is_adapter, peft_method_of
from .training_arguments import FULL_FINE_TUNING, default_learning_rate, steps_asked_for

BOTH = ("none", "clear")  # what `--method both` compares


def run_defaults(given: Mapping[str, Any], methods: Mapping[str, tuple[str, type[Trainer]]]) -> dict[str, Any]:
    """The learning rate that suits the method, what `--preset` stands for, the PEFT method of a model that is an
    adapter, and what is done between the epochs. For [`parse_arguments`]: what is given goes before them.

    Args:
        given (`Mapping[str, Any]`): the arguments that are given, by name.
        methods (`Mapping[str, tuple[str, type[Trainer]]]`): title and trainer of each `--method`.

    Raises:
        ValueError: if an argument has no effect ([`check_effects`]), or there is nothing to do.
    """
    method = given.get("method", "clear")
    model: Any = given.get("model_name_or_path")
    peft_method = given.get("peft_method") or (FULL_FINE_TUNING if method == "turn" else "lora")
    if peft_method not in (FULL_FINE_TUNING, *PEFT_METHODS) or method not in ("both", *methods):
        return {}  # refused when all arguments are looked at, as is a preset that there is not
    for name in ("model_name_or_path", "config_name", "tokenizer_name"):
        if given.get(name) is not None:
            check_model_name(given[name], f"--{name}")
    trainers = [methods[name][1] for name in (BOTH if method == "both" else (method,))]
    check_effects(Run(given, method, trainers, peft_method, is_adapter(model)))
    settings = steps_asked_for(given)
    if is_adapter(model):
        peft_method = settings["peft_method"] = peft_method_of(model) or peft_method
    settings["learning_rate"] = default_learning_rate(peft_method)
    if given.get("preset") in PRESETS and peft_method != FULL_FINE_TUNING:
        settings |= preset(given["preset"], peft_method)
        if given["preset"] == "official":
            settings |= {"lora_r": 4, "lora_alpha": 1} if peft_method == "lora" else {}
            settings |= {"adapter_size": 16} if peft_method == "adapter" else {}
    if any(issubclass(trainer, ClearMixin) for trainer in trainers) and peft_method != FULL_FINE_TUNING:
        _check_idle({**settings, **given}, given)
    return settings


def _check_idle(values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuses settings of CleaR that have no effect beside the others."""
    own = [field.name for field in dataclasses.fields(ClearArguments)]
    try:
        idle = ClearArguments(**{name: values[name] for name in own if name in values}).idle_settings()
    except ValueError:  # refused when all arguments are looked at
        return
    if given.get("test_each_epoch"):
        idle.pop("clear_warmup_epochs", None)  # the average accuracy is that of the epochs after it
    for name, need in idle.items():
        if given.get(name) is not None:
            raise ValueError(
                f"--{name} has no effect here: it takes {need}. Drop it, or begin from the settings of CleaR with "
                "gates, --preset clear or --preset paper."
            )
