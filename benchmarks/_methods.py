"""The methods that accuracy.py compares, by name, and their settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import _peers
import numpy as np
from _ablations import ABLATIONS, CALLBACKS
from _dual_lora import run_dual_lora
from _frozen import cleanlab_pruning, run_cleanlab, run_logistic_regression, run_probe
from _jobs import Job, Stopwatch, train_and_test
from transformers import HfArgumentParser, Trainer

from hf_clear import ClearArguments, ClearTrainer, TurnTrainer, per_sample_losses, preset
from hf_clear.presets import PRESETS
from hf_clear.runs.training_arguments import FULL_FINE_TUNING

_SMOOTHING = 0.1  # as in Szegedy et al. (2016, arXiv 1512.00567)


def run_plain(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    trainer = job.trainer(Trainer)
    return {**train_and_test(trainer), "suspicion": per_sample_losses(trainer)}


def run_label_smoothing(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    trainer = job.trainer(Trainer, label_smoothing_factor=_SMOOTHING)
    return {**train_and_test(trainer), "suspicion": per_sample_losses(trainer)}


def run_clear(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    trainer = job.trainer(ClearTrainer, **settings)
    if (callback := {**CALLBACKS, **_peers.CALLBACKS}.get(job.cell.method)) is not None:
        trainer.add_callback(callback(trainer))
    measured = train_and_test(trainer)
    names = [field.name for field in dataclasses.fields(ClearArguments)]
    resolved = {name: getattr(trainer.args, name) for name in names}  # as they are now: defaults may change
    measured["settings"] = {**resolved, "clear_ensemble_source": trainer.ensemble_source}
    if job.cell.method in _peers.ESTIMATORS:  # whose clean probability is 0 or 1
        measured["settings"]["estimator_instead"] = _peers.ESTIMATORS[job.cell.method]
        if "suspicion" in measured:
            measured["suspicion"] = trainer.sample_store.losses.cpu().numpy()
    if "suspicion" not in measured:  # nothing was fitted
        measured["suspicion"] = per_sample_losses(trainer)
    return measured


def run_turn(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    return train_and_test(job.trainer(TurnTrainer))


def run_cleanlab_plain(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    watch = Stopwatch()
    kept, quality = cleanlab_pruning(job.frozen().features(), np.array(job.train["label"]), job.cell.seed)
    trainer = job.trainer(Trainer, job.train.select(np.flatnonzero(kept)))
    return {**train_and_test(trainer, watch), "suspicion": -quality, "pruned_samples": int((~kept).sum())}


def run_oracle(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    return train_and_test(job.trainer(Trainer, job.right_samples()))


def run_oracle_head_start(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    watch, right = Stopwatch(), job.right_samples()
    job.frozen(right, probe_gce_q=0.0).linear_probe()  # cross entropy; the model gets the head
    return train_and_test(job.trainer(Trainer, right), watch)


@dataclass(frozen=True)
class Method:
    """
    Attributes:
        run (`Callable`): called with a [`Job`] and the settings of CleaR; returns what was measured.
        settings (`Mapping`): of CleaR, by default; `preset` stands for many.
        is_frozen (`bool`): whether it looks at frozen features alone: no PEFT method, no epochs.
    """

    run: Callable[[Job, dict[str, Any]], dict[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_frozen: bool = False


METHODS = {
    "plain": Method(run_plain),
    **{name: Method(run_clear, {"preset": name}) for name in PRESETS},
    **{name: Method(run_clear, {"preset": "recommended", **changed}) for name, changed in ABLATIONS.items()},
    **{name: Method(run_clear, settings) for name, settings in _peers.LOSSES.items()},
    "label_smoothing": Method(run_label_smoothing),
    "turn": Method(run_turn),
    "dual_lora": Method(run_dual_lora),
    "cleanlab_plain": Method(run_cleanlab_plain),
    "oracle": Method(run_oracle),
    "oracle_head_start": Method(run_oracle_head_start),
    "logistic_regression": Method(lambda job, _: run_logistic_regression(job.frozen(), job.test), is_frozen=True),
    "cleanlab": Method(lambda job, _: run_cleanlab(job.frozen(), job.test), is_frozen=True),
    "probe": Method(lambda job, _: run_probe(job.frozen(probe_features="mean"), job.test), is_frozen=True),
}
PEERS = tuple(name for name, method in METHODS.items() if method.is_frozen)
ORACLES = ("oracle_head_start", "oracle")  # the first is the end of the gap, if there is one
NEED_CLEANLAB = ("cleanlab", "cleanlab_plain")


# Without PEFT modules, ClearTrainer trains as Trainer does.
FULL = ("plain", "label_smoothing", "turn", "cleanlab_plain", *ORACLES)


def check_peft_method(method: str, peft_method: str) -> None:
    """Raises a ValueError if a method is nothing without PEFT modules, and there are none; or is for LoRA alone."""
    if method == "dual_lora" and peft_method != "lora":
        raise ValueError(f"--methods {method}: it is two sets of LoRA weights, and none of {peft_method!r}.")
    if peft_method == FULL_FINE_TUNING and method not in (*FULL, *PEERS):
        raise ValueError(
            f"--methods {method}: there is nothing to route in full fine-tuning. There are {', '.join(FULL)}."
        )


def parse_method(method: str) -> tuple[str, dict[str, Any]]:
    """`"paper:clear_gamma=0.8"` to the name of the method and its settings.

    Raises:
        ValueError: if there is no such method or setting, or the setting is refused.
    """
    name, colon, text = method.partition(":")
    if name not in METHODS:
        raise ValueError(f"There is no method {name!r}. There are {', '.join(METHODS)}.")
    if not colon:
        return name, dict(METHODS[name].settings)
    if name not in PRESETS:
        raise ValueError(f"{method!r}: {name} has no settings here; {', '.join(PRESETS)} have (clear:key=value).")
    pairs = [pair.partition("=")[::2] for pair in text.split(",")]
    known = [field.name for field in dataclasses.fields(ClearArguments)]
    for key, value in pairs:
        if key not in known or not value:
            raise ValueError(
                f"{method!r}: {key!r} is no setting with a value (key=value). Settings: {', '.join(known)}."
            )
    parser = HfArgumentParser(ClearArguments)

    def refuse(message: str):
        raise ValueError(f"{method!r}: {message}")

    parser.error = refuse
    parsed = vars(parser.parse_args([f"--{key}={value}" for key, value in pairs]))
    settings = {**METHODS[name].settings, **{key: parsed[key] for key, _ in pairs}}
    try:
        resolve(settings, "lora")
    except ValueError as error:
        refuse(str(error))
    return name, settings


def resolve(settings: dict[str, Any], peft_method: str) -> dict[str, Any]:
    """Settings with what `preset` stands for; others go before it.

    Raises:
        ValueError: if a setting is refused, or the preset doesn't have the PEFT method.
    """
    name = settings.get("preset")
    settings = {**(preset(name, peft_method) if name else {}), **settings}
    settings.pop("preset", None)
    names = [field.name for field in dataclasses.fields(ClearArguments)]
    ClearArguments(**{key: value for key, value in settings.items() if key in names})
    return settings


def changed_settings(line: dict[str, Any]) -> list[str]:
    """The settings of CleaR that a line was run with and that its method has no longer: defaults change."""
    name, settings = parse_method(line["method"])
    if METHODS[name].run is not run_clear or not line.get("settings"):
        return []
    names = [field.name for field in dataclasses.fields(ClearArguments)]
    settings = resolve(settings, line["peft_method"])
    now = ClearArguments(**{key: value for key, value in settings.items() if key in names})
    now = json.loads(json.dumps({key: getattr(now, key) for key in names if getattr(now, key) is not None}))
    return [key for key, value in now.items() if line["settings"].get(key) != value]
