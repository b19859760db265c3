"""`ClearTrainer`: CleaR as a drop-in for `transformers.Trainer`. Wires the other modules together."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import logging
import os
from typing import Any

import datasets
import numpy as np
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback

from . import __version__
from .callbacks import CleanProbabilityCallback
from .checks import check_setup, check_training_set
from .files import write_atomically
from .losses import consistency_loss, cross_entropy
from .prediction import (
    SamplePredictions,
    class_scores,
    evaluation_mode,
    per_sample_losses,
    predict_samples,
    random_state_preserved,
    sample_dataloader,
)
from .routing import num_routed_layers, route, sample_gates
from .sample_index import SAMPLE_INDEX, indexed_dataloader
from .sample_store import STATE_NAME, SampleStore
from .training_args import ClearArguments

logger = logging.getLogger(__name__)

CONFIG_NAME = "clear_config.json"
# What a draw of gates is for: the part of its key after seed and step.
_LOSS, _TARGET = range(2)


class ClearMixin:
    """CleaR for [`~transformers.Trainer`] and its subclasses: `class MyTrainer(ClearMixin, Seq2SeqTrainer)`.

    See [`ClearTrainer`].
    """

    def __init__(
        self, model: nn.Module | None = None, *args: Any, peft_config: PeftConfig | None = None, **kwargs: Any
    ):
        self._peft_config = peft_config
        if model is not None and peft_config is not None:
            model = self._with_peft(model)
        super().__init__(model, *args, **kwargs)
        self.sample_store: SampleStore | None = None
        self._sample_dataloader: DataLoader | None = None
        self._loss_parts: dict[str, tuple[torch.Tensor, int]] = {}
        self._step_context: contextlib.ExitStack | None = None
        self._num_layers = num_routed_layers(self.model)
        if not self.is_routed:
            logger.warning(
                f"{type(self.model).__name__} has no PEFT module that can be routed: ClearTrainer trains it exactly as "
                "Trainer would. Pass `peft_config=ClearLoraConfig(...)` or a model that carries LoRA layers."
            )
            return
        check_setup(self)
        if self.args.n_gpu > 1:
            logger.warning(
                f"{self.args.n_gpu} GPUs are visible to one process. CleaR does not work under nn.DataParallel and "
                "trains on one of them; start the script with `accelerate launch` to use all."
            )
            self.args._n_gpu = 1
            self._train_batch_size = self.args.train_batch_size
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

    def per_sample_losses(self, dataset: Dataset | None = None) -> np.ndarray:
        """See [`hf_clear.per_sample_losses`]."""
        return per_sample_losses(self, dataset)

    def clean_probabilities(self) -> datasets.Dataset:
        """What the last refit found, one row a training sample, in the order of the training set.

        Returns:
            `datasets.Dataset` with the columns `sample_index` (row of the training set), `given_label`,
            `clean_probability` in [0, 1], and `loss` in nats.

        Raises:
            RuntimeError: where no mixture has been fitted yet.
        """
        if self.sample_store is None or not self.sample_store.is_fitted:
            raise RuntimeError(
                "There are no clean probabilities: the mixture is fitted for the first time at the beginning of epoch "
                f"{self.clear_args.clear_warmup_epochs + 1}, after the warm-up (`clear_warmup_epochs`)."
            )
        store = self.sample_store
        return datasets.Dataset.from_dict(
            {
                "sample_index": np.arange(len(store.losses)),
                "given_label": store.labels.cpu().numpy(),
                "clean_probability": store.clean_probability.cpu().numpy(),
                "loss": store.losses.cpu().numpy(),
            }
        )

    def label_issues(self) -> datasets.Dataset:
        """The samples whose label is more likely wrong than right, worst first; columns of [`clean_probabilities`]."""
        table = self.clean_probabilities()
        probability, loss = np.array(table["clean_probability"]), np.array(table["loss"])
        worst_first = np.lexsort((-loss, probability))
        return table.select(worst_first[probability[worst_first] < 0.5])

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
        changes nothing, a smaller last batch included. (Stock `Trainer` with a classification head takes the mean of
        each accumulated batch without dividing by their number: its gradients are `gradient_accumulation_steps`
        times, and under DDP `world_size` times, larger.)
        """
        if self._step_context is None or SAMPLE_INDEX not in inputs:  # evaluation, or nothing to route
            if self.is_routed:
                self.__dict__.pop("loss_is_scaled_for_ga", None)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        inputs = dict(inputs)
        index = inputs.pop(SAMPLE_INDEX)
        labels = inputs.pop(self.label_names[0])
        store, settings = self.sample_store, self.clear_args
        target = None
        if store.is_fitted:
            gate_probability = settings.clear_gamma * store.clean_probability[index]
            key = (self.args.seed, self.state.global_step)
            if settings.clear_consistency_weight > 0:
                target = self._ensemble_target(model, inputs, labels, index, gate_probability, key)
            gates = sample_gates(gate_probability, self._num_layers, index, (*key, _LOSS))
            self._step_context.enter_context(route(model, gates))

        outputs = model(**inputs)
        logits = class_scores(outputs, labels)
        loss = cross_entropy(logits, labels, self.args.label_smoothing_factor, reduction="sum") / self._samples_in_step
        self._record("cross_entropy", loss)
        if target is not None:
            consistency = consistency_loss(logits, target).sum() / self._samples_in_step
            self._record("consistency", consistency)
            loss = loss + settings.clear_consistency_weight * consistency
        self.loss_is_scaled_for_ga = True
        return (loss, outputs) if return_outputs else loss

    def _ensemble_target(self, model, inputs, labels, index, gate_probability, key) -> torch.Tensor | None:
        """`f_ens`, the mean of N routed predictions without gradient and without dropout: `[batch, num_labels]`.

        None until the next refit where consistency or its source `"epoch"` was switched on in mid-epoch.
        """
        if self.clear_args.clear_ensemble_source == "epoch":
            return None if self.sample_store.targets is None else self.sample_store.targets[index]
        size = self.clear_args.clear_ensemble_size
        target = 0.0
        with torch.no_grad(), evaluation_mode(model):
            for member in range(size):
                gates = sample_gates(gate_probability, self._num_layers, index, (*key, _TARGET, member))
                with route(model, gates):
                    logits = class_scores(model(**inputs), labels)
                target = target + logits.softmax(dim=-1) / size
        return target

    def predict_training_samples(self) -> SamplePredictions:
        """One pass over the training set in evaluation mode with every module active: what the next fit looks at."""
        return self._predict()

    def predict_ensemble(self) -> torch.Tensor:
        """`f_ens` for every training sample: the mean of N routed predictions, `[num_samples, num_labels]`."""
        gate_probability = self.clear_args.clear_gamma * self.sample_store.clean_probability
        size = self.clear_args.clear_ensemble_size
        target = 0.0
        for member in range(size):
            key = (self.args.seed, self.state.global_step, _TARGET, member)

            def routed(index: torch.Tensor, key: tuple[int, ...] = key) -> contextlib.AbstractContextManager:
                return route(self.model, sample_gates(gate_probability[index], self._num_layers, index, key))

            target = target + self._predict(routed).probabilities / size
        return target

    def check_routing(self) -> None:
        """Sends a few training samples through the bypassed model, so that what can't be routed shows before the first
        step. Changes no random state."""
        dataloader = self._dataloader_of_samples()
        with random_state_preserved():
            items = dataloader.dataset.__getitems__(list(range(min(4, len(dataloader.dataset)))))
            batch = self._prepare_inputs(dataloader.collate_fn(items))
            labels, index = batch.pop(self.label_names[0]), batch.pop(SAMPLE_INDEX)
            gates = torch.zeros(self._num_layers, len(index), dtype=torch.bool)
            with torch.no_grad(), evaluation_mode(self.model), route(self.model, gates):
                class_scores(self.model(**batch), labels)

    def _predict(self, *args: Any) -> SamplePredictions:
        return predict_samples(self, self._dataloader_of_samples(), *args)

    def _dataloader_of_samples(self) -> DataLoader:
        if self._sample_dataloader is None:  # once a training: `accelerator.prepare` keeps what it is given
            self._sample_dataloader = sample_dataloader(self, self.train_dataset)
        return self._sample_dataloader

    def get_train_dataloader(self) -> DataLoader:
        if not self.is_routed:
            return super().get_train_dataloader()
        return indexed_dataloader(
            self, self.train_dataset, "Training", self._train_batch_size, self._get_train_sampler, is_training=True
        )

    def get_batch_samples(self, *args: Any, **kwargs: Any):
        batches, num_items_in_batch = super().get_batch_samples(*args, **kwargs)
        if self.is_routed:
            if any(SAMPLE_INDEX not in batch for batch in batches):
                raise RuntimeError(_NO_INDEX)
            self._samples_in_step = sum(len(batch[SAMPLE_INDEX]) for batch in batches)
        return batches, num_items_in_batch

    def call_model_init(self, *args: Any, **kwargs: Any) -> nn.Module:
        model = super().call_model_init(*args, **kwargs)
        return model if self._peft_config is None else self._with_peft(model)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the parts of the loss on this process, `cross_entropy` and `consistency`, where the loss is logged."""
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
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.is_routed and self.args.should_save:
            self.sample_store.save(os.path.join(output_dir, STATE_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.is_routed and checkpoint is not None:
            self.sample_store = SampleStore.load(
                os.path.join(checkpoint, STATE_NAME), len(self.train_dataset), self.args.device
            )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.is_routed and self.args.should_save:
            fields = [field.name for field in dataclasses.fields(ClearArguments)]
            config = {"hf_clear_version": __version__, **{name: getattr(self.clear_args, name) for name in fields}}
            path = os.path.join(self.args.output_dir if output_dir is None else output_dir, CONFIG_NAME)
            write_atomically(path, (json.dumps(config, indent=2) + "\n").encode())

    # ---- Checks and helpers ----

    def _with_peft(self, model: nn.Module) -> nn.Module:
        if isinstance(model, PeftModel):
            raise ValueError(
                "`peft_config` was given for a model that is a PeftModel already. Pass the base model with "
                "`peft_config`, or the PeftModel without it."
            )
        return get_peft_model(model, copy.deepcopy(self._peft_config))  # peft writes into the config it is given

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
            to be map-style, with one class label a sample. A model without routable PEFT modules is trained exactly as
            `Trainer` would, with one warning.
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
