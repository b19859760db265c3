"""What is scored while a run goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction, TrainerCallback, TrainingArguments

from .._names import TRUE_LABEL
from .._typing import AnyTrainer
from ..callbacks import MemorizationCallback
from ..turn.trainer import TurnTrainer
from .training_arguments import NoisyTrainingArguments


def datasets_of_each_epoch(
    training_args: TrainingArguments, eval_dataset: Dataset | None, test_dataset: Dataset | None
) -> Dataset | dict[str, Dataset] | None:
    """What a trainer gets as `eval_dataset`, to be scored after each epoch. The best model is never chosen on the test
    set.

    Args:
        training_args (`TrainingArguments`): changed to suit: `metric_for_best_model` becomes that of the validation
            set, and without any set there is no evaluation.
        eval_dataset (`Dataset`, *optional*): the validation set; its metrics begin with `eval_` if it is alone, and
            else with `eval_validation_`.
        test_dataset (`Dataset`, *optional*): a test set to score each epoch; its metrics begin with `eval_test_`.

    Raises:
        ValueError: if the best model would be chosen on the test set, or by nothing.
    """
    scored: Any = eval_dataset
    if test_dataset is not None:
        sets = {"validation": eval_dataset, "test": test_dataset}
        scored = {name: dataset for name, dataset in sets.items() if dataset is not None}
        if training_args.metric_for_best_model is not None:
            name = training_args.metric_for_best_model.removeprefix("eval_")
            if name.startswith("test_"):
                raise ValueError(f"--metric_for_best_model {name}: the best model is never chosen on the test set.")
            training_args.metric_for_best_model = f"eval_validation_{name.removeprefix('validation_')}"
    if training_args.load_best_model_at_end and eval_dataset is None:
        raise ValueError(
            "--load_best_model_at_end needs a validation set: the best model is never chosen on the test set."
        )
    if scored is None:
        training_args.eval_strategy = "no"
    return scored


def check_best_metric(
    training_args: TrainingArguments, compute_metrics: Callable[[EvalPrediction], dict[str, float]], several: bool
) -> None:
    """Makes sure that `metric_for_best_model` is a metric of the evaluation.

    Args:
        several (`bool`): whether there are several evaluation sets, the names of their metrics beginning with theirs.

    Raises:
        ValueError: if `metric_for_best_model` is none that an evaluation gives: `Trainer` looks for it after the first.
    """
    asked = training_args.metric_for_best_model
    if asked is None or training_args.eval_strategy == "no":
        return
    made_up = EvalPrediction(np.eye(2), np.arange(2))
    known = ["loss", *compute_metrics(made_up)]
    if asked.removeprefix("eval_").removeprefix("validation_" * several) not in known:
        raise ValueError(f"--metric_for_best_model {asked}: there is no such metric. There are {', '.join(known)}.")


def metrics_of(*metrics: Any) -> Callable[[EvalPrediction], dict[str, float]]:
    """A `compute_metrics` for a trainer, from metrics of `evaluate` that go by class numbers."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        scores = prediction.predictions
        predictions = np.argmax(scores[0] if isinstance(scores, tuple) else scores, axis=1)
        results: dict[str, float] = {}
        for metric in metrics:
            results |= metric.compute(predictions=predictions, references=prediction.label_ids)
        return results

    return compute_metrics


class ProbeTestCallback(TrainerCallback):
    """Tests TURN's probe before fine-tuning changes the features that it was trained on.

    Args:
        trainer (`TurnTrainer`): the metrics, `probe_test_...`, join those of its phases.
        dataset (`Dataset`): the test set.
    """

    def __init__(self, trainer: TurnTrainer, dataset: Dataset):
        self.trainer = trainer
        self.dataset = dataset

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:  # a checkpoint has the result with it
            self.trainer.phase_metrics |= self.trainer.predict_probe(self.dataset, "probe_test").metrics or {}


def add_callbacks(trainer: AnyTrainer, test_dataset: Dataset | None) -> None:
    """What is measured while a run goes on, besides its evaluation: TURN's probe on the test set, and with
    `report_memorization` the memorization of the training set.

    Args:
        trainer (`Trainer`): with [`NoisyTrainingArguments`].
        test_dataset (`Dataset`, *optional*): with labels.

    Raises:
        ValueError: if memorization is asked for, and no true labels are known.
    """
    if isinstance(trainer, TurnTrainer) and test_dataset is not None:
        trainer.add_callback(ProbeTestCallback(trainer, test_dataset))
    args, train = cast(NoisyTrainingArguments, trainer.args), cast(Dataset, trainer.train_dataset)
    if args.report_memorization and args.do_train:
        if TRUE_LABEL not in train.column_names:
            raise ValueError(
                "--report_memorization needs true labels: inject noise (--noise_type) or name their column "
                "(--clean_label_column_name)."
            )
        trainer.add_callback(MemorizationCallback(trainer, train[TRUE_LABEL]))
