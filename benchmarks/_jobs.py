"""What a method of accuracy.py gets, and how its training is measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _loading import accuracy, scores_of
from _settings import Cell
from datasets import Dataset
from peft import get_peft_model
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedModel, Trainer, set_seed

from hf_clear import TurnTrainer
from hf_clear.noise import TRUE_LABEL
from hf_clear.runs import NoisyTrainingArguments, PeftArguments

AVERAGED_EPOCHS = 5  # the last ones
LORA_MODULES = {"mpnet": "attn.q,attn.v"}  # query and value, by model type, if peft has no default


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
                "bf16": self.cell.bf16,
                "use_cpu": not torch.cuda.is_available(),  # transformers wants to be told, for bf16
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
        modules = LORA_MODULES.get(self.model.config.model_type) if self.cell.peft_method == "lora" else None
        config = PeftArguments(peft_method=self.cell.peft_method, target_modules=modules).peft_config("SEQ_CLS")
        return cls(
            model=self.model if config is None else get_peft_model(self.model, config),
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


class Stopwatch:
    """Seconds since it was made, and those of the processor, which depend less on what else runs on the machine."""

    def __init__(self):
        self._started = np.array([time.perf_counter(), time.process_time()])
        self._left_out = np.zeros(2)

    def seconds(self) -> np.ndarray:
        """Of the wall and of the processor; `[2]`."""
        return np.array([time.perf_counter(), time.process_time()]) - self._started - self._left_out

    def leave_out_tests(self, trainer: Trainer) -> None:
        evaluate = trainer.evaluate

        def timed(*args: Any, **kwargs: Any) -> dict[str, float]:
            before = self.seconds()
            try:
                return evaluate(*args, **kwargs)
            finally:
                self._left_out += self.seconds() - before

        trainer.evaluate = timed


def train_and_test(trainer: Trainer, watch: Stopwatch | None = None) -> dict[str, Any]:
    """`watch` is that of a method that does something before. Tests take no time on it."""
    watch = watch or Stopwatch()
    watch.leave_out_tests(trainer)
    tests: list[np.ndarray] = []
    compute_metrics = trainer.compute_metrics

    def remember(prediction: EvalPrediction) -> dict[str, float]:
        tests[:] = [scores_of(prediction).argmax(axis=1) == prediction.label_ids]
        return compute_metrics(prediction)

    trainer.compute_metrics = remember
    trainer.train()
    seconds, cpu_seconds = watch.seconds().tolist()
    history = trainer.state.log_history
    accuracies = [entry["eval_test_accuracy"] for entry in history if "eval_test_accuracy" in entry]
    rates = [entry["estimated_noise_rate"] for entry in history if "estimated_noise_rate" in entry]
    store = getattr(trainer, "sample_store", None)
    measured = {
        "accuracy": accuracies[-1],
        "accuracies": accuracies,
        "correct": np.packbits(tests[-1]).tobytes().hex(),  # in the last test, a bit for each sample
        "peak_accuracy": max(accuracies),
        "average_accuracy": float(np.mean(accuracies[-AVERAGED_EPOCHS:])),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "steps": trainer.state.global_step,
        "estimated_noise_rate": rates[-1] if rates else None,
    }
    if store is not None and store.is_fitted:
        measured["suspicion"] = -store.clean_probability.cpu().numpy()
    return measured
