"""The methods that accuracy.py compares, by name, and their settings."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from _frozen import cleanlab_pruning, run_cleanlab, run_logistic_regression, run_probe
from _loading import accuracy
from _settings import Cell
from datasets import Dataset
from peft import get_peft_model
from transformers import DataCollatorWithPadding, HfArgumentParser, PreTrainedModel, Trainer, set_seed

from hf_clear import ClearArguments, ClearTrainer, TurnTrainer, per_sample_losses, preset
from hf_clear.noise import TRUE_LABEL
from hf_clear.presets import PRESETS
from hf_clear.runs import NoisyTrainingArguments, PeftArguments

AVERAGED_EPOCHS = 5  # the last ones
# A training loss alone: nothing is routed, and a mixture of the losses that training makes anyway finds wrong labels.
_LOSS_ALONE = {
    "clear_routing": "none",
    "clear_warmup": "epochs",
    "clear_warmup_epochs": 1,
    "clear_estimator": "gaussian_mixture",
    "clear_loss_source": "online",
    "clear_ensemble_source": "online",
}


@dataclass
class Job:
    """What a method gets: a cell with its data, and the model without PEFT modules. Nothing but metrics looks at
    `is_noisy`, oracles excepted."""

    cell: Cell
    train: Dataset
    test: Dataset
    model: PreTrainedModel
    tokenizer: Any
    output_dir: str

    @property
    def is_noisy(self) -> np.ndarray:
        return np.array(self.train["label"]) != np.array(self.train[TRUE_LABEL])

    def arguments(self, **settings: Any) -> NoisyTrainingArguments:
        return NoisyTrainingArguments(
            **{
                "output_dir": self.output_dir,
                "num_train_epochs": self.cell.epochs or 1,
                "learning_rate": self.cell.learning_rate or NoisyTrainingArguments.learning_rate,
                "seed": self.cell.seed,
                "eval_strategy": "epoch",
                "save_strategy": "no",
                "logging_strategy": "epoch",
                "report_to": [],
                "disable_tqdm": True,
                **settings,
            }
        )

    def trainer(self, cls: type[Trainer], train: Dataset | None = None, **settings: Any) -> Trainer:
        """On the training set, or on some of its samples for as many steps, tested as often."""
        arguments = self.arguments(**settings)
        if train is not None:
            steps = -(-len(self.train) // arguments.per_device_train_batch_size)
            more = {"max_steps": steps * self.cell.epochs, "eval_strategy": "steps", "eval_steps": steps}
            arguments = self.arguments(**settings, **more)
        set_seed(self.cell.seed)  # the PEFT modules start alike for every method
        config = PeftArguments(peft_method=self.cell.peft_method).peft_config("SEQ_CLS")
        return cls(
            model=get_peft_model(self.model, config),
            args=arguments,
            train_dataset=self.train if train is None else train,
            eval_dataset={"test": self.test},
            processing_class=self.tokenizer,
            data_collator=DataCollatorWithPadding(self.tokenizer),
            compute_metrics=accuracy,
        )

    def frozen(self, train: Dataset | None = None, **settings: Any) -> TurnTrainer:
        """For the frozen model's features, and for its head."""
        return TurnTrainer(
            model=self.model,
            args=self.arguments(eval_strategy="no", **settings),
            train_dataset=self.train if train is None else train,
            processing_class=self.tokenizer,
            data_collator=DataCollatorWithPadding(self.tokenizer),
            compute_metrics=accuracy,
        )

    def right_samples(self) -> Dataset:
        """
        Raises:
            ValueError: if there are none.
        """
        rows = np.flatnonzero(~self.is_noisy)
        if len(rows) == 0:
            raise ValueError("No label is right: there is nothing to train an oracle on.")
        return self.train.select(rows)


def train_and_test(trainer: Trainer, started: float | None = None) -> dict[str, Any]:
    """Seconds are without those of the tests; `started` is when a method began that does something before."""
    started = time.perf_counter() if started is None else started
    trainer.train()
    seconds = time.perf_counter() - started
    history = trainer.state.log_history
    tests = [entry for entry in history if "eval_test_accuracy" in entry]
    accuracies = [entry["eval_test_accuracy"] for entry in tests]
    rates = [entry["estimated_noise_rate"] for entry in history if "estimated_noise_rate" in entry]
    store = getattr(trainer, "sample_store", None)
    measured = {
        "accuracy": accuracies[-1],
        "accuracies": accuracies,
        "peak_accuracy": max(accuracies),
        "average_accuracy": float(np.mean(accuracies[-AVERAGED_EPOCHS:])),
        "seconds": seconds - sum(entry["eval_test_runtime"] for entry in tests),
        "steps": trainer.state.global_step,
        "estimated_noise_rate": rates[-1] if rates else None,
    }
    if store is not None and store.is_fitted:
        measured["suspicion"] = -store.clean_probability.cpu().numpy()
    return measured


# ---- Methods ----


def run_plain(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    trainer = job.trainer(Trainer)
    return {**train_and_test(trainer), "suspicion": per_sample_losses(trainer)}


def run_clear(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    trainer = job.trainer(ClearTrainer, **settings)
    measured = train_and_test(trainer)
    names = [field.name for field in dataclasses.fields(ClearArguments)]
    resolved = {name: getattr(trainer.args, name) for name in names}  # as they are now: defaults may change
    measured["settings"] = {**resolved, "clear_ensemble_source": trainer.ensemble_source}
    if "suspicion" not in measured:  # nothing was fitted
        measured["suspicion"] = per_sample_losses(trainer)
    return measured


def run_turn(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    return train_and_test(job.trainer(TurnTrainer))


def run_cleanlab_plain(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    kept, quality = cleanlab_pruning(job.frozen().features(), np.array(job.train["label"]), job.cell.seed)
    trainer = job.trainer(Trainer, job.train.select(np.flatnonzero(kept)))
    return {**train_and_test(trainer, started), "suspicion": -quality, "pruned_samples": int((~kept).sum())}


def run_oracle(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    return train_and_test(job.trainer(Trainer, job.right_samples()))


def run_oracle_head_start(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    started, right = time.perf_counter(), job.right_samples()
    job.frozen(right, probe_gce_q=0.0).linear_probe()  # cross entropy; the model gets the head
    return train_and_test(job.trainer(Trainer, right), started)


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
    "clear": Method(run_clear),
    **{name: Method(run_clear, {"preset": name}) for name in PRESETS if name != "clear"},
    "elr": Method(run_clear, {**_LOSS_ALONE, "clear_loss": "elr", "clear_ensemble_size": 3}),  # the paper's beta of 0.7
    "gce": Method(run_clear, {**_LOSS_ALONE, "clear_loss": "gce"}),
    "turn": Method(run_turn),
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


def parse_method(method: str) -> tuple[str, dict[str, Any]]:
    """`"clear:preset=paper,clear_gamma=0.8"` to the name of the method and its settings.

    Raises:
        ValueError: where there is no such method or setting, or the setting is refused.
    """
    name, colon, text = method.partition(":")
    if name not in METHODS:
        raise ValueError(f"There is no method {name!r}. There are {', '.join(METHODS)}.")
    if not colon:
        return name, dict(METHODS[name].settings)
    if name != "clear":
        raise ValueError(f"{method!r}: {name} has no settings here; clear has (clear:key=value,key=value).")
    pairs = [pair.partition("=")[::2] for pair in text.split(",")]
    known = ["preset", *(field.name for field in dataclasses.fields(ClearArguments))]
    for key, value in pairs:
        if key not in known or not value:
            raise ValueError(
                f"{method!r}: {key!r} is no setting with a value (key=value). Settings: {', '.join(known)}."
            )
    parser = HfArgumentParser(ClearArguments)
    parser.add_argument("--preset", choices=PRESETS)

    def refuse(message: str):
        raise ValueError(f"{method!r}: {message}")

    parser.error = refuse
    parsed = vars(parser.parse_args([f"--{key}={value}" for key, value in pairs]))
    settings = {key: parsed[key] for key, _ in pairs}
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
