"""The settings of an adapter that choose modules by name.

peft takes many of them for regular expressions and asks `re` about every module, for as long as that takes. So patterns
are matched here, in bounded time, and peft gets the names that they match: as it does itself with "all-linear".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from peft import PeftConfig
from peft.utils import transformers_weight_conversion
from torch import nn

from .linear_regex import Budget, matcher

_KEYWORDS = ("all-linear", "dummy-target-modules")  # that peft has for `target_modules`
_PATTERNS = ("target_modules", "exclude_modules", "feedforward_modules")  # if they are one string
_NAMES = ("target_modules", "exclude_modules", "target_parameters")  # if they are lists: ends of names
_PATTERNS_OF_NUMBERS = ("rank_pattern", "alpha_pattern", "lambda_pattern", "n_frequency_pattern", "block_size_pattern")
# Of types that ask for these in a way of their own, in which a name is all that makes sense.
_NAMES_OF_NUMBERS = ("ADALORA", "C3A", "FOURIERFT", "OSF")
# Lists of names that peft puts into regular expressions of its own.
_PLAIN_NAMES = ("modules_to_save", "layers_pattern", "trainable_token_indices")
# The most entries of a setting, with all inside of it: peft goes through them for each module, or copies a layer each.
_MOST_ENTRIES = {
    "layers_pattern": 100,
    "modules_to_save": 500,
    "layer_replication": 3000,
    "layers_to_transform": 10_000,
}
_MOST_ENTRIES_OF_OTHERS = 1000
# What may be as long as the file allows. Of `_NAMES`, what names no module is taken out before peft sees it.
_LONG = (*_NAMES, *_PATTERNS_OF_NUMBERS, "trainable_token_indices", "token_indices")
_MOST_KEYS = {"trainable_token_indices": 100, **dict.fromkeys(_PATTERNS_OF_NUMBERS, 20_000)}
_MOST_NAMES = 1000
_MOST_PATTERNS = 100
_PLAIN = re.compile(r"[^\\*+?{}\[\]()|^$\x00-\x1f]+")
_NOTHING = "(?!)"


def with_names_for_patterns(config: PeftConfig, base: nn.Module, is_converted: bool) -> None:
    """Puts the names of modules in place of the patterns in `config` that match them.

    Args:
        config (`PeftConfig`): is changed.
        base (`nn.Module`): what the adapter is for, with the layers that it has once the adapter is in it.
        is_converted (`bool`): the tensors of the base model have other names than in earlier versions of transformers.

    Raises:
        ValueError: if a pattern is none, takes too long, or fits nothing.
    """
    if config.is_adaption_prompt:  # `target_modules` is one name, and no pattern
        return
    names = [name for name, _ in base.named_modules() if name]
    if is_converted or getattr(config, "target_parameters", None):
        names += [name for name, _ in base.named_parameters()]
    if is_converted:
        names += _earlier_names(base)
    names = list(dict.fromkeys(names))
    budget = Budget(len(names))
    for setting in _PATTERNS:
        pattern = getattr(config, setting, None)
        if isinstance(pattern, str) and pattern.lower() not in _KEYWORDS:
            setattr(config, setting, _alternatives(_matched(setting, pattern, names, budget)) or _NOTHING)
            if setting == "target_modules" and getattr(config, setting) == _NOTHING and not is_converted:
                raise ValueError(f"The setting 'target_modules' is {pattern[:200]!r}, which is the name of no module.")
    for setting in _NAMES:
        chosen = getattr(config, setting, None)
        if isinstance(chosen, Collection) and not isinstance(chosen, str) and len(chosen) > _MOST_NAMES:
            ends = _ends(names)
            kind: Any = type(chosen)
            setattr(config, setting, kind(name for name in chosen if name in ends))
    for setting in _PATTERNS_OF_NUMBERS:
        numbers = getattr(config, setting, None)
        if numbers and config.peft_type not in _NAMES_OF_NUMBERS:
            setattr(config, setting, _numbers_by_name(setting, numbers, names, budget))


def check_lengths(values: Mapping[str, Any]) -> None:
    """Refuses settings that are too long.

    Args:
        values (`Mapping`): settings, as in the file.

    Raises:
        ValueError: if a setting has more entries than a model has use for.
    """
    for setting, entries in values.items():
        if setting in _LONG:
            most = _MOST_KEYS.get(setting)
            number = len(entries) if isinstance(entries, Mapping) else 0
        else:
            most = _MOST_ENTRIES.get(setting, _MOST_ENTRIES_OF_OTHERS)
            number = _number_of_entries(entries)
        if most is not None and number > most:
            raise ValueError(f"The setting {setting!r} has {number:,} entries, and at most {most:,} are taken.")


def check_names(config: PeftConfig) -> None:
    """Raises a ValueError if a pattern stands for a name."""
    settings = [*_PLAIN_NAMES]
    if getattr(config, "ensure_weight_tying", False):
        settings += ["target_modules"]
    if config.peft_type in _NAMES_OF_NUMBERS:
        settings += _PATTERNS_OF_NUMBERS
    for setting in settings:
        names = getattr(config, setting, None)
        if isinstance(names, str) and setting == "layers_pattern":
            names = [names]
        for name in names if isinstance(names, Collection) and not isinstance(names, str) else ():
            if isinstance(name, str) and not _PLAIN.fullmatch(name):
                raise ValueError(f"The setting {setting!r} has {name[:100]!r}, which is no name of a module.")


def _number_of_entries(values: Any) -> int:
    inner = values.values() if isinstance(values, Mapping) else values if isinstance(values, (list, set, tuple)) else ()
    return len(inner) + sum(_number_of_entries(value) for value in inner)


def _matched(setting: str, pattern: str, names: Iterable[str], budget: Budget) -> list[str]:
    chosen = _alternatives_in(pattern)
    if chosen is not None:
        return [name for name in names if name in chosen]
    try:
        matches = matcher(pattern, budget)
        return [name for name in names if matches(name)]
    except ValueError as error:
        raise ValueError(f"The setting {setting!r}: {pattern[:200]!r} {error}.") from error


def _numbers_by_name(
    setting: str, numbers: Mapping[str, Any], names: Iterable[str], budget: Budget
) -> Mapping[str, Any]:
    """Numbers by pattern, as peft applies them: the first pattern that matches the end of a name has it."""
    number_of: dict[str, Any] = {}
    is_plain = len(numbers) <= _MOST_PATTERNS
    for pattern, number in numbers.items():
        if type(number) not in (int, float):
            raise ValueError(f"The setting {setting!r} has {number!r:.100} for {pattern[:100]!r}, which is no number.")
        try:
            matches: Callable[[str], bool]
            own = pattern.startswith("^(?:") and _alternatives_in(pattern[4:-1])
            if own:
                matches = own.__contains__
            else:
                is_plain = is_plain and _PLAIN.fullmatch(pattern.removeprefix("^")) is not None
                matches = matcher(pattern, budget, r"(.*\.)?(", ")$", full=False)
            for name in names:
                if name not in number_of and matches(name):
                    number_of[name] = number
        except ValueError as error:
            raise ValueError(f"The setting {setting!r}: {pattern[:200]!r} {error}.") from error
    if is_plain:
        return numbers
    by_number: dict[tuple[type, Any], list[str]] = {}
    for name, number in number_of.items():
        by_number.setdefault((type(number), number), []).append(name)
    return {f"^(?:{_alternatives(of_number)})": number for (_, number), of_number in by_number.items()}


def _alternatives(names: Iterable[str]) -> str:
    """A pattern that matches these names and nothing else."""
    return "|".join(map(re.escape, names))


def _alternatives_in(pattern: str) -> set[str] | None:
    """The names in what [`_alternatives`] wrote; None if something else did."""
    parts = pattern.split("|")
    names = [re.sub(r"\\(.)", r"\1", part) for part in parts]
    return set(names) if [re.escape(name) for name in names] == parts else None


def _ends(names: Iterable[str]) -> set[str]:
    """What of a name, from a dot on, suffices."""
    return {name.split(".", start)[-1] for name in names for start in range(name.count(".") + 1)}


def _earlier_names(base: nn.Module) -> list[str]:
    """Names of modules that earlier versions of transformers had, and peft looks for."""
    mappings = getattr(transformers_weight_conversion, "_MOE_TARGET_MODULE_MAPPING", {})
    earlier = {name for mapping in mappings.values() for name in mapping}
    containers = {name.rpartition(".")[0] for name, _ in base.named_parameters()}
    return [f"{container}.{name}" for container in sorted(containers) for name in sorted(earlier)]
