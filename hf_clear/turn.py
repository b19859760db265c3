"""`TurnTrainer`: linear probing, cleansing, fine-tuning (TURN)."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import datasets
import numpy as np
import torch
from peft import PeftModel
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from transformers import Trainer, enable_full_determinism, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    EvalPrediction,
    PredictionOutput,
    TrainOutput,
    get_last_checkpoint,
)

from .base_trainer import BaseTrainerMixin
from .checks import check_task, check_training_set
from .cleansing import check_selection, select_clean
from .estimators import get_estimator
from .fit import fit_clean_probability
from .losses import IGNORED_LABEL, cross_entropy
from .metrics import detection_metrics
from .prediction import (
    FrozenFeatures,
    SamplePredictions,
    predict_features,
    random_state_preserved,
    sample_dataloader,
)
from .probing import (
    Probe,
    base_model_context,
    find_head,
    frozen_features,
    probe_optimizer,
    probe_predictions,
    set_head,
    train_probe,
)
from .report import cleansing_table
from .sample_index import label_names
from .sample_store import SampleStore, damaged
from .training_args import TurnArguments
from .turn_state import STATE_NAME, TurnState

logger = logging.getLogger(__name__)

_NO_SETTINGS = ("probe_feature_memory",)  # doesn't change results


class TurnMixin(BaseTrainerMixin):
    """TURN for [`~transformers.Trainer`] and its subclasses: `class MyTrainer(TurnMixin, OtherTrainer)`.

    See [`TurnTrainer`].
    """

    method = "TURN"

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._default_args = TurnArguments()
        self._head()  # refuses a model without
        check_task(self, self.method)
        self._use_one_gpu()
        self._reset()

    @property
    def turn_args(self) -> TurnArguments:
        """TURN's arguments: `args` itself, or the defaults where `args` is a plain `TrainingArguments`."""
        return self.args if isinstance(self.args, TurnArguments) else self._default_args

    # ---- The phases ----

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Runs the three phases: [`linear_probe`], [`cleanse`], [`finetune`]. Called again, it begins with the model as
        it is: after fine-tuning, with features that have changed.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): as in `Trainer`. `True` goes on from the last
                checkpoint in `output_dir` or, where fine-tuning has saved none yet, from what the phases before it
                leave there (`_turn_state.safetensors`).

        Returns:
            [`~transformers.trainer_utils.TrainOutput`]: metrics of fine-tuning, plus `probe/…`, `cleanse/…` and
            `finetune/…`.

        Raises:
            ValueError: before the first phase, where labels or data don't fit; where all samples are called noisy. The
                probe is kept then: lower `turn_threshold` and go on with `resume_from_checkpoint=True`.
        """
        self._check_training_set()
        checkpoint = self._folder_to_resume(resume_from_checkpoint)
        if self.model_init is not None:
            self._init_model(trial)
        self._reset()
        if checkpoint is not None:
            self._restore(checkpoint)
        if self.sample_store is None:
            self.linear_probe()
        if self.fine_tuning_samples is None:
            self.cleanse()
        return self.finetune(None if checkpoint is None else str(checkpoint), trial, ignore_keys_for_eval)

    def linear_probe(self) -> dict[str, float]:
        """Phase 1: trains the head alone, with generalized cross entropy on the features of the frozen model, which are
        computed once and without dropout. The model gets the trained head; nothing else of it changes.

        Returns:
            `dict[str, float]`: `probe/loss`, the generalized cross entropy on the training set in the last epoch;
            `probe/features_runtime` and `probe/runtime` in seconds; where true labels are known,
            `probe/detection_auroc`, of the losses; where there is an evaluation set, `probe/eval_…`.

        Raises:
            ValueError: where labels or data don't fit, or a feature is not finite.
        """
        self._check_training_set()
        goes_on, self._is_restored = self._is_restored and self.sample_store is None, False
        if not goes_on:  # an interrupted probe may stand in the middle of an epoch
            self._reset()
        settings, estimator = self.turn_args, get_estimator(self.turn_args.turn_estimator)
        with_mean = settings.probe_features == "mean" or estimator.uses_features
        start = time.time()
        with frozen_features(self, self.train_dataset, settings, with_mean, base_model_context(self)) as features:
            if (features.labels == IGNORED_LABEL).any():
                raise ValueError(
                    "TURN needs one class a sample, and the batches hold no labels of shape [batch] under any of the "
                    f"names {', '.join(label_names(self))}. Look at the data collator, or set `label_names`."
                )
            metrics = {"probe/features_runtime": time.time() - start}
            start = time.time()
            self._train_probe(features)
            set_head(self, settings.probe_head, self.probe)
            predictions = probe_predictions(self.probe, features)
            self._predictions = predictions, features.mean.clone() if estimator.uses_features else None
        self.sample_store = SampleStore.empty(len(predictions.losses))
        self.sample_store.add_losses(predictions.losses, predictions.labels)
        metrics["probe/loss"] = next(log["probe/loss"] for log in reversed(self._logs) if "probe/loss" in log)
        metrics["probe/runtime"] = time.time() - start
        is_noisy, known = self._is_noisy(predictions)
        if known.any():
            ranking = detection_metrics(np.exp(-predictions.losses.double().numpy()[known]), is_noisy[known])
            metrics |= {"probe/detection_auroc": ranking["detection_auroc"]} if ranking else {}
        self._finish_phase(metrics)
        evaluated = self._evaluate_probe()
        if evaluated:
            self._finish_phase(metrics | evaluated)
        return metrics | evaluated

    def cleanse(self) -> dict[str, float]:
        """Phase 2: clean probabilities from the probe's losses, one mixture a class, and the samples to fine-tune on
        ([`select_clean`]), in `fine_tuning_samples`.

        Returns:
            `dict[str, float]`: `cleanse/kept`, the number of samples above the threshold;
            `cleanse/fine_tuning_samples`, their number after the balanced draw; what [`fit_clean_probability`] returns;
            where true labels are known, `cleanse/purity` (share of the kept samples whose label is correct) and
            `cleanse/recall` (share of the correctly labelled samples that is kept).

        Raises:
            RuntimeError: where [`linear_probe`] has not run.
            ValueError: where no sample is above the threshold. The probe stays: lower `args.turn_threshold` and cleanse
                again.
        """
        if self.sample_store is None:
            raise RuntimeError("There is nothing to cleanse by: call `linear_probe()` first, or `train()` for all.")
        self._check_size()
        settings, store = self.turn_args, self.sample_store
        check_selection(settings.turn_threshold, settings.turn_balance)
        predictions, features = self._evidence()
        store.mean_losses.fill_(torch.nan)  # one look at the losses, however often this is called
        estimator = get_estimator(settings.turn_estimator)
        logs = fit_clean_probability(self, store, estimator, predictions, features, self.true_labels)
        store.fitted_epoch = 0
        self.fine_tuning_samples = None
        probability = store.clean_probability.numpy()
        metrics = {f"cleanse/{name}": value for name, value in logs.items() if not name.startswith("memorization")}
        metrics["cleanse/kept"] = int((probability > settings.turn_threshold).sum())
        is_noisy, known = self._is_noisy(predictions)
        if (known & ~is_noisy).any():
            row = cleansing_table(probability[known], is_noisy[known], (settings.turn_threshold,))[0]
            metrics |= {f"cleanse/{name}": row[name] for name in ("purity", "recall")}
        self._save_state()
        self.fine_tuning_samples = select_clean(
            probability, store.labels.numpy(), settings.turn_threshold, settings.turn_balance, self.args.seed
        )
        metrics["cleanse/fine_tuning_samples"] = len(self.fine_tuning_samples)
        self._finish_phase(metrics)
        return metrics

    def finetune(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Phase 3: trains the whole model, or its PEFT modules, on `fine_tuning_samples` with cross entropy. Arguments
        and result as of `Trainer.train`, with metrics of all phases.

        Raises:
            RuntimeError: where [`cleanse`] has not run.
        """
        checkpoint = self._folder_to_resume(resume_from_checkpoint)
        if checkpoint is not None and self.fine_tuning_samples is None:
            self._restore(checkpoint)
        if self.fine_tuning_samples is None:
            raise RuntimeError("There is nothing to fine-tune on: call `cleanse()` first, or `train()` for all phases.")
        self._check_size()
        checkpoint = str(checkpoint) if checkpoint is not None and _is_checkpoint(checkpoint) else None
        model_init, self.model_init = self.model_init, None  # or `Trainer` would draw a model that was never probed
        try:
            output = super().train(checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.model_init = model_init
        own = {
            f"finetune/{name.removeprefix('train_')}": value
            for name, value in output.metrics.items()
            if name.startswith("train_")
        }
        return output._replace(metrics={**self.phase_metrics, **own, **output.metrics})

    # ---- What users ask ----

    def predict_probe(self, dataset: Dataset, metric_key_prefix: str = "test") -> PredictionOutput:
        """What the probe predicts from the features of the model as it is now, without its adapter if it has one: until
        fine-tuning, those that it was trained on.

        Args:
            dataset (`torch.utils.data.Dataset`): map-style, like the training set.
            metric_key_prefix (`str`, *optional*, defaults to `"test"`): as in `Trainer.predict`.

        Returns:
            [`~transformers.trainer_utils.PredictionOutput`]: class scores `[num_samples, num_labels]` in the order of
            the data set (or what `preprocess_logits_for_metrics` makes of them), its labels, and metrics: the mean
            cross entropy and those of `compute_metrics`.

        Raises:
            RuntimeError: where there is no probe.
        """
        if self.probe is None:
            raise RuntimeError("There is no probe: call `linear_probe()` first.")
        with frozen_features(
            self, dataset, self.turn_args, self.probe.uses_mean, base_model_context(self), needs_labels=False
        ) as features:
            logits, labels = self.probe.predict(features), features.labels
        is_labelled, metrics = bool((labels != IGNORED_LABEL).all()), {}
        if is_labelled:
            metrics["loss"] = cross_entropy(logits, labels).mean().item()
        if self.preprocess_logits_for_metrics is not None:
            logits = self.preprocess_logits_for_metrics(logits, labels)
        if is_labelled and self.compute_metrics is not None:
            if self.args.batch_eval_metrics or self.args.include_for_metrics:
                logger.warning("`compute_metrics` is not asked about the probe: it wants batches, inputs or losses.")
            else:
                metrics |= self.compute_metrics(EvalPrediction(logits.numpy(), labels.numpy()))
        return PredictionOutput(
            logits.numpy(),
            labels.numpy() if is_labelled else None,
            {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
        )

    def features(self, dataset: Dataset | None = None) -> np.ndarray:
        """The last hidden states of the model as it is now, averaged over the tokens: `[num_samples, hidden_size]`.

        Args:
            dataset (`torch.utils.data.Dataset`, *optional*): the training set by default.
        """
        dataset = self.train_dataset if dataset is None else dataset
        return predict_features(self, sample_dataloader(self, dataset, needs_labels=False)).mean.numpy()

    # ---- Fine-tuning ----

    def get_train_dataloader(self) -> DataLoader:
        if self.fine_tuning_samples is None:
            return super().get_train_dataloader()
        stock, rows = self.train_dataset, self.fine_tuning_samples.tolist()
        self.train_dataset = stock.select(rows) if isinstance(stock, datasets.Dataset) else Subset(stock, rows)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = stock

    def _prepare_for_training(self, *args: Any, **kwargs: Any):
        if self.state.global_step == 0:  # a new state, without what was logged before fine-tuning
            self.state.log_history = [*self._logs, *self.state.log_history]
        return super()._prepare_for_training(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self._save_state(output_dir)

    # ---- Phases: state and helpers ----

    def _reset(self) -> None:
        self.probe: Probe | None = None
        self.sample_store = None
        self.fine_tuning_samples: np.ndarray | None = None
        self.phase_metrics: dict[str, float] = {}
        self._logs: list[dict[str, float]] = []
        self._is_restored = False  # as a file has it, and nothing was done since
        self._probe_epochs = 0
        self._probe_optimizer: dict[str, torch.Tensor] = {}
        self._predictions: tuple[SamplePredictions, torch.Tensor | None] | None = None

    def _train_probe(self, features: FrozenFeatures) -> None:
        settings = self.turn_args
        if self.probe is None:
            mean_size = features.mean.shape[1] if settings.probe_features == "mean" else None
            self.probe = Probe(self._head(), features.head_shape, mean_size)
        optimizer = probe_optimizer(self.probe, features, settings)
        parameters = list(self.probe.parameters())
        for name, tensor in self._probe_optimizer.items():  # restored
            number, key = name.split(".")
            optimizer.state[parameters[int(number)]][key] = tensor.to(tensor if key == "step" else parameters[0])

        def on_epoch_end(epoch: int, loss: float) -> None:
            self._probe_epochs = epoch
            self._probe_optimizer = {
                f"{number}.{key}": value
                for number, parameter in enumerate(parameters)
                for key, value in optimizer.state[parameter].items()
            }
            self._log_phase({"probe/loss": loss, "probe/epoch": epoch})
            self._save_state()

        quiet = self.args.disable_tqdm or not self.is_local_process_zero()
        train_probe(
            self.probe, features, settings, self.args.seed, optimizer, self._probe_epochs, on_epoch_end, not quiet
        )
        self._probe_optimizer = {}

    def _evaluate_probe(self) -> dict[str, float]:
        sets = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        metrics = {}
        for name, dataset in sets.items():
            if isinstance(dataset, (IterableDataset, datasets.IterableDataset)):
                logger.warning("The probe is not evaluated on an IterableDataset: its samples have no index.")
            elif dataset is not None:
                metrics |= self.predict_probe(dataset, f"probe/eval_{name}".removesuffix("_")).metrics
        return metrics

    def _evidence(self) -> tuple[SamplePredictions, torch.Tensor | None]:
        """What the probe makes of the training set and, where the estimator uses them, the mean features: as phase 1
        left them, or computed again."""
        estimator = get_estimator(self.turn_args.turn_estimator)
        if self._predictions is not None and not (estimator.uses_features and self._predictions[1] is None):
            return self._predictions
        if self.state.global_step > 0 and self._peft_model() is None:
            raise RuntimeError(
                "Fine-tuning has changed the features that the probe was trained on, so it can't be asked again. "
                "Cleanse before fine-tuning, or with another TurnTrainer for the pretrained model: "
                "`train(resume_from_checkpoint=...)`."
            )
        with_mean = self.probe.uses_mean or estimator.uses_features
        with frozen_features(self, self.train_dataset, self.turn_args, with_mean, base_model_context(self)) as features:
            mean_features = features.mean.clone() if estimator.uses_features else None
            self._predictions = probe_predictions(self.probe, features), mean_features
        return self._predictions

    def _is_noisy(self, predictions: SamplePredictions) -> tuple[np.ndarray, np.ndarray]:
        """Which given labels are wrong, and for which that is known; both `[num_samples]`."""
        given, true = predictions.labels.numpy(), self.true_labels
        true = np.full_like(given, IGNORED_LABEL) if true is None else true
        return given != true, true >= 0

    def _finish_phase(self, metrics: dict[str, float]) -> None:
        prefix = next(iter(metrics)).split("/")[0]
        earlier = {name: value for name, value in self.phase_metrics.items() if not name.startswith(f"{prefix}/")}
        self.phase_metrics = earlier | metrics
        self._log_phase(metrics)
        self._save_state()

    def _log_phase(self, metrics: dict[str, float]) -> None:
        self._logs.append({**metrics, "step": 0})
        self.log(dict(metrics))

    def _first_fit(self) -> str:
        return "call `train()`, or `linear_probe()` and `cleanse()`."

    def _head(self) -> nn.Module:
        return find_head(self.accelerator.unwrap_model(self.model), self.turn_args.probe_head)

    def _init_model(self, trial: Any) -> None:
        """As `Trainer.train`, which does it too late for us."""
        (enable_full_determinism if self.args.full_determinism else set_seed)(self.args.seed)
        self._hp_search_setup(trial)
        self.accelerator.free_memory()
        self.model = self.model_wrapped = self.call_model_init(trial)
        self.optimizer, self.lr_scheduler = None, None
        if self.place_model_on_device:
            self._move_model_to_device(self.model, self.args.device)
        self._head()

    def _peft_model(self) -> PeftModel | None:
        model = self.accelerator.unwrap_model(self.model)
        return model if isinstance(model, PeftModel) else None

    def _check_training_set(self) -> None:
        check_training_set(self)
        with random_state_preserved():  # a transform may be random
            item = self.train_dataset[0]
        labels = [item[name] for name in label_names(self) if isinstance(item, Mapping) and name in item]
        if any(np.ndim(label) > 0 for label in labels):
            raise ValueError(
                "TURN needs one class label a sample, and the label of sample 0 is a list: one for every token?"
            )

    def _check_size(self) -> None:
        if len(self.train_dataset) != len(self.sample_store.labels):
            raise ValueError(
                f"The training set has {len(self.train_dataset)} samples, and the probe has seen "
                f"{len(self.sample_store.labels)}: it was replaced in between. Begin again with `linear_probe()`."
            )

    def _folder_to_resume(self, resume_from_checkpoint: str | bool | None) -> Path | None:
        if not resume_from_checkpoint:
            return None
        self._recover_checkpoints()
        if resume_from_checkpoint is not True:
            folder = Path(resume_from_checkpoint)
            if not folder.is_dir():
                what = "is a file: name the folder that it is in" if folder.exists() else "does not exist"
                raise FileNotFoundError(f"There is nothing to resume from: {folder} {what}.")
            return folder
        folder = Path(self.args.output_dir)
        last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        if last is None and not (folder / STATE_NAME).is_file():
            raise ValueError(f"No checkpoint and no {STATE_NAME} in the output directory ({folder}) to resume from.")
        return folder if last is None else Path(last)

    def _settings(self) -> dict[str, Any]:
        names = [setting.name for setting in dataclasses.fields(TurnArguments) if setting.name not in _NO_SETTINGS]
        settings = {name: getattr(self.turn_args, name) for name in names}
        model = self.accelerator.unwrap_model(self.model)
        labels = None
        if isinstance(self.train_dataset, datasets.Dataset):
            columns = [name for name in label_names(self) if name in self.train_dataset.column_names]
            labels = crc32(repr(self.train_dataset.with_format(None)[columns[0]][:]).encode()) if columns else None
        return {
            **settings,
            "seed": self.args.seed,
            "num_samples": len(self.train_dataset),
            "checksum_of_labels": labels,
            "model": type(model).__name__,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        }

    def _save_state(self, folder: str | None = None) -> None:
        if not self.args.should_save:
            return
        state = TurnState(
            settings=self._settings(),
            probe_epochs=self._probe_epochs,
            probe={} if self.probe is None else self.probe.state_dict(),
            head_shape=() if self.probe is None else self.probe.head_shape,
            optimizer=self._probe_optimizer,
            sample_store=self.sample_store,
            fine_tuning_samples=self.fine_tuning_samples,
            metrics=self.phase_metrics,
            logs=self._logs,
        )
        state.save(Path(self.args.output_dir if folder is None else folder) / STATE_NAME)

    def _restore(self, folder: Path) -> None:
        """Reads what [`_save_state`] wrote.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: where the file is damaged, no state of TURN, or of a run with other settings.
        """
        path = folder / STATE_NAME
        if not path.is_file() and _is_checkpoint(folder):  # with `save_only_model`
            path = folder.parent / STATE_NAME if (folder.parent / STATE_NAME).is_file() else path
        state = TurnState.load(path)
        changed = [name for name, value in self._settings().items() if state.settings.get(name) != value]
        can_change = () if _is_checkpoint(folder) else ("turn_threshold", "turn_balance", "turn_estimator")
        wrong = [name for name in changed if name not in can_change]
        if wrong:
            earlier = ", ".join(f"{name}={state.settings.get(name)!r}" for name in wrong)
            raise ValueError(
                f"{path} is of a run with other settings ({earlier}). Resume with these, or start again "
                "without `resume_from_checkpoint`."
            )
        self._reset()
        self._is_restored = True
        self._probe_epochs, self._probe_optimizer = state.probe_epochs, state.optimizer
        self.phase_metrics, self._logs = state.metrics, state.logs
        mean_size = state.probe["mean.weight"].shape[1] if "mean.weight" in state.probe else None
        try:
            self.probe = Probe(self._head(), state.head_shape, mean_size)
            self.probe.load_state_dict(state.probe)
        except RuntimeError as error:
            raise damaged(path, f"its probe doesn't fit the model's head: {error}") from error
        self.sample_store = state.sample_store
        if self.sample_store is not None:
            set_head(self, self.turn_args.probe_head, self.probe)
        if not changed:
            self.fine_tuning_samples = state.fine_tuning_samples


def _is_checkpoint(folder: Path) -> bool:
    """Whether fine-tuning saved it. `output_dir` may hold the state of a trainer (`save_state`), but no optimizer."""
    is_named_so = folder.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-")
    return (folder / TRAINER_STATE_NAME).is_file() and (is_named_so or any(folder.glob("optimizer*")))


class TurnTrainer(TurnMixin, Trainer):
    """[`~transformers.Trainer`] that fine-tunes on the samples whose label looks correct to a linear probe (TURN, IJCAI
    2024, arXiv 2310.17668).

    1. Linear probing: the head alone is trained on the features of the frozen pretrained model, which no wrong label
       has bent, with generalized cross entropy.
    2. Cleansing: a mixture of two Gaussians for each class, over the probe's losses, gives every sample a clean
       probability; those above τ are kept (`turn_balance="min"`, as in the paper: the same number of each class).
    3. Fine-tuning of the whole model on these, with cross entropy.

    It shares its estimators and reports with [`ClearTrainer`], which trains on all samples instead and routes them.

    Args:
        model, args, data_collator, train_dataset, ...: as for [`~transformers.Trainer`]; `args` are those of
            fine-tuning. A plain `TrainingArguments` works: TURN's own settings then have their defaults, see
            [`TurnTrainingArguments`]. The training set has to be map-style, with one class a sample: texts, images.
            A column `true_label` of it is used for metrics alone.
        peft_config (`PeftConfig`, *optional*): fine-tunes PEFT modules and head instead of the whole model.

    Raises:
        ValueError: before training starts, where labels, arguments or data don't fit, or where the head can't be
            found; the message says what to do.

    Example:

    ```python
    >>> trainer = TurnTrainer(
    ...     model=AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=77),
    ...     args=TurnTrainingArguments(output_dir="out"),
    ...     train_dataset=train,
    ...     processing_class=tokenizer,
    ... )
    >>> trainer.train()
    >>> trainer.label_issues().to_pandas().head()
    ```
    """
