"""Features of texts from a pretrained model that stays as it is."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from .._typing import AnyTrainer
from ..features import predict_features
from ..model_inputs import longest_input, set_padding
from ..passes import sample_dataloader
from ..probing.probe import find_head

logger = logging.getLogger(__name__)

_TEXTS = ("text", "text_pair")


def frozen_features(
    texts: datasets.Dataset,
    model_name: str,
    max_seq_length: int = 128,
    batch_size: int = 64,
    show_progress: bool = True,
    **hub_args: Any,
) -> list[np.ndarray]:
    """What a pretrained model makes of texts, in one pass: its last hidden states, averaged over the tokens, and if it
    has a pretrained pooler, what its head would see.

    Args:
        texts (`datasets.Dataset`): with the column `text`, and as you like `text_pair`.
        model_name (`str`): of an encoder or decoder with a class for sequence classification: on the Hub, or a folder.
        max_seq_length (`int`, *optional*, defaults to 128): longer texts are truncated (in tokens).
        batch_size (`int`, *optional*, defaults to 64): texts in a forward pass.
        show_progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.
        hub_args: for `from_pretrained`.

    Returns:
        `list[np.ndarray]` of shape `[num_samples, hidden_size]`, in float32.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # that the head is new: nobody looks at its scores
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_name, **hub_args)
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            model_name, ignore_mismatched_sizes=True, output_loading_info=True, **hub_args
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    set_padding(tokenizer, model.config)
    length = longest_input(model, tokenizer, max_seq_length)
    columns = [name for name in _TEXTS if name in texts.column_names]
    inputs = tokenizer(*(texts[name][:] for name in columns), truncation=True, max_length=length)
    head = _pretrained_head(model, loaded["missing_keys"])
    with tempfile.TemporaryDirectory() as folder:
        stock = Trainer(
            model=model,
            args=TrainingArguments(
                folder, per_device_eval_batch_size=batch_size, report_to=[], disable_tqdm=not show_progress
            ),
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
        )
        trainer = cast(AnyTrainer, stock)
        dataset = datasets.Dataset.from_dict(dict(inputs))
        dataloader = sample_dataloader(trainer, dataset, needs_labels=False)
        found = predict_features(trainer, dataloader, head=head, description=f"Features by {Path(model_name).name}")
    return [part.numpy() for part in (found.mean, found.head) if part is not None]


def _pretrained_head(model: Any, missing: set[str]) -> Any:
    """The head, if all that comes before it is pretrained; None otherwise."""
    try:
        head = find_head(model)
    except ValueError:
        return None
    own = {id(parameter) for parameter in head.parameters()}
    new = [name for name, parameter in model.named_parameters() if name in missing and id(parameter) not in own]
    return None if new or sum(1 for _ in head.children()) else head  # of a head in layers, the first ones are new
