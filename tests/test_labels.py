"""Labels as data sets in Python hold them: each kind works, or is refused with a reason before training."""

import numpy as np
import pytest
from helpers.toy import collate, tiny_bert, toy_dataset

from hf_clear import ClearLoraConfig, ClearTrainer, ClearTrainingArguments, TurnTrainer, TurnTrainingArguments

WORKS = None
# labels of 24 samples, number of classes -> what the message says
LABELS = {
    "10,000 classes": (list(range(0, 9999, 417)), 10_000, WORKS),
    "one sample a class": (list(range(24)), 24, WORKS),
    "all equal": ([1] * 24, 4, WORKS),
    "numpy integers": (list(np.arange(24) % 4), 4, WORKS),
    "missing": ([1] * 23 + [None], 4, "label of sample 23 is missing"),
    "NaN": ([1.0] * 23 + [float("nan")], 4, "label of sample 23 is missing"),
    "bool": ([True, False] * 12, 4, "label of sample 0 is True, a bool.*cast bools"),
    "numpy bool": ([np.True_] * 24, 4, "label of sample 0 is True, a bool"),
    "whole floats": ([1.0] * 24, 4, "label of sample 0 is 1.0, a float.*cast"),
    "strings": (["1"] * 24, 4, "label of sample 0 is '1', a str.*class_encode_column"),
    "mixed": ([1, "a"] * 12, 4, "label of sample 1 is 'a', a str"),
    "beyond the last class": ([2**62] + [1] * 23, 4, "label of sample 0 is 4611686018427387904"),
}


@pytest.mark.parametrize("case", LABELS)
@pytest.mark.parametrize("method", ["clear", "turn"])
def test_labels(training_arguments, caplog, method, case):
    labels, num_labels, message = LABELS[case]
    own = {"clear": {"clear_warmup_epochs": 1}, "turn": {"probe_epochs": 1, "turn_balance": "none"}}[method]
    arguments_cls = {"clear": ClearTrainingArguments, "turn": TurnTrainingArguments}[method]
    trainer = {"clear": ClearTrainer, "turn": TurnTrainer}[method](
        model=tiny_bert(num_labels),
        args=training_arguments(arguments_cls, num_train_epochs=2, **own),
        train_dataset=[{**item, "labels": label} for item, label in zip(toy_dataset(), labels)],
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    )
    if message is WORKS:
        trainer.train()
        assert trainer.sample_store.is_fitted and trainer.sample_store.clean_probability.isfinite().all()
        assert ("All 24 training samples have the label 1" in caplog.text) == (case == "all equal")
        return
    trainer.training_step = None
    with pytest.raises(ValueError, match=message):
        trainer.train()
