"""`ClearTrainer`: CleaR as a drop-in for `transformers.Trainer`."""

from __future__ import annotations

from transformers import Trainer

from .mixin import ClearMixin
from .signature import ExplicitArguments


class ClearTrainer(ExplicitArguments, ClearMixin, Trainer):
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
