"""`ClearTrainer`: CleaR as a drop-in for `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import torch
from peft import PeftConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from .mixin import ClearMixin


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

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Dataset | datasets.Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | datasets.Dataset | None = None,
        processing_class: Any = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        peft_config: PeftConfig | None = None,
    ):
        # All by name, so that the order of `Trainer`'s arguments is its own affair.
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            peft_config=peft_config,
        )
