"""What a pretrained model brings along: names of its classes, an adapter."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME
from transformers import AutoConfig

from ..adapters.config_checks import read_config
from ..demo import demo_backbone
from ..hub.paths import is_path
from ..labels.names import LABEL_NAMES_FILE, are_names, names_in, read_label_names
from ..model_inputs import longest_input as longest_input
from ..model_inputs import set_padding as set_padding
from ..tuners import PEFT_METHODS
from .outputs import ARGUMENTS_FILE

logger = logging.getLogger(__name__)


def is_adapter(path: str | None) -> bool:
    """Whether a model's name is that of a local folder with an adapter, and no model."""
    if path is None:
        return False
    has_adapter, has_model = (os.path.isfile(os.path.join(path, name)) for name in (CONFIG_NAME, "config.json"))
    return has_adapter and not has_model


def base_model(path: str) -> str:
    """The model that an adapter was trained on; of anything else, itself.

    Raises:
        ValueError: if nothing in the folder says it, or the model isn't there any more.
    """
    if not is_adapter(path):
        return path
    base = read_config(Path(path)).base_model_name_or_path
    if base and (os.path.isdir(base) or not is_path(base)):
        return base
    arguments = os.path.join(path, ARGUMENTS_FILE)
    if os.path.isfile(arguments):
        with open(arguments, encoding="utf-8") as file:
            base = json.load(file).get("model_name_or_path") or demo_backbone("--model_name_or_path")
    if not base or (is_path(base) and not os.path.isdir(base)):
        here = "" if not base or os.path.isabs(base) else f" (seen from {os.getcwd()}: start from the folder it fits)"
        raise ValueError(
            f"{path} is an adapter of the model {base!r}, which isn't there{here}. Or name it as "
            "base_model_name_or_path in its adapter_config.json."
        )
    return base


def peft_method_of(path: str) -> str | None:
    """The name of an adapter's method; None if it is none of ours."""
    peft_type = read_config(Path(path)).peft_type
    return next((n for n, m in PEFT_METHODS.items() if m.config(task_type="SEQ_CLS").peft_type == peft_type), None)


def trained_classes(path: str, has_config: bool = True, **hub_args: Any) -> list[str]:
    """What the rows of a model's head stand for, as far as the model says it: in its config or, of an adapter of
    hf_clear, in `label_names.json`.

    Args:
        path (`str`): the model, or a local folder with an adapter.
        has_config (`bool`, *optional*, defaults to `True`): a model without a config, which comes from elsewhere, says
            nothing.
        hub_args: for `from_pretrained`.

    Returns:
        `list[str]`: the names of the classes in the order of the rows; `LABEL_0` and the like if they have none; empty
        if the model says nothing.

    Raises:
        ValueError: if `label_names.json` holds no names.
    """
    if is_adapter(path):
        for folder in (path, os.path.dirname(os.path.abspath(path))):  # a checkpoint is in the folder of its run
            names_file = os.path.join(folder, LABEL_NAMES_FILE)
            if os.path.isfile(names_file):
                return read_label_names(names_file)
        return []
    try:
        return names_in(AutoConfig.from_pretrained(path, **hub_args))
    except (OSError, ValueError):
        if has_config:
            raise
        return []


def order_of_classes(
    label_names: Sequence[str], trained: Sequence[str], model: str | None, is_trained: bool = False
) -> list[str]:
    """The order in which a model that was fine-tuned before numbers the classes: each row of its head keeps its
    meaning.

    Args:
        label_names (`Sequence[str]`): the classes of the data.
        trained (`Sequence[str]`): those of the model, see [`trained_classes`].
        model (`str`, *optional*): what it is called, for messages.
        is_trained (`bool`, *optional*, defaults to `False`): it is not trained any more.

    Returns:
        `list[str]`: `label_names`, in the order of `trained` if these are the same names.

    Raises:
        ValueError: if it is not trained any more, and has classes of other names.
    """
    label_names = list(label_names)
    if not are_names(trained) or list(trained) == label_names:
        return label_names
    if set(trained) == set(label_names):
        logger.warning(
            f"{model} was fine-tuned on these classes: they are numbered in its order, {_shown(trained)}, not in that "
            f"of the data, {_shown(label_names)}."
        )
        return list(trained)
    if is_trained:
        raise ValueError(
            f"{model} was trained on the classes {_shown(trained)}; those of the training data are "
            f"{_shown(label_names)}. To go by those of the model, leave out --train_file."
        )
    if len(trained) == len(label_names):
        logger.warning(
            f"{model} was fine-tuned on as many classes with other names ({_shown(trained)}). The rows of its head now "
            f"stand for {_shown(label_names)}. If these are the same classes, give them the names of the model."
        )
    return label_names


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + ", ..." * (len(names) > 10)


def check_head(loading_info: Mapping[str, Any], model: str, num_labels: int) -> None:
    """Looks whether a model that is not trained any more has a head.

    Args:
        loading_info (`Mapping[str, Any]`): what `from_pretrained(output_loading_info=True)` says.

    Raises:
        ValueError: if some of its weights were drawn at random.
    """
    if loading_info["missing_keys"] or loading_info["mismatched_keys"]:
        raise ValueError(
            f"--model_name_or_path {model} has no trained head for {num_labels} classes. Without --do_train, name a "
            "model that was trained before: the --output_dir of its run."
        )
