"""What a training is: its data, settings and weights. A state belongs to these, and a resumed training has the same."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import datasets
import torch
from peft import PeftModel
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from xxhash import xxh3_64_hexdigest

from .._typing import AnyTrainer
from .._unwrap import base_of
from ..files.states import damaged, loading_call
from ..probe_args import MEMORY_SETTINGS
from ..sample_index import label_names
from ..sample_store import SampleStore
from .fingerprint import Fingerprint, fingerprint
from .given_objects import GIVEN_FOR_STEPS, as_json, given_objects
from .shares import check_same_fingerprint

logger = logging.getLogger(__name__)

# The arguments of transformers that change what a training step does. All others may change in a run that goes on: how
# long it trains, what is logged, evaluated and saved, where to, the memory that is used, and the number of processes.
TRAINING_SETTINGS = (
    *("seed", "data_seed", "per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_drop_last"),
    *("train_sampling_strategy", "length_column_name", "average_tokens_across_devices", "accelerator_config"),
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args"),
    *("optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("label_smoothing_factor", "neftune_noise_alpha", "bf16", "fp16"),
)
# TURN's phases before fine-tuning don't depend on these, so they may change until it begins.
SELECTION_SETTINGS = ("turn_threshold", "turn_balance", "turn_estimator")
FINE_TUNING_SETTINGS = (*(name for name in TRAINING_SETTINGS if name not in ("seed", "bf16", "fp16")), *GIVEN_FOR_STEPS)
_OF_A_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps")  # go with the number of processes
_COSMETIC = ("peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "runtime_config")
_VALUES = 64  # looked at of each weight


@dataclass
class Identity:
    """What has to be the same in a run that goes on.

    Attributes:
        data (`Fingerprint`): of the training set.
        settings (`dict[str, Any]`): of the method, of training, of the model and of its PEFT config; see
            `TRAINING_SETTINGS` for what may change.
        weights (`dict[str, dict[str, str]]`): of the base model, see [`weights_of`].
    """

    data: Fingerprint
    settings: dict[str, Any]
    weights: dict[str, dict[str, str]]

    @classmethod
    def of(
        cls, trainer: AnyTrainer, of_method: Mapping[str, Any], needs: Iterable[str] = (), but: nn.Module | None = None
    ) -> Identity:
        """Of a training that is about to begin. Every process finds the same data, or all raise a `ValueError`.

        Args:
            of_method (`Mapping[str, Any]`): the settings of the method, by name.
            needs (`Iterable[str]`, *optional*): columns of the training set that the method uses, besides the model's.
            but (`nn.Module`, *optional*): a part of the model whose weights don't matter.
        """
        data = fingerprint_of(trainer, trainer.train_dataset, needs)
        check_same_fingerprint(trainer, data)
        model = trainer.accelerator.unwrap_model(trainer.model)
        return cls(data, settings_of(trainer, of_method), weights_of(model, but))

    def as_json(self) -> dict[str, Any]:
        return {"data": self.data.as_json(), "settings": self.settings, "weights": self.weights}

    def check(
        self,
        folder: str | os.PathLike,
        earlier: Mapping[str, Any],
        earlier_labels: torch.Tensor | None = None,
        may_change: Sequence[str] = (),
        weights: Sequence[str] = ("frozen",),
    ) -> list[str]:
        """Compares with the identity of the run before; says in the log what can't be compared.

        Args:
            folder: what the run goes on from, for messages.
            earlier (`Mapping[str, Any]`): [`as_json`] of the run before; from a file, see [`check_read`].
            earlier_labels (`torch.Tensor` of shape `[num_samples]`, *optional*): as far as they are known; else -100.
            may_change (`Sequence[str]`, *optional*): settings that are not compared here.
            weights (`Sequence[str]`, *optional*): which are compared, "frozen" or "trained".

        Returns:
            `list[str]`: those of `may_change` that have changed.

        Raises:
            ValueError: if something else has changed. It says what, and what to do.
        """
        labels = None if earlier_labels is None else earlier_labels.cpu().numpy()
        data = self.data.differences(earlier["data"], labels)
        settings = changed_settings(earlier["settings"], self.settings)
        wrong = {name: values for name, values in settings.items() if name not in may_change}
        found = [f"other data: {' and '.join(data)} changed"] * bool(data) + [say_settings(wrong)] * bool(wrong)
        found += [say for kind in weights if (say := changed_weights(earlier["weights"][kind], self.weights[kind]))]
        if found:
            only_labels = len(found) == len(data) == 1 and "labels" in data[0]
            raise refusal(folder, found, only_labels)
        if self.data.not_compared:
            logger.warning(
                f"Going on from {folder}. What can't be compared with the run before, and has to be the same: "
                f"{', '.join(self.data.not_compared)}."
            )
        return list(settings)

    def load_store(
        self, path: str | os.PathLike, device: torch.device | str = "cpu", num_labels: int | None = None
    ) -> SampleStore:
        """The [`SampleStore`] of the run before, for this one.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged; what [`check`] raises.
        """
        store = SampleStore.load(path, device=device, num_labels=num_labels)
        if (wrong := check_read(store.identity)) is not None:
            raise damaged(path, wrong)
        self.check(os.path.dirname(path), cast(dict[str, Any], store.identity), store.labels)
        if len(store.losses) != self.data.num_samples:
            raise damaged(path, f"it holds the state of {len(store.losses)} samples, not {self.data.num_samples}")
        if self.data.labels is None:
            store.labels_before = store.labels.clone()
        store.identity = self.as_json()
        return store


def check_read(identity: Any) -> str | None:
    """What is wrong with an identity that comes from a file; None if it is well-formed."""
    shape: dict[str, Any] = {"data": dict, "settings": dict, "weights": dict}  # by name, the types that may be
    of_data: dict[str, Any] = {
        "kind": str,
        "num_samples": int,
        "labels": (str, type(None)),
        "inputs": dict,
        "rows": str,
    }
    for name, kinds in (("identity", shape), ("data", of_data), ("weights", {"frozen": dict, "trained": dict})):
        part = identity if name == "identity" else identity[name]
        for own, kind in kinds.items():
            if not isinstance(part, dict) or not isinstance(part.get(own), kind) or isinstance(part.get(own), bool):
                return f"{own} of its {name} is {part.get(own)!r}" if isinstance(part, dict) else f"{name} is {part!r}"
    return None


def training_settings(args: Any) -> dict[str, Any]:
    """Those of `TRAINING_SETTINGS` that `args` has."""
    return as_json({name: getattr(args, name) for name in TRAINING_SETTINGS if hasattr(args, name)})


def settings_of(trainer: AnyTrainer, of_method: Mapping[str, Any]) -> dict[str, Any]:
    """What of arguments, model and PEFT config has to be the same in a run that goes on, as JSON holds it."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    settings = {name: value for name, value in of_method.items() if name not in MEMORY_SETTINGS}
    settings |= training_settings(trainer.args)
    settings |= given_objects(trainer)
    settings |= {"num_processes": trainer.args.world_size, "model": type(base_of(model)).__name__}
    settings["num_parameters"] = sum(parameter.numel() for parameter in model.parameters())
    config = getattr(model, "config", None)
    of_config = config.to_dict() if config is not None and hasattr(config, "to_dict") else {}
    settings |= {name: value for name, value in of_config.items() if "drop" in name and isinstance(value, (int, float))}
    if isinstance(model, PeftModel):
        of_peft = model.peft_config[model.active_adapter].to_dict()
        settings |= {f"peft_config.{name}": _names(own) for name, own in of_peft.items() if name not in _COSMETIC}
    return as_json(settings)


def fingerprint_of(trainer: AnyTrainer, dataset: Any, needs: Iterable[str] = ()) -> Fingerprint:
    """The [`fingerprint`] of what a trainer's model sees of a data set: columns that `Trainer` removes don't count.

    Args:
        needs (`Iterable[str]`, *optional*): columns that count nevertheless.
    """
    seen = None
    if isinstance(dataset, datasets.Dataset) and trainer.args.remove_unused_columns:
        trainer._set_signature_columns_if_needed()
        seen = {*cast(list[str], trainer._signature_columns), *needs}
    return fingerprint(dataset, label_names(trainer), lambda name: seen is None or name in seen)


def weights_of(model: nn.Module, but: nn.Module | None = None) -> dict[str, dict[str, str]]:
    """What tells one base model from another, by a few values of each weight: `{"frozen": {name: hash}, "trained":
    {name: hash}}`. Weights that a PEFT method adds are left out, as are those that it keeps a trained copy of. Sharded
    weights, and those that have no values yet, are named alone.

    Args:
        but (`nn.Module`, *optional*): a part of the model that is left out.
    """
    copies = (own for own in model.modules() if isinstance(own, AuxiliaryTrainingWrapper))
    left_out = {
        parameter for own in copies if hasattr(own, "original_module") for parameter in own.original_module.parameters()
    }
    left_out |= set() if but is None else set(but.parameters())
    found: dict[str, dict[str, str]] = {"frozen": {}, "trained": {}}
    for name, parameter in model.named_parameters():
        kind = "trained" if parameter.requires_grad else "frozen"
        if parameter not in left_out and not (kind == "trained" and isinstance(model, PeftModel)):
            found[kind][name.replace("_orig_mod.", "")] = _hash_of_weight(parameter)
    return found


def _hash_of_weight(parameter: nn.Parameter) -> str:
    description = f"{parameter.dtype} {list(parameter.shape)}"
    values = b""
    if type(parameter.data) is torch.Tensor and parameter.device.type != "meta" and parameter.numel():
        flat = parameter.detach().reshape(-1) if parameter.is_contiguous() else parameter.detach().flatten()
        some = flat[:: max(1, flat.numel() // _VALUES)].contiguous().cpu()
        values = some.view(torch.uint8).numpy().tobytes()
    return xxh3_64_hexdigest(description.encode() + values)[:8]


def changed_settings(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """From the names of settings that differ to their values in the run before and now. Settings that the run before
    did not know, of another version, don't count; neither do batch size and accumulation if the number of processes is
    another."""
    may_change = {"num_processes"}
    if earlier.get("num_processes") != now.get("num_processes"):
        may_change |= set(_OF_A_STEP)
    return {
        name: (earlier[name], value)
        for name, value in now.items()
        if name in earlier and name not in may_change and earlier[name] != value
    }


def changed_weights(earlier: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """What to say if weights differ."""
    changed = sorted(name for name in earlier.keys() | now.keys() if earlier.get(name) != now.get(name))
    if not changed:
        return None
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return (
        f"another base model (weights {', '.join(changed[:3])}{more}; if these are drawn at random, set a seed before "
        "the model is made)"
    )


def _names(value: Any) -> Any:
    """Names of modules are a set to peft, whatever holds them: it adds some that are there already."""
    is_list = isinstance(value, (list, tuple, set)) and all(isinstance(name, str) for name in value)
    return sorted(set(value)) if is_list else value


def say_settings(changed: Mapping[str, tuple[Any, Any]], what: str = "other settings") -> str:
    return f"{what} (" + ", ".join(f"{name}: {old!r} -> {new!r}" for name, (old, new) in changed.items()) + ")"


def refusal(folder: str | os.PathLike, found: Sequence[str], only_labels: bool = False) -> ValueError:
    """The error of a run that would go on with something else than it began with.

    Args:
        folder: what it would go on from.
        found (`Sequence[str]`): what has changed.
        only_labels (`bool`, *optional*): that nothing but labels has.
    """
    return ValueError(
        f"{folder} is of a run with {' and '.join(found)}. Start again, without `resume_from_checkpoint` and better in "
        "another `output_dir` (run_glue_noisy.py: --overwrite_output_dir, or another --output_dir); or go on with what "
        f"the run began with.{with_its_weights(folder) if only_labels else ''}"
    )


def with_its_weights(folder: str | os.PathLike) -> str:
    """How a new run begins with the weights in a folder; nothing if there are none."""
    load = loading_call(folder)
    if not load:
        return ""
    return (
        " If labels were corrected, a new run may begin with the weights of this one, and finds clean probabilities "
        f"for the new labels: `model = {load}` for a new trainer with another `output_dir` (run_glue_noisy.py: "
        f"--model_name_or_path {folder}, another --output_dir)."
    )
