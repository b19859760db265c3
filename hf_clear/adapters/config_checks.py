"""The settings of an adapter on disk: what is looked at before peft acts on them."""

from __future__ import annotations

import dataclasses
import enum
import math
import reprlib
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import CONFIG_NAME

from ..files import check_inside
from ..files.strict_json import read_json_object
from .bounds import check_initialization
from .names import check_lengths, check_names

_MOST_BYTES = 2**21  # of the settings: 150,000 tokens or 25,000 names of modules, one a line
_LIBRARIES = ("hf_clear", "peft", "transformers")  # that an adapter may ask peft to import
_FILE_KEYS = ("_file", "_path", "_dir")  # ends of the names of settings that hold one
_OTHER_WEIGHTS = ("adapters", "shadow_model")  # settings that make peft load more than the folder


def read_config(folder: Path, trusted: Mapping[str, Any] | None = None) -> PeftConfig:
    """What `adapter_config.json` says.

    Args:
        trusted (`Mapping`, *optional*): settings, by name, that may name files and code: those of the model at hand,
            which peft goes by in place of the file's.

    Raises:
        ValueError: see [`check_adapter`].
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise ValueError(f"There is no {CONFIG_NAME} in {folder}: give the folder that `save_pretrained` wrote to.")
    check_inside(path)
    values = read_json_object(path, _MOST_BYTES)
    values.pop("runtime_config", None)  # as peft
    peft_type = values.get("peft_type")
    if not isinstance(peft_type, str) or peft_type not in PEFT_TYPE_TO_CONFIG_MAPPING:
        theirs = isinstance(peft_type, str) and peft_type.startswith("CLEAR_")
        raise ValueError(
            f"{path} is of the PEFT type {short(peft_type)}, which is not known here. "
            + (
                "It comes with another version of hf_clear: `pip install -U hf-clear`."
                if theirs
                else f"There are {', '.join(sorted(PEFT_TYPE_TO_CONFIG_MAPPING))}; newer ones come with newer versions "
                "of peft."
            )
        )
    cls = PEFT_TYPE_TO_CONFIG_MAPPING[typing.cast(PeftType, peft_type)]
    try:
        if not trusted:
            check_lengths(values)
        check_config_values(cls, values)
        _check_reach(cls, values, trusted or {})
        known = {field.name for field in dataclasses.fields(cls)}
        config = cls(**cls.check_kwargs(**{name: value for name, value in values.items() if name in known}))
        if not trusted:
            check_names(config)
            check_initialization(config)
    except Exception as error:  # peft's own, of any kind
        raise ValueError(f"{path}: {str(error)[:1000] or type(error).__name__}") from error
    return config


def check_config_values(cls: type[PeftConfig], values: Mapping[str, Any]) -> None:
    """Makes sure that the settings are those of a config class, and of its types.

    Raises:
        ValueError: if one is unknown or of a wrong type.
    """
    fields = {field.name for field in dataclasses.fields(cls)}
    # What is off in other versions of peft changes nothing here.
    unknown = sorted(name for name, value in values.items() if name not in fields and value)
    if unknown:
        raise ValueError(
            f"{cls.__name__} has no setting {', '.join(map(short, unknown[:5]))}. peft would ignore it, and the "
            "adapter might do something else than it was trained for. If it was written by a newer version of peft or "
            f"hf_clear (peft_version: {short(values.get('peft_version'))}), upgrade; else take the setting out."
        )
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if name not in fields or value is None:
            continue
        hint = hints[name]
        if "alpha" in name and hint is int:  # scales, which may be fractions
            hint = float
        if not _fits(value, hint):
            raise ValueError(f"The setting {name!r} can't be {short(value)}: it has to be {_readable(hint)}.")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value, as Python or JSON has it (no tuples or sets, objects for dataclasses), is of a type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, kind) for kind in inner)
    if origin is typing.Literal:  # some stand for families of names: "pissa_niter_[number of iters]"
        return value in inner or (isinstance(value, str) and any(isinstance(kind, str) for kind in inner))
    if origin in (list, set, tuple):
        if inner == (str,):  # the only kind that is long
            return isinstance(value, (list, set, tuple)) and all(isinstance(v, str) for v in value)
        return isinstance(value, (list, set, tuple)) and all(any(_fits(v, kind) for kind in inner) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(v, inner[1]) for v in value.values())
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return isinstance(value, (dict, hint))
    if not isinstance(hint, type):
        return True  # nothing that tells
    if issubclass(hint, enum.Enum):
        return value in list(hint)
    if hint in (int, float):
        number = isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
        return number and abs(value) < float("inf")  # an integer may be too large for a float; NaN is not below
    return isinstance(value, hint)


def short(value: Any) -> str:
    """`repr` for a message, whatever comes from the file."""
    found = reprlib.Repr()
    found.maxstring = found.maxother = found.maxlong = 100
    return found.repr(value)


def _readable(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _check_reach(cls: type[PeftConfig], values: Mapping[str, Any], trusted: Mapping[str, Any]) -> None:
    """Refuses settings through which peft would import code or read files, and numbers that are none."""
    library = (values.get("auto_mapping") or {}).get("parent_library")  # `AutoPeftModel` imports it
    if library is not None:
        root = library.split(".")[0] if isinstance(library, str) else None
        if root not in _LIBRARIES and library not in sys.modules:  # those of a model of one's own are imported
            raise ValueError(
                f"`auto_mapping` names the module {short(library)} for peft to import. Only modules of "
                f"{', '.join(_LIBRARIES)} are: set it to null, and load the adapter into a base model of your own."
            )
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    for name in ("megatron_core", *_OTHER_WEIGHTS):
        if name in values and values[name] not in (None, defaults[name], trusted.get(name)):
            raise ValueError(
                f"The setting {name!r} is {short(values[name])}: code or weights from outside of the adapter, that "
                "are not loaded with it. Set it to null."
            )
    for name, value in _leaves({name: value for name, value in values.items() if value != trusted.get(name)}):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"The setting {name!r} holds {value}, which is no finite number.")
        if name == "trust_remote_code" and value:
            raise ValueError("The setting 'trust_remote_code' would run code from elsewhere. Take it out.")
        if name.endswith(_FILE_KEYS) and not name.endswith("name_or_path") and value is not None:
            raise ValueError(
                f"The setting {name!r} names the file {short(value)}. An adapter is complete in its folder and reads "
                "no other file: set it to null."
            )


def _leaves(values: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """All values inside of objects and lists, with their names."""
    left: list[tuple[str, Any]] = list(values.items())
    while left:
        name, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, (list, tuple)):
            left += [(name, inner) for inner in value]
        else:
            yield name, value
