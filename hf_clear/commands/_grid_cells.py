"""What `hf-clear grid` goes over: one training for each combination of data, method, noise and seed."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .._names import NO_NOISE
from ..files.checksums import file_checksum
from ._grid_checks import check_lists, parsed
from .train import script

_MEMORIZATION = "--report_memorization"


@dataclass(frozen=True)
class Combination:
    """One training of a grid.

    Attributes:
        folder (`str`): its name, in the folder of the grid.
        arguments (`list[str]`): for `hf-clear train`, without `--output_dir`.
        setting, method, seed, details: see [`~hf_clear.comparison.TrainingResult`].
        checksums (`dict[str, str]`): of the local files that it reads, by name: a training is that of their content.
    """

    folder: str
    arguments: list[str]
    setting: str
    method: str
    seed: int
    details: dict[str, Any]
    checksums: dict[str, str] = field(default_factory=dict)


def combinations_of(args: Namespace, others: Sequence[str]) -> list[Combination]:
    """What a grid trains, in order.

    Args:
        args (`Namespace`): of `hf-clear grid`.
        others (`Sequence[str]`): further arguments, for each training.

    Raises:
        ValueError: if a name is none, one is listed twice, `others` holds what the grid goes over, or a training would
            refuse its arguments.
    """
    check_lists(args, others)
    several_data, several_peft = len(args.data_sets) > 1, len(args.peft_methods) > 1
    found = []
    for data in args.data_sets or [None]:
        for peft in args.peft_methods or [None]:
            for kind, rate in _noise_of(args):
                told = [data] * several_data + [_noise_name(kind, rate)] + [peft] * several_peft
                details = {"data_set": data, "noise_type": kind, "noise_rate": rate or 0.0}
                details = {name: value for name, value in details.items() if value is not None}
                for method in args.methods:
                    for seed in args.seeds:
                        folder, own = _arguments(data, peft, method, kind, rate, seed, others)
                        found.append(Combination(folder, own, ", ".join(told), method, seed, details))
    folders = [one.folder for one in found]
    twice = [folder for number, folder in enumerate(folders) if folder in folders[:number]]
    if twice:
        raise ValueError(f"Two trainings would be in the folder {twice[0]}: list each value once.")
    return _with_what_is_trained(found)


def _with_what_is_trained(found: list[Combination]) -> list[Combination]:
    """With what each training makes of its arguments: PEFT method and learning rate, which are in the name of a method
    if methods differ in what they train; and the content of the files."""
    known: dict[str, str] = {}
    resolved = []
    for one in found:
        model_args, data_args, training_args = parsed(one.arguments, one.seed, one.folder)
        peft, rate = model_args.peft_method, training_args.learning_rate
        read = script().paths_read(model_args, data_args, training_args).values()
        names = [name for path in read for name in _files(path)]
        known |= {name: file_checksum(name) for name in names if name not in known}
        details = {**one.details, "peft_method": peft, "learning_rate": rate}
        resolved.append(replace(one, details=details, checksums={name: known[name] for name in names}))
    trained: dict[str, set[str]] = {}
    for one in resolved:
        trained.setdefault(one.setting, set()).add(one.details["peft_method"])
    return [
        replace(one, method=f"{one.method} ({_trained(one)})") if len(trained[one.setting]) > 1 else one
        for one in resolved
    ]


def _trained(one: Combination) -> str:
    return "full fine-tuning" if one.details["peft_method"] == "none" else one.details["peft_method"]


def _files(path: str) -> list[str]:
    """A file, or those in a folder."""
    if os.path.isdir(path):
        return [str(file) for file in sorted(Path(path).rglob("*")) if file.is_file()]
    return [path]


def _noise_of(args: Namespace) -> list[tuple[str, float | None]]:
    """Types and rates; a rate of 0 is no noise, which there is once."""
    pairs = [(kind, rate) for kind in args.noise_types for rate in ([0.0] if kind == NO_NOISE else args.noise_rates)]
    return list(dict.fromkeys((kind, rate) if rate else (NO_NOISE, None) for kind, rate in pairs))


def _noise_name(kind: str, rate: float | None) -> str:
    return "no noise" if rate is None else f"{kind} {_digits(100 * rate)}%"


def _digits(number: float) -> str:
    """Six, or all if they are needed."""
    return f"{number:g}" if abs(float(f"{number:g}") - number) < 1e-12 else repr(number)


def _arguments(
    data: str | None, peft: str | None, method: str, kind: str, rate: float | None, seed: int, others: Sequence[str]
) -> tuple[str, list[str]]:
    """The name of the folder, and the arguments of the training."""
    name, _, preset = method.partition(":")
    folder = [method.replace(":", "-"), kind, _digits(rate or 0.0), str(seed)]
    arguments = ["--method", name, "--seed", str(seed), *(["--preset", preset] if preset else [])]
    if rate is not None:
        arguments += ["--noise_type", kind, "--noise_rate", str(rate), "--noise_seed", str(seed)]
    if peft is not None:
        folder, arguments = [peft, *folder], [*arguments, "--peft_method", peft]
    if data is not None:
        is_task = data in script().task_to_keys and not os.path.isdir(data)
        folder = [slug(data), *folder]
        arguments += ["--task_name" if is_task else "--dataset_name", data]
    others = list(others)
    knows_truth = any(other.startswith("--clean_label_column") for other in others)
    if rate is None and not knows_truth and _MEMORIZATION in others:  # nothing is known to be wrong
        at = others.index(_MEMORIZATION)
        others[at : at + 1 + (at + 1 < len(others) and not others[at + 1].startswith("-"))] = []
    return "_".join(folder), [*arguments, *others]


def slug(name: str) -> str:
    """As a part of a folder's name."""
    name = os.path.basename(os.path.abspath(name)) if os.path.isdir(name) else name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
