"""`ClearTrainer`, a drop-in for `transformers.Trainer`."""

from __future__ import annotations

from transformers import Trainer

from .mixin import ClearMixin
from .signature import ExplicitArguments


class ClearTrainer(ExplicitArguments, ClearMixin, Trainer):
    """[`~transformers.Trainer`] that keeps wrong labels from steering training.

    By default, each given label is weighed against predictions of models that have not seen it, and training follows
    what is then known of the true class; or, if no model of the noise explains the labels, which PEFT modules act on a
    sample depends on how probable it is that its label is right. The latter is CleaR (arXiv 2411.00873), and
    `preset("clear")` and `preset("paper")` ask for it: after a warm-up, each epoch begins with a fit of a Gaussian
    mixture to the losses of all training samples, which gives every sample a clean probability `p`. In each step and
    layer, a sample passes the PEFT module with probability `γ·p` and the frozen layer alone otherwise, and the
    prediction is drawn towards an ensemble of N routed predictions: `L = CE(f, y) + λ·CE(f, f_ens)`. Evaluation and
    inference use every module, as plain PEFT.

    A plain `TrainingArguments` works: the settings of [`ClearTrainingArguments`] then have their defaults. The training
    set has to be map-style, with one class a sample, or one a token (token classification, language models): then the
    mean loss of a sample's labelled tokens is its loss. A column `true_label` of the training set is used for metrics
    and the routing strategy `"oracle"` alone. A `compute_loss_func` takes the place of `CE(f, y)` in the loss; clean
    probabilities are fitted to the cross entropy of each sample as ever. A model without routable PEFT modules is
    trained exactly as `Trainer` would, with one warning.

    Args:
        model, args, data_collator, train_dataset, ...: as for [`~transformers.Trainer`].
        peft_config (`PeftConfig`, *optional*): wraps the model with [`~peft.get_peft_model`], as in TRL.

    Raises:
        ValueError: before training starts, if labels, arguments or data don't fit; the message says what to do.

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
