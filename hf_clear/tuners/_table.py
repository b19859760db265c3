"""The PEFT methods by name: what a script, a preset or a benchmark needs to know of each."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftConfig

from .._registry import Registry


@dataclass(frozen=True)
class PeftMethod:
    """A PEFT method.

    Attributes:
        name (`str`): as on a command line, such as `"lora"`.
        config (`type[PeftConfig]`): the class of its config.
        learning_rate (`float`): a good default.
    """

    name: str
    config: type[PeftConfig]
    learning_rate: float


PEFT_METHODS: Registry[PeftMethod] = Registry("PEFT method", "register_peft_method")


def register_peft_method(name: str, config: type[PeftConfig], learning_rate: float) -> None:
    """Adds a PEFT method to hf_clear: its name then stands in the choices of the script and of presets.

    The layers have to be routable ([`~hf_clear.register_routable`]), and the type of the config known to peft, as those
    of peft itself are. [`~hf_clear.testing.check_peft_method`] holds it to what CleaR needs.

    Args:
        name (`str`): a new name.
        config (`type[PeftConfig]`): the class of its config, whose defaults work with `task_type` alone.
        learning_rate (`float`): a default for training with AdamW. Ours were chosen on 20 intents of BANKING77 with
            clean labels, 4 epochs, by test accuracy.

    Raises:
        ValueError: if the name is taken or empty, `config` is no class of peft configs, or the learning rate is not
            above 0.

    Example:

    ```python
    >>> register_peft_method("ia3", IA3Config, learning_rate=1e-2)
    ```
    """
    if not (isinstance(config, type) and issubclass(config, PeftConfig)):
        raise ValueError(f"`config` of the PEFT method {name!r} has to be a subclass of PeftConfig; got {config!r}.")
    if not learning_rate > 0:
        raise ValueError(f"`learning_rate` of the PEFT method {name!r} has to be above 0; got {learning_rate!r}.")
    PEFT_METHODS.add(name, PeftMethod(name, config, learning_rate))
