"""Which arguments have an effect in which runs. One without any is refused: nobody should wonder what it did."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import Trainer

from .._names import NO_NOISE
from ..mixin import ClearMixin
from ..probe_args import ProbeArguments
from ..training_args import ClearArguments
from ..turn.mixin import TurnMixin
from ..turn.training_args import TurnArguments
from .arguments import PeftArguments
from .training_arguments import FULL_FINE_TUNING


@dataclass
class Run:
    """What decides which arguments have an effect.

    Attributes:
        given (`Mapping[str, Any]`): the arguments that are given, by name, without defaults.
        method (`str`): what `--method` says, for messages.
        trainers (`Sequence[type[Trainer]]`): those of the method.
        peft_method (`str`): as `--peft_method`, or what stands for it.
        is_adapter (`bool`): whether the model comes with a trained adapter.
    """

    given: Mapping[str, Any]
    method: str
    trainers: Sequence[type[Trainer]]
    peft_method: str
    is_adapter: bool = False

    def trains_with(self, mixin: type) -> bool:
        """Whether the method is of this kind; any trainer that we don't know may be."""
        known = [trainer is Trainer or issubclass(trainer, (ClearMixin, TurnMixin)) for trainer in self.trainers]
        return not all(known) or any(issubclass(trainer, mixin) for trainer in self.trainers)

    @property
    def said(self) -> str:
        """For a message."""
        said = f"--method {self.method}, --peft_method {self.peft_method}"
        return "a model that is an adapter already" if self.is_adapter else said


@dataclass(frozen=True)
class Rule:
    """Arguments that have an effect in certain runs alone.

    Attributes:
        arguments (`Sequence[str]`): their names.
        acts (`Callable`): whether they have one in a [`Run`].
        needs (`str`): what they go with, for the message.
    """

    arguments: Sequence[str]
    acts: Callable[[Run], bool]
    needs: str


def _own(arguments: type, *without: str) -> list[str]:
    """The names of a dataclass's arguments, without those of probing."""
    probing = {field.name for field in dataclasses.fields(ProbeArguments)}
    return [f.name for f in dataclasses.fields(arguments) if f.name not in probing and f.name not in without]


def _is_clear(run: Run) -> bool:
    return run.trains_with(ClearMixin)


def _is_turn(run: Run) -> bool:
    return run.trains_with(TurnMixin)


def _probes(run: Run) -> bool:
    return _is_turn(run) or _is_clear(run)


def _adds_noise(run: Run) -> bool:
    return run.given.get("noise_type", NO_NOISE) != NO_NOISE or run.given.get("transition_matrix_file") is not None


def _for_method(*names: str) -> Callable[[Run], bool]:
    return lambda run: run.peft_method in names


def _with(*names: str) -> Callable[[Run], bool]:
    return lambda run: any(run.given.get(name) is not None for name in names)


RULES = [
    Rule(["preset", *_own(ClearArguments, "clear_warmup_epochs")], _is_clear, "--method clear or both"),
    # The average accuracy of every method is that of the epochs after CleaR's warm-up.
    Rule(
        ["clear_warmup_epochs"],
        lambda run: _is_clear(run) or bool(run.given.get("test_each_epoch")),
        "--method clear or both, or --test_each_epoch",
    ),
    Rule(_own(TurnArguments), _is_turn, "--method turn"),
    Rule(
        [field.name for field in dataclasses.fields(ProbeArguments)],
        _probes,
        "--method turn, clear or both",
    ),
    Rule(
        [f.name for f in dataclasses.fields(PeftArguments)],
        lambda run: not run.is_adapter,
        "a model, not an adapter",
    ),
    Rule(["lora_r", "lora_alpha", "lora_dropout"], _for_method("lora"), "--peft_method lora"),
    Rule(["adapter_size", "adapter_activation"], _for_method("adapter"), "--peft_method adapter"),
    Rule(["num_virtual_tokens"], _for_method("prompt"), "--peft_method prompt"),
    Rule(["target_modules"], lambda run: run.peft_method != FULL_FINE_TUNING, "a PEFT method (--peft_method)"),
    Rule(["noise_seed"], _adds_noise, "noise: --noise_type or --transition_matrix_file"),
    Rule(
        ["resume_from_checkpoint"],
        lambda run: run.method != "both" or str(run.given["resume_from_checkpoint"]).lower() == "false",
        "a single method; two runs go on by themselves",
    ),
    Rule(["dataset_config_name"], _with("dataset_name"), "--dataset_name"),
    Rule(["overwrite_cache"], _with("dataset_name", "task_name"), "--dataset_name or --task_name"),
]


def check_effects(run: Run, rules: Sequence[Rule] = tuple(RULES)) -> None:
    """Looks for arguments that are given and have no effect.

    Args:
        run ([`Run`]): what is given, and the method.
        rules (`Sequence[Rule]`, *optional*): by default, those of `run_glue_noisy.py`.

    Raises:
        ValueError: if there is one; the message says what it goes with.
    """
    for rule in rules:
        name = next((name for name in rule.arguments if run.given.get(name) is not None), None)
        if name is not None and not rule.acts(run):
            raise ValueError(f"--{name} has no effect with {run.said}: it goes with {rule.needs}. Drop it.")
