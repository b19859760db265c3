"""Training on the posterior of a tiny model."""

from helpers.toy import collate, tiny_bert
from helpers.turn import noisy_dataset
from hf_clear import ClearLoraConfig, ClearTrainer

POSTERIOR = {
    **{"clear_loss": "posterior", "clear_estimator": "noise_model", "clear_warmup": "evidence"},
    **{"clear_routing": "none", "clear_loss_source": "online", "clear_ensemble_size": 1, "probe_epochs": 30},
}
LEARNED = {"initializer_range": 0.2}  # features that tell the classes
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def trainer_of(arguments, dataset=None, model=None, trainer_class=ClearTrainer, **kwargs):
    return trainer_class(
        tiny_bert(**LEARNED, **NO_DROPOUT) if model is None else model,
        arguments,
        train_dataset=noisy_dataset() if dataset is None else dataset,
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS", r=4),
        **kwargs,
    )
