"""Arguments from a command line or a JSON file, some of which decide the defaults of others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
        argv (`Sequence[str]`): a command line; or the name of a JSON file, as its only element.
        defaults_of (`Callable`): from the arguments as given, by name, to the defaults of others.
        aliases (`Mapping[str, str]`, *optional*): other names of arguments that a JSON file may have.

    Returns:
        `tuple`: an object of each class.
    """
    parser = HfArgumentParser(argument_classes)
    if len(argv) == 1 and argv[0].endswith(".json"):
        with open(argv[0]) as file:
            given = json.load(file)
        given |= {name: given.pop(alias) for alias, name in (aliases or {}).items() if alias in given}
        return parser.parse_dict({**defaults_of(given), **given})
    parser.set_defaults(**defaults_of(vars(parser.parse_args(argv))))
    return parser.parse_args_into_dataclasses(argv)
