"""`TurnMixin`: linear probing, cleansing, fine-tuning (TURN)."""

from __future__ import annotations

from typing import Any, cast

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import TrainingArguments, enable_full_determinism, set_seed
from transformers.trainer_utils import PredictionOutput, TrainOutput

from .._names import IGNORED_LABEL
from .._processes import together
from .._typing import MapDataset
from ..checkpoints.mixin import alone
from ..checks.before_training import check_task, check_training_set
from ..estimators import get_estimator
from ..features import predict_features
from ..fit import fitted_store, store_of
from ..identity.same_data import check_not_replaced
from ..identity.shares import check_same_length
from ..identity.training import Identity
from ..metrics import detection_metrics
from ..passes import SamplePredictions, sample_dataloader
from ..report import cleansing_table
from ..trainable import check_weights
from .probe_phase import check_one_label_a_sample
from .resuming import ResumablePhasesMixin, is_checkpoint
from .selection import check_selected, check_selection, select_clean


class TurnMixin(ResumablePhasesMixin):
    """TURN for [`~transformers.Trainer`] and its subclasses: `class MyTrainer(TurnMixin, OtherTrainer)`.

    See [`TurnTrainer`].
    """

    method = "TURN"
    _always_writes = True
    _has_selected = False  # whether the dataloader of fine-tuning comes from ours

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._head()  # refuses a model without
        check_task(self, self.method)
        self._use_one_gpu()

    # ---- The phases ----

    @together
    @alone
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
                checkpoint in `output_dir` or, if fine-tuning has saved none yet, from what the phases before it
                leave there (`_turn_state.safetensors`).

        Returns:
            [`~transformers.trainer_utils.TrainOutput`]: metrics of fine-tuning, plus `probe_…`, `cleanse_…` and
            `finetune_…`.

        Raises:
            ValueError: before the first phase, if labels, data or weights don't fit; later, if all samples are called
                noisy. The probe is kept then: lower `turn_threshold` and go on with `resume_from_checkpoint=True`.
        """
        self._check_training_set()
        checkpoint = self._folder_to_resume(resume_from_checkpoint)
        if self.model_init is not None:
            self._init_model(trial)
        check_weights(self)  # fine-tuning would refuse them after the other phases
        self._reset()
        if checkpoint is not None:
            self._restore(checkpoint)
        if self.sample_store is None:
            self.linear_probe()
        if self.fine_tuning_samples is None:
            self.cleanse()
        return self.finetune(None if checkpoint is None else str(checkpoint), trial, ignore_keys_for_eval)

    @together
    @alone
    def linear_probe(self) -> dict[str, float]:
        """Phase 1: trains the head alone, with generalized cross entropy on the features of the frozen model, which are
        computed once and without dropout. The model gets the trained head; nothing else of it changes.

        Returns:
            `dict[str, float]`: `probe_loss`, the generalized cross entropy on the training set in the last epoch;
            `probe_features_runtime` and `probe_runtime` in seconds; if true labels are known,
            `probe_detection_auroc`, of the losses; if there is an evaluation set, `probe_eval_…`.

        Raises:
            ValueError: if labels or data don't fit, or a feature is not finite.
        """
        self._check_training_set()
        goes_on, self._is_restored = self._is_restored and self.sample_store is None, False
        if not goes_on:  # an interrupted probe may stand in the middle of an epoch
            self._reset()
            self._identity = self._new_identity()

        def on_epoch_end(epoch: int, loss: float) -> None:
            self._log_phase({"probe_loss": loss, "probe_epoch": epoch})
            self._save_state()

        settings = self.turn_args
        keep_mean = get_estimator(settings.turn_estimator).uses_features
        metrics = self._probing.run(self, settings, keep_mean, on_epoch_end)
        predictions, _ = self._probing.evidence(self, settings, keep_mean)
        self.sample_store = store_of(predictions)
        metrics["probe_loss"] = next(log["probe_loss"] for log in reversed(self._logs) if "probe_loss" in log)
        is_noisy, known = self._is_noisy(predictions)
        known &= predictions.losses.isfinite().numpy()
        if known.any():
            ranking = detection_metrics(np.exp(-predictions.losses.double().numpy()[known]), is_noisy[known])
            metrics |= {"probe_detection_auroc": ranking["detection_auroc"]} if ranking else {}
        self._finish_phase("probe", metrics)
        evaluated = self._probing.evaluate(self, settings)
        if evaluated:
            self._finish_phase("probe", metrics | evaluated)
        return metrics | evaluated

    @together
    @alone
    def cleanse(self) -> dict[str, float]:
        """Phase 2: clean probabilities from the probe's losses, one mixture a class, and the samples to fine-tune on
        ([`select_clean`]), in `fine_tuning_samples`.

        Returns:
            `dict[str, float]`: `cleanse_kept`, the number of samples above the threshold;
            `cleanse_fine_tuning_samples`, their number after the balanced draw; what [`fit_clean_probability`] returns;
            if true labels are known, `cleanse_purity` (share of the kept samples whose label is correct) and
            `cleanse_recall` (share of the correctly labelled samples that is kept).

        Raises:
            RuntimeError: if [`linear_probe`] has not run.
            ValueError: if no sample is above the threshold. The probe stays: lower `args.turn_threshold` and cleanse
                again.
        """
        if self.sample_store is None:
            raise RuntimeError("There is nothing to cleanse by: call `linear_probe()` first, or `train()` for all.")
        self._check_replaced()
        settings = self.turn_args
        check_selection(settings.turn_threshold, settings.turn_balance, prefix="turn_")
        estimator = get_estimator(settings.turn_estimator)
        predictions, features = self._probing.evidence(self, settings, estimator.uses_features)
        # A new store: one look at the losses, however often this is called.
        self.sample_store, logs = fitted_store(self, estimator, predictions, features, self.true_labels)
        self.fine_tuning_samples = None
        probability = self.sample_store.known_clean_probability().numpy()
        metrics = {f"cleanse_{name}": value for name, value in logs.items() if not name.startswith("memorization")}
        metrics["cleanse_kept"] = int((probability > settings.turn_threshold).sum())
        is_noisy, known = self._is_noisy(predictions)
        known &= ~np.isnan(probability)
        if (known & ~is_noisy).any():
            row = cleansing_table(probability[known], is_noisy[known], (settings.turn_threshold,))[0]
            metrics |= {f"cleanse_{name}": row[name] for name in ("purity", "recall")}
        self._save_state()
        self.fine_tuning_samples = select_clean(
            probability,
            self.sample_store.labels.numpy(),
            settings.turn_threshold,
            settings.turn_balance,
            self.args.seed,
            prefix="turn_",
        )
        metrics["cleanse_fine_tuning_samples"] = len(self.fine_tuning_samples)
        self._finish_phase("cleanse", metrics)
        return metrics

    @together
    @alone
    def finetune(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Phase 3: trains the whole model, or its PEFT modules, on `fine_tuning_samples` with cross entropy. Arguments
        and result as of `Trainer.train`, with metrics of all phases.

        Raises:
            RuntimeError: if [`cleanse`] has not run.
        """
        folder = self._folder_to_resume(resume_from_checkpoint)
        if folder is not None and self.fine_tuning_samples is None:
            self._restore(folder)
        if self.fine_tuning_samples is None:
            raise RuntimeError("There is nothing to fine-tune on: call `cleanse()` first, or `train()` for all phases.")
        self._check_replaced()
        checkpoint = str(folder) if folder is not None and is_checkpoint(folder) else None
        model_init, self._has_selected = self.model_init, False
        self.model_init = None  # type: ignore[assignment]  # or `Trainer` would draw a model that was never probed
        try:
            output = super().train(checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.model_init = model_init
        own = {name: value for name, value in output.metrics.items() if name.startswith("train_")}
        own = {name.replace("train_", "finetune_", 1): value for name, value in own.items()}
        return output._replace(metrics={**self.phase_metrics, **own, **output.metrics})

    # ---- What users ask ----

    @together
    def predict_probe(self, dataset: MapDataset, metric_key_prefix: str = "test") -> PredictionOutput:
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
            RuntimeError: if there is no probe.
        """
        if self.probe is None:
            raise RuntimeError("There is no probe: call `linear_probe()` first.")
        return self._probing.predict(self, self.turn_args, dataset, metric_key_prefix)

    @together
    def features(self, dataset: MapDataset | None = None) -> np.ndarray:
        """The last hidden states of the model as it is now, averaged over the tokens: `[num_samples, hidden_size]`.

        Args:
            dataset (`torch.utils.data.Dataset`, *optional*): the training set by default.
        """
        dataset = self.train_dataset if dataset is None else dataset
        found = predict_features(self, sample_dataloader(self, dataset, needs_labels=False))
        return cast(torch.Tensor, found.mean).numpy()

    # ---- Fine-tuning ----

    def get_train_dataloader(self) -> DataLoader:
        if self.fine_tuning_samples is None:
            return super().get_train_dataloader()
        self._has_selected = True
        stock, rows = self.train_dataset, self.fine_tuning_samples.tolist()
        self.train_dataset = (
            stock.select(rows) if isinstance(stock, datasets.Dataset) else Subset(cast(Dataset, stock), rows)
        )
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = stock

    def set_initial_training_values(self, args: TrainingArguments, dataloader: DataLoader, *others: Any):
        if not self._has_selected:
            check_selected(dataloader, cast(np.ndarray, self.fine_tuning_samples), type(self).__name__)
        return super().set_initial_training_values(args, dataloader, *others)

    # ---- Helpers ----

    def _is_noisy(self, predictions: SamplePredictions) -> tuple[np.ndarray, np.ndarray]:
        """Which given labels are wrong, and for which that is known; both `[num_samples]`."""
        given, true = predictions.labels.numpy(), self.true_labels
        true = np.full_like(given, IGNORED_LABEL) if true is None else true
        return given != true, true >= 0

    def _first_fit(self) -> str:
        return "call `train()`, or `linear_probe()` and `cleanse()`."

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

    def _check_training_set(self) -> None:
        first_label = check_training_set(self)
        check_same_length(self)
        check_one_label_a_sample(first_label)

    def _check_same_rows(self, *_: Any) -> None:
        if self._identity is not None:
            self._check_replaced()

    def _check_replaced(self) -> None:
        check_not_replaced(self, cast(Identity, self._identity).data, self._identified)
