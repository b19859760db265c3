"""What `hf-clear grid` goes over: one training for each combination of data, method, noise and seed."""

from __future__ import annotations

import dataclasses
import os
import re
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .train import script

NO_NOISE = "none"
METHODS = ("none", "clear", "turn")
_DATA = ("task_name", "dataset_name", "train_file", "test_file", "validation_file")


@dataclass(frozen=True)
class Combination:
    """One training of a grid.

    Attributes:
        folder (`str`): its name, in the folder of the grid.
        arguments (`list[str]`): for `hf-clear train`, without `--output_dir`.
        setting, method, seed, details: see [`~hf_clear.comparison.TrainingResult`].
    """

    folder: str
    arguments: list[str]
    setting: str
    method: str
    seed: int
    details: dict[str, Any]


def combinations_of(args: Namespace, others: Sequence[str]) -> list[Combination]:
    """What a grid trains, in order.

    Args:
        args (`Namespace`): of `hf-clear grid`.
        others (`Sequence[str]`): further arguments, for each training.

    Raises:
        ValueError: if a name is none, one is listed twice, or `others` holds what the grid goes over.
    """
    _check(args, others)
    several_data, several_peft = len(args.data_sets) > 1, len(args.peft_methods) > 1
    found = []
    for data in args.data_sets or [None]:
        for peft in args.peft_methods or [None]:
            for kind, rate in noise_of(args):
                told = [data] * several_data + [_noise_name(kind, rate)] + [peft] * several_peft
                details = {"data_set": data, "peft_method": peft, "noise_type": kind, "noise_rate": rate or 0.0}
                details = {name: value for name, value in details.items() if value is not None}
                for method in args.methods:
                    for seed in args.seeds:
                        folder, own = _arguments(data, peft, method, kind, rate, seed)
                        found.append(Combination(folder, [*own, *others], ", ".join(told), method, seed, details))
    return found


def noise_of(args: Namespace) -> list[tuple[str, float | None]]:
    """Types and rates; no rate without noise."""
    return [(kind, rate) for kind in args.noise_type for rate in ([None] if kind == NO_NOISE else args.noise_rates)]


def _noise_name(kind: str, rate: float | None) -> str:
    return "no noise" if rate is None else f"{kind} {100 * rate:g}%"


def _arguments(
    data: str | None, peft: str | None, method: str, kind: str, rate: float | None, seed: int
) -> tuple[str, list[str]]:
    """The name of the folder, and the arguments of the training."""
    name, _, preset = method.partition(":")
    folder = [method.replace(":", "-"), kind, f"{rate or 0:g}", str(seed)]
    arguments = ["--method", name, "--seed", str(seed), *(["--preset", preset] if preset else [])]
    if rate is not None:
        arguments += ["--noise_type", kind, "--noise_rate", str(rate), "--noise_seed", str(seed)]
    if peft is not None:
        folder, arguments = [peft, *folder], [*arguments, "--peft_method", peft]
    if data is not None:
        option = "--task_name" if data in script().task_to_keys else "--dataset_name"
        folder, arguments = [_slug(data), *folder], [*arguments, option, data]
    return "_".join(folder), arguments


def _check(args: Namespace, others: Sequence[str]) -> None:
    from ..presets import PRESETS

    taken = {"method": "--methods", "noise_rate": "--noise_rates", "seed": "--seeds", "noise_seed": "--seeds"}
    taken |= dict.fromkeys(_DATA, "--data_sets") if args.data_sets else {}
    taken |= {"peft_method": "--peft_methods"} if args.peft_methods else {}
    if any(":" in method for method in args.methods):
        taken["preset"] = "--methods"
    for other in others:
        option = other.split("=")[0]
        if option.startswith("--") and option[2:].replace("-", "_") in taken:
            instead = taken[option[2:].replace("-", "_")]
            raise ValueError(f"{option} is what the grid goes over: list its values in {instead}.")
    for method in args.methods:
        name, colon, preset = method.partition(":")
        if name not in METHODS or (colon and (name != "clear" or preset not in PRESETS)):
            raise ValueError(
                f"--methods: {method!r} is none. There are {', '.join(METHODS)} and "
                f"{', '.join(f'clear:{known}' for known in PRESETS)}."
            )
    for option, values, known in (
        ("--peft_methods", args.peft_methods, list(_choices("peft_method"))),
        ("--noise_type", args.noise_type, list(_choices("noise_type"))),
    ):
        wrong = [value for value in values if value not in known]
        if wrong:
            raise ValueError(f"{option}: {wrong[0]!r} is none. There are {', '.join(known)}.")
    noisy = [kind for kind in args.noise_type if kind != NO_NOISE]
    if bool(noisy) != bool(args.noise_rates):
        raise ValueError("--noise_type and --noise_rates go together: name a type and one rate or more, or neither.")
    for rate in args.noise_rates:
        if not 0 <= rate <= 1:
            raise ValueError(f"--noise_rates: {rate:g} is no share between 0 and 1.")
    for option in ("data_sets", "methods", "peft_methods", "noise_type", "noise_rates", "seeds"):
        values = [_slug(value) if option == "data_sets" else value for value in getattr(args, option)]
        twice = [value for number, value in enumerate(values) if value in values[:number]]
        if twice:
            raise ValueError(f"--{option}: {twice[0]} is there twice, or two names make the same folder.")
    if args.baseline is not None and args.baseline not in args.methods:
        raise ValueError(f"--baseline: {args.baseline!r} is none of --methods, {', '.join(args.methods)}.")


def _choices(option: str) -> Iterable[str]:
    """Of an option of the script."""
    of_script = (script().ModelArguments, script().DataTrainingArguments)
    found = next(one for arguments in of_script for one in dataclasses.fields(arguments) if one.name == option)
    return found.metadata["choices"]


def _slug(name: str) -> str:
    """As a part of a folder's name."""
    name = os.path.basename(os.path.abspath(name)) if os.path.isdir(name) else name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
