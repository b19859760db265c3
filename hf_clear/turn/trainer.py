"""`TurnTrainer`: TURN as a drop-in for `transformers.Trainer`."""

from __future__ import annotations

from transformers import Trainer

from ..signature import ExplicitArguments
from .mixin import TurnMixin


class TurnTrainer(ExplicitArguments, TurnMixin, Trainer):
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
        ValueError: before training starts, if labels, arguments or data don't fit, or the head can't be
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
