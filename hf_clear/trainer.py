"""`ClearTrainer`: CleaR as a drop-in for `transformers.Trainer`. Wires the other modules together."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from ._version import __version__
from .callbacks import CleanProbabilityCallback
from .checks import check_setup, check_training_set
from .estimators import NamedEstimator
from .files import write_atomically
from .losses import IGNORED_LABEL, consistency_loss, cross_entropy, finite_rows, sharpen
from .noise import TRUE_LABEL
from .noisy_labels import NoisyLabelsMixin
from .prediction import (
    SamplePredictions,
    add_decoder_inputs,
    evaluation_mode,
    low_precision,
    predict_features,
    predict_samples,
    random_state_preserved,
    sample_dataloader,
    scores_and_labels,
    shifts_labels,
)
from .probing import Probe, find_head, frozen_features, probe_predictions, set_head, train_probe
from .routing import ROUTING_STRATEGIES, gate_probability, num_routed_layers, route, sample_gates
from .sample_index import SAMPLE_INDEX, indexed_dataloader, num_labels
from .sample_store import STATE_NAME, SampleStore
from .training_args import ClearArguments

logger = logging.getLogger(__name__)

CONFIG_NAME = "clear_config.json"
# What a draw of gates is for: the part of its key after seed and step.
_LOSS, _TARGET = range(2)


class ClearMixin(NoisyLabelsMixin):
    """CleaR for [`~transformers.Trainer`] and its subclasses: `class MyTrainer(ClearMixin, Seq2SeqTrainer)`.

    See [`ClearTrainer`].
    """

    method = "CleaR"

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._sample_dataloader: DataLoader | None = None
        self._loss_parts: dict[str, tuple[torch.Tensor, int]] = {}
        self._step_context: contextlib.ExitStack | None = None
        self._gate_probability_of: tuple[int, torch.Tensor | None] = (-1, None)  # with the epoch that it was fitted in
        self._frozen_features: torch.Tensor | None = None
        self._takes_part: torch.Tensor | None = None  # in shared memory: workers read it
        self._num_layers = num_routed_layers(self.model)
        if not self.is_routed:
            logger.warning(
                f"{type(self.model).__name__} has no PEFT module that can be routed: ClearTrainer trains it exactly as "
                "Trainer would. Pass `peft_config=ClearLoraConfig(...)` or a model that carries LoRA layers."
            )
            return
        check_setup(self)
        self._use_one_gpu()
        if not self._adopt_callbacks():
            self.add_callback(CleanProbabilityCallback())

    # ---- What users ask ----

    @property
    def is_routed(self) -> bool:
        """Whether the model has PEFT modules to route. If not, this trainer is a strict pass-through to its base."""
        return self._num_layers > 0

    @property
    def clear_args(self) -> ClearArguments:
        """CleaR's arguments: `args` itself, or the defaults where `args` is a plain `TrainingArguments`."""
        return self.args if isinstance(self.args, ClearArguments) else ClearArguments()

    @property
    def ensemble_source(self) -> str:
        """`clear_ensemble_source`, or what stands for None: predictions for every token of the training set are too
        much to keep from epoch to epoch."""
        return self.clear_args.clear_ensemble_source or ("step" if self.labels_tokens else "online")

    @property
    def keeps_predictions(self) -> bool:
        """Whether there is a running mean of each sample's predictions in training."""
        settings = self.clear_args
        needs_targets = settings.clear_consistency_weight > 0 and self.ensemble_source == "online"
        return needs_targets or settings.clear_loss_source == "online"

    # ---- Training ----

    def train(self, *args: Any, **kwargs: Any):
        if self.is_routed:
            check_training_set(self)
        return super().train(*args, **kwargs)

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """As in `Trainer`; a `CleanProbabilityCallback` takes the place of the one that is there."""
        super().add_callback(callback)
        self._adopt_callbacks()

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        # Gates stay set until the backward pass is over: a checkpointed layer reads them again there.
        try:
            with contextlib.ExitStack() as self._step_context:
                return super().training_step(*args, **kwargs)
        finally:
            self._step_context = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """`L = CE(f, y) + λ · CE(f, f_ens)` with routed predictions `f` (CleaR); plain PEFT during the warm-up.

        The sum over samples is divided by the number of samples of the whole optimizer step, so that accumulation
        changes nothing, a smaller last batch included; where every token has a label, tokens take the samples' place.
        (Stock `Trainer` with a classification head takes the mean of each accumulated batch without dividing by their
        number: its gradients are `gradient_accumulation_steps` times, and under DDP `world_size` times, larger.)

        A `compute_loss_func` takes the place of `CE(f, y)`. It is called and scaled as in stock `Trainer`: what it
        returns is taken as divided by its argument `num_items_in_batch` already, the labels of the whole optimizer
        step.
        """
        if self._step_context is None or SAMPLE_INDEX not in inputs:  # evaluation, or nothing to route
            if self.is_routed:
                self.__dict__.pop("loss_is_scaled_for_ga", None)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        inputs = dict(inputs)
        index = inputs.pop(SAMPLE_INDEX)
        labels = inputs.pop(self.label_names[0])
        add_decoder_inputs(self.model, inputs, labels)
        store, settings = self.sample_store, self.clear_args
        key = (self.args.seed, self.state.global_step)
        target, open_gates = None, None
        if store.is_fitted:
            open_gates = self._gate_probability()[index]
            if not settings.clear_dropout_after_warmup:
                self._step_context.enter_context(evaluation_mode(model))
            if settings.clear_consistency_weight > 0:
                target = self._ensemble_target(model, inputs, labels, index, open_gates, key)
        elif settings.clear_warmup_random_routing:
            open_gates = torch.full(index.shape, settings.clear_gamma, device=index.device)
        if open_gates is not None:
            self._step_context.enter_context(
                route(model, sample_gates(open_gates, self._num_layers, index, (*key, _LOSS)))
            )

        outputs = model(**inputs)
        logits, shifted_labels = scores_and_labels(outputs, labels, self._shifts_labels)
        if self.compute_loss_func is None:
            loss = cross_entropy(logits, shifted_labels, self.args.label_smoothing_factor, reduction="sum")
            loss = loss / self._labels_in_step
            self._record("cross_entropy", loss)
        elif self._takes_part is not None and len(labels) == 1 and (labels == IGNORED_LABEL).all():
            loss = 0.0 * logits.sum()  # all of the batch was left out
        else:
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
            if self.args.average_tokens_across_devices and num_items_in_batch is not None:
                # Items were counted on all processes, and DDP takes the mean of the processes' gradients.
                loss = loss * self.accelerator.num_processes
            self._record("compute_loss_func", loss)
        if self.keeps_predictions:
            given = torch.where(labels == IGNORED_LABEL, store.labels[index], labels)
            store.add_predictions(index, logits.detach().softmax(dim=-1), given, settings.clear_ensemble_size)
        if target is not None:
            consistency = consistency_loss(logits, target) * (shifted_labels != IGNORED_LABEL)
            consistency = consistency.sum() / self._labels_in_step
            self._record("consistency", consistency)
            loss = loss + settings.clear_consistency_weight * consistency
        self.loss_is_scaled_for_ga = True
        self.current_gradient_accumulation_steps = 1  # the same for transformers before 5.20, which divides by it
        return (loss, outputs) if return_outputs else loss

    def _gate_probability(self) -> torch.Tensor:
        """For every training sample, the probability that a module acts on it: `[num_samples]`. Once a refit."""
        fitted_epoch, probability = self._gate_probability_of
        if fitted_epoch != self.sample_store.fitted_epoch:
            clean_probability, is_clean = self.sample_store.clean_probability, None
            if ROUTING_STRATEGIES.find(self.clear_args.clear_routing).needs_truth:
                true = torch.from_numpy(self.true_labels).to(clean_probability.device)
                is_clean = (true == self.sample_store.labels).to(clean_probability)
                is_clean[true < 0] = torch.nan
            probability = gate_probability(
                self.clear_args.clear_routing, clean_probability, self.clear_args.clear_gamma, is_clean
            )
            self._gate_probability_of = self.sample_store.fitted_epoch, probability
        return probability

    def _ensemble_target(self, model, inputs, labels, index, open_gates, key) -> torch.Tensor | None:
        """`f_ens`, the mean of N routed predictions without gradient and without dropout: `[*labels.shape,
        num_labels]`.

        None until there are any, where consistency or its source was switched on in mid-epoch.
        """
        size, temperature = self.clear_args.clear_ensemble_size, self.clear_args.clear_ensemble_temperature
        if self.ensemble_source != "step":
            targets = self.sample_store.targets
            return None if targets is None else sharpen(targets[index], temperature)
        target = 0.0
        with torch.no_grad(), evaluation_mode(model), low_precision(self.args):
            for member in range(size):
                gates = sample_gates(open_gates, self._num_layers, index, (*key, _TARGET, member))
                with route(model, gates):
                    logits, _ = scores_and_labels(model(**inputs), labels)
                target = target + logits.softmax(dim=-1) / size
        return finite_rows(sharpen(target, temperature))

    def predict_training_samples(self) -> SamplePredictions:
        """What the next fit looks at: one pass over the training set in evaluation mode with every module active. With
        `clear_loss_source="online"` no pass, but the running mean of the predictions of training (routed, with
        dropout); samples that it has not seen are predicted."""
        store, is_online = self.sample_store, self.clear_args.clear_loss_source == "online"
        predictions = None if is_online else self._predict()
        if self.keeps_predictions:
            unseen = (store.labels == IGNORED_LABEL) | (store.targets is None)
            if unseen.any():
                self._remember(predictions or self._predict(), unseen.nonzero().squeeze(1))
        if predictions is not None:
            return predictions
        labels, probabilities = store.labels.to("cpu", copy=True), store.targets.to("cpu", copy=True)
        label_probability = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
        losses = -label_probability.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
        losses[probabilities.sum(dim=1) == 0] = torch.inf  # no finite prediction
        return SamplePredictions(losses, labels, probabilities)

    def _remember(self, predictions: SamplePredictions, index: torch.Tensor) -> None:
        """Lets the running mean of some samples begin with predictions that every process has."""
        rows = index.cpu()
        probabilities, labels = predictions.probabilities[rows], predictions.labels[rows]
        self.sample_store.add_predictions(index, probabilities.to(index.device), labels.to(index.device), window=1)
        self.sample_store.merge(self.accelerator)

    def predict_ensemble(self) -> torch.Tensor:
        """`f_ens` for every training sample: the mean of N routed predictions, `[num_samples, num_labels]`, before any
        temperature; a row of zeros where they are not finite."""
        open_gates, size = self._gate_probability(), self.clear_args.clear_ensemble_size
        target = 0.0
        for member in range(size):
            key = (self.args.seed, self.state.global_step, _TARGET, member)

            def routed(index: torch.Tensor, key: tuple[int, ...] = key) -> contextlib.AbstractContextManager:
                return route(self.model, sample_gates(open_gates[index], self._num_layers, index, key))

            target = target + self._predict(routed).probabilities / size
        return finite_rows(target)

    def probe_training_samples(self, estimator: NamedEstimator) -> dict[str, float]:
        """The warm-up `"linear_probe"`: trains the head on the features of the frozen base model with generalized cross
        entropy, as TURN does (arXiv 2310.17668), and fits the clean probabilities to the probe's losses; returns what
        [`fit_clean_probability`] does. No PEFT module sees a label."""
        settings = self.clear_args
        mean = settings.probe_features == "mean"
        with frozen_features(
            self, self.train_dataset, settings, mean or estimator.uses_features, self._bypassed
        ) as features:
            head = find_head(self.accelerator.unwrap_model(self.model), settings.probe_head)
            probe = Probe(head, features.head_shape, features.mean.shape[1] if mean else None)
            quiet = self.args.disable_tqdm or not self.is_local_process_zero()
            train_probe(probe, features, settings, self.args.seed, show_progress=not quiet)
            set_head(self, settings.probe_head, probe)
            predictions = probe_predictions(probe, features)
            if self.keeps_predictions:
                self._remember(predictions, torch.arange(len(predictions.labels), device=self.args.device))
            return self.fit_clean_probability(estimator, predictions, features.mean)

    def frozen_features(self) -> torch.Tensor:
        """The frozen base model's features of every training sample, `[num_samples, hidden_size]`; computed once, since
        training doesn't change them. See [`~hf_clear.prediction.predict_features`]."""
        if self._frozen_features is None:
            self._frozen_features = predict_features(self, self._dataloader_of_samples(), self._bypassed).mean
        return self._frozen_features

    def _bypassed(self, index: torch.Tensor) -> contextlib.AbstractContextManager:
        return route(self.model, torch.zeros(self._num_layers, len(index), dtype=torch.bool))

    def check_routing(self) -> None:
        """Sends a few training samples through the bypassed model, so that what can't be routed shows before the first
        step. Changes no random state."""
        dataloader = self._dataloader_of_samples()
        with random_state_preserved():
            items = dataloader.dataset.__getitems__(list(range(min(4, len(dataloader.dataset)))))
            batch = self._prepare_inputs(dataloader.collate_fn(items))
            labels, index = batch.pop(self.label_names[0]), batch.pop(SAMPLE_INDEX)
            add_decoder_inputs(self.model, batch, labels)
            gates = torch.zeros(self._num_layers, len(index), dtype=torch.bool)
            with torch.no_grad(), evaluation_mode(self.model), route(self.model, gates):
                scores_and_labels(self.model(**batch), labels)
        self.labels_tokens = labels.ndim == 2
        if self.labels_tokens and self.ensemble_source != "step":
            raise ValueError(
                f"`clear_ensemble_source={self.ensemble_source!r}` keeps a prediction for every sample, which is too "
                "much where every token has a label. Use 'step', or leave it out."
            )
        if self.labels_tokens and self.clear_args.clear_loss_source == "online":
            raise ValueError(
                "`clear_loss_source='online'` keeps a prediction for every sample, which is too much where every token "
                "has a label. Use 'epoch'."
            )
        if self.clear_args.clear_warmup == "linear_probe":
            if self.labels_tokens:
                raise ValueError(
                    "`clear_warmup='linear_probe'` needs one class a sample, and here every token has a label. Use "
                    "'epochs'."
                )
            find_head(self.accelerator.unwrap_model(self.model), self.clear_args.probe_head)
        true_labels = self.true_labels  # refuses what is no class number
        if ROUTING_STRATEGIES.find(self.clear_args.clear_routing).needs_truth and true_labels is None:
            raise ValueError(
                f"`clear_routing={self.clear_args.clear_routing!r}` needs to know the truth: one true label a sample "
                f"in a column {TRUE_LABEL!r} of the training set (a datasets.Dataset), -100 where unknown."
            )

    def _predict(self, *args: Any) -> SamplePredictions:
        return predict_samples(self, self._dataloader_of_samples(), *args)

    def _dataloader_of_samples(self) -> DataLoader:
        if self._sample_dataloader is None:  # once a training: `accelerator.prepare` keeps what it is given
            self._sample_dataloader = sample_dataloader(self, self.train_dataset)
        return self._sample_dataloader

    def get_train_dataloader(self) -> DataLoader:
        if not self.is_routed:
            return super().get_train_dataloader()
        num_samples = len(self.train_dataset)
        if self.clear_args.clear_min_clean_probability == 0:
            self._takes_part = None
        elif self._takes_part is None or len(self._takes_part) != num_samples:
            self._takes_part = torch.ones(num_samples, dtype=torch.bool).share_memory_()
        return indexed_dataloader(
            self,
            self.train_dataset,
            "Training",
            self._train_batch_size,
            self._get_train_sampler,
            is_training=True,
            takes_part=self._takes_part,
        )

    def leave_samples_out(self) -> dict[str, float]:
        """Keeps samples with a clean probability below `clear_min_clean_probability` out of the batches from now on;
        returns how many, for the log."""
        if self._takes_part is None or not self.sample_store.is_fitted:
            return {}
        least = self.clear_args.clear_min_clean_probability
        self._takes_part.copy_(self.sample_store.clean_probability >= least)
        left_out = int((~self._takes_part).sum())
        if left_out == len(self._takes_part):
            logger.warning(
                f"No sample has a clean probability of `clear_min_clean_probability={least}` or more: until the next "
                "refit, training stands still. Lower it, or warm up for longer."
            )
        return {"left_out": left_out}

    def get_batch_samples(self, *args: Any, **kwargs: Any):
        batches, num_items_in_batch = super().get_batch_samples(*args, **kwargs)
        if self.is_routed:
            if any(SAMPLE_INDEX not in batch for batch in batches):
                raise RuntimeError(_NO_INDEX)
            count = sum(self._num_labels_of(batch) for batch in batches)
            if self.accelerator.num_processes > 1:  # DDP takes the mean of the processes' gradients
                count = self.accelerator.reduce(torch.as_tensor(count, device=self.args.device).float(), "mean")
            self._labels_in_step = count.clamp_min(1e-6) if isinstance(count, torch.Tensor) else count
        return batches, num_items_in_batch

    def _num_labels_of(self, batch: dict[str, Any]) -> torch.Tensor | int:
        labels = batch[self.label_names[0]]
        if labels.ndim == 1 and self._takes_part is None:
            return len(labels)
        labels = labels[:, 1:] if self._shifts_labels and labels.ndim == 2 else labels
        return (labels != IGNORED_LABEL).sum()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the parts of the loss on this process, `cross_entropy` (or `compute_loss_func`) and `consistency`, where
        the loss is logged."""
        if self.is_routed and "loss" in logs:
            for name, (total, first_step) in self._loss_parts.items():
                logs[name] = total.item() / max(self.state.global_step - first_step, 1)
            self._loss_parts = {}
        super().log(logs, *args, **kwargs)

    # ---- State ----

    def _prepare_for_training(self, max_steps: int, train_dataloader: DataLoader, resume_from_checkpoint: str | None):
        # Here and not in `train`, which tries again with a smaller batch under `auto_find_batch_size`.
        self._num_layers = num_routed_layers(self.model)  # `model_init` may have built another model
        if self.is_routed:
            self.sample_store = SampleStore.empty(len(self.train_dataset), self.args.device)
            self._sample_dataloader, self._loss_parts = None, {}
            self._gate_probability_of, self._frozen_features = (-1, None), None
            if self._takes_part is not None:
                self._takes_part.fill_(True)
            self._shifts_labels = shifts_labels(self)
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.is_routed:
            self.sample_store.merge(self.accelerator)
        if self.is_routed and self.args.should_save:
            self.sample_store.save(os.path.join(output_dir, STATE_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.is_routed and checkpoint is not None:
            self.sample_store = SampleStore.load(
                os.path.join(checkpoint, STATE_NAME),
                len(self.train_dataset),
                self.args.device,
                num_labels=num_labels(self),
            )
            self.leave_samples_out()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.is_routed and self.args.should_save:
            fields = [field.name for field in dataclasses.fields(ClearArguments)]
            config = {"hf_clear_version": __version__, **{name: getattr(self.clear_args, name) for name in fields}}
            path = os.path.join(self.args.output_dir if output_dir is None else output_dir, CONFIG_NAME)
            write_atomically(path, (json.dumps(config, indent=2) + "\n").encode())

    # ---- Checks and helpers ----

    def _first_fit(self) -> str:
        if self.clear_args.clear_warmup == "linear_probe":
            return "the mixture is fitted for the first time before the first step, to the losses of the linear probe."
        return (
            "the mixture is fitted for the first time at the beginning of epoch "
            f"{self.clear_args.clear_warmup_epochs + 1}, after the warm-up (`clear_warmup_epochs`)."
        )

    def _adopt_callbacks(self) -> bool:
        """Keeps the last `CleanProbabilityCallback` and makes this its trainer; whether there is one."""
        own = [
            callback for callback in self.callback_handler.callbacks if isinstance(callback, CleanProbabilityCallback)
        ]
        for callback in own[:-1]:
            self.remove_callback(callback)
        if own:
            own[-1].set_trainer(self)
        return bool(own)

    def _record(self, name: str, part: torch.Tensor) -> None:
        """Adds up a part of the loss until it is logged, on the device: no synchronization in between."""
        total, first_step = self._loss_parts.get(name, (0.0, self.state.global_step))
        self._loss_parts[name] = (total + part.detach(), first_step)


_NO_INDEX = (
    "A training batch has no sample indices, so CleaR can't tell its samples. ClearTrainer adds them in "
    "`get_train_dataloader`: if you override that method, build the dataloader with "
    "`hf_clear.sample_index.indexed_dataloader`."
)


class ClearTrainer(ClearMixin, Trainer):
    """[`~transformers.Trainer`] that keeps wrong labels from steering the PEFT modules (CleaR, arXiv 2411.00873).

    After a warm-up, each epoch begins with a fit of a Gaussian mixture to the losses of all training samples, which
    gives every sample a clean probability `p`. In each step and layer, a sample passes the PEFT module with probability
    `γ·p` and the frozen layer alone otherwise, and the prediction is drawn towards an ensemble of N routed predictions:
    `L = CE(f, y) + λ·CE(f, f_ens)`. Evaluation and inference use every module, as plain PEFT.

    Args:
        model, args, data_collator, train_dataset, ...: as for [`~transformers.Trainer`]. A plain `TrainingArguments`
            works: CleaR's own settings then have their defaults, see [`ClearTrainingArguments`]. The training set has
            to be map-style, with one class a sample, or one a token (token classification, language models): then the
            mean loss of a sample's labelled tokens is its loss. A column `true_label` of the training set is used for
            metrics and the routing strategy `"oracle"` alone. A `compute_loss_func` takes the place of `CE(f, y)` in
            the loss; clean probabilities are fitted to the cross entropy of each sample as ever. A model without
            routable PEFT modules is trained exactly as `Trainer` would, with one warning.
        peft_config (`PeftConfig`, *optional*): wraps the model with [`~peft.get_peft_model`], as in TRL.

    Raises:
        ValueError: before training starts, where labels, arguments or data don't fit; the message says what to do.

    Example:

    ```python
    >>> trainer = ClearTrainer(
    ...     model=AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=77),
    ...     args=ClearTrainingArguments(output_dir="out", num_train_epochs=8),
    ...     train_dataset=train,
    ...     processing_class=tokenizer,
    ...     peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    ... )
    >>> trainer.train()
    >>> trainer.label_issues().to_pandas().head()
    ```
    """
