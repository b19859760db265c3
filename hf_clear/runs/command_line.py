"""Arguments from a command line or a JSON file, some of which decide the defaults of others."""

from __future__ import annotations

import argparse
import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from transformers import HfArgumentParser


def parse_arguments(
    argument_classes: Sequence[type],
    argv: Sequence[str],
    defaults_of: Callable[[Mapping[str, Any]], dict[str, Any]],
    aliases: Mapping[str, str] | None = None,
) -> tuple[Any, ...]:
    """Parses arguments twice: first to see which defaults they ask for, then with these.

    Args:
        argument_classes (`Sequence[type]`): dataclasses.
        argv (`Sequence[str]`): a command line; or the name of a JSON file, as its only element. Texts in that file
            count as on a command line: `"False"` is no for a switch, `"0.5"` a number for a number; so do numbers.
        defaults_of (`Callable`): from the arguments that are given, by name, to the defaults of others.
        aliases (`Mapping[str, str]`, *optional*): other names of arguments that a JSON file may have.

    Returns:
        `tuple`: an object of each class.

    Raises:
        ValueError: if there is no such JSON file, it holds no object, an unknown argument, or one twice.
    """
    classes: Any = argument_classes  # any iterable is good enough for the parser
    parser = HfArgumentParser(classes)
    if len(argv) == 1 and argv[0].endswith(".json") and not argv[0].startswith("-"):
        given = _read(argv[0], parser, aliases or {})
        return parser.parse_dict({**defaults_of(given), **given})
    parser.parse_args(argv)  # --help and what is wrong
    without_defaults = HfArgumentParser(classes)
    for action in without_defaults._actions:
        action.default = argparse.SUPPRESS
    parser.set_defaults(**defaults_of(vars(without_defaults.parse_args(argv))))
    return parser.parse_args_into_dataclasses(argv)


def _read(path: str, parser: HfArgumentParser, aliases: Mapping[str, str]) -> dict[str, Any]:
    """The arguments in a JSON file."""
    if not os.path.isfile(path):
        raise ValueError(f"{path}: there is no such file of arguments.")
    with open(path, encoding="utf-8-sig") as file:
        try:
            pairs = json.load(file, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(pairs, _Pairs):
        raise ValueError(f'{path} has to hold one object with arguments, such as {{"train_file": "train.csv"}}.')
    given: dict[str, Any] = {}
    actions = {action.dest: action for action in parser._actions}
    for name, value in pairs:
        name = aliases.get(name, name)
        if name in given:
            raise ValueError(f"{path} has the argument {name!r} twice.")
        if name not in actions:
            close = difflib.get_close_matches(name, actions, n=1)
            raise ValueError(
                f"{path}: there is no argument {name!r}." + (f" Did you mean {close[0]!r}?" if close else "")
            )
        try:
            if isinstance(value, list) and actions[name].nargs is None:
                raise ValueError("one value is needed")
            if value is None and actions[name].default is not None:
                raise ValueError("leave the argument out for its default")
            given[name] = _as_on_a_command_line(value, actions[name])
        except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{path}: {name!r} can't be {value!r} ({error}).") from error
    return given


def _as_on_a_command_line(value: Any, action: argparse.Action) -> Any:
    """A value of a JSON file, converted as an argument's text is."""
    if isinstance(value, _Pairs):
        return value.plain()
    is_switch = isinstance(value, bool) and action.type not in (int, float)  # true and false; or no number
    if not isinstance(value, (str, int, float)) or is_switch or action.type is None or action.choices:
        return value
    if action.type is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    return cast(Callable[[str], Any], action.type)(str(value))


class _Pairs(list):
    """An object of a JSON file as it is written: names and values, a name as often as it comes."""

    def plain(self) -> dict[str, Any]:
        return {name: value.plain() if isinstance(value, _Pairs) else value for name, value in self}
