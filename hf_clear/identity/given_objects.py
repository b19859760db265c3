"""What a trainer is given as objects and overridden methods, by name: a run that goes on has to have the same."""

from __future__ import annotations

import json
from typing import Any

from transformers import Trainer

from .._callables import name_of
from .._typing import AnyTrainer

OWN_LOSS = "compute_loss_func"  # whether there is one: it decides what can be trained
_METHODS = (  # that make a step what it is
    *("compute_loss", "training_step", "create_optimizer", "create_scheduler", "create_optimizer_and_scheduler"),
    *("get_decay_parameter_names", "get_optimizer_cls_and_kwargs"),
)
# What the features of a frozen model don't depend on.
GIVEN_FOR_STEPS = ("optimizers", "optimizer_cls_and_kwargs", "loss_function", *_METHODS, OWN_LOSS)


def given_optimizers(trainer: AnyTrainer) -> str | None:
    """The types of the optimizer and the scheduler that a trainer was given, before it makes its own; None if none."""
    given = [own for own in (trainer.optimizer, trainer.lr_scheduler) if own is not None]
    return ", ".join(type(own).__name__ for own in given) or None


def given_objects(trainer: AnyTrainer) -> dict[str, Any]:
    """By name, what can be told of them: the names of loss function and collator, the types of optimizer and scheduler,
    and the classes that have a `compute_loss` and the like of their own. What they do is not compared."""
    found: dict[str, Any] = {name: _classes_with(trainer, name) for name in _METHODS}
    found["data_collator"] = name_of(trainer.data_collator)
    found[OWN_LOSS] = trainer.compute_loss_func is not None
    found["loss_function"] = None if trainer.compute_loss_func is None else name_of(trainer.compute_loss_func)
    found["optimizers"] = getattr(trainer, "_given_optimizers", None)
    given = getattr(trainer, "optimizer_cls_and_kwargs", None)
    if given is not None:  # of other values, nothing can be told in another process
        given = [name_of(given[0]), {name: own for name, own in given[1].items() if _is_plain(own)}]
    found["optimizer_cls_and_kwargs"] = given
    return found


def as_json(value: Any) -> Any:
    """As it comes back from a JSON file. Objects that are not plain are told by their names."""

    def plain(value: Any) -> Any:
        if isinstance(value, (set, frozenset)):
            return sorted(map(str, value))
        if hasattr(value, "to_dict"):
            return value.to_dict()
        return name_of(value) if " at 0x" in str(value) else str(value)  # an address is another in each process

    return json.loads(json.dumps(value, default=plain))


def _is_plain(value: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return all(own is None or isinstance(own, (str, int, float)) for own in values)


def _classes_with(trainer: AnyTrainer, method: str) -> str | None:
    """The classes that override it, but those of hf_clear; None if none does."""
    own = type(trainer).__mro__[: type(trainer).__mro__.index(Trainer)]
    names = [one.__name__ for one in own if method in vars(one) and one.__module__.partition(".")[0] != "hf_clear"]
    return ", ".join(names) or None
