"""A resumed run equals the uninterrupted one; training again starts again."""

import os

import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.trainers import assert_same_weights, lora_model, weights
from transformers import TrainerCallback

from hf_clear import ClearAdapterConfig, ClearBitFitConfig, ClearLoraConfig, ClearPromptConfig, ClearTrainer

LORA = ClearLoraConfig(task_type="SEQ_CLS", r=4)
OFFICIAL_ADAPTER = {
    "clear_estimator": "ema_gaussian_mixture+knn",
    "clear_ensemble_temperature": 0.5,
    "clear_warmup_random_routing": True,
    "clear_dropout_after_warmup": False,
}


@pytest.mark.parametrize(
    ("stop_at", "accumulation", "config", "settings"),
    [
        *((stop_at, 1, LORA, {}) for stop_at in (3, 7, 8, 10)),
        (5, 2, LORA, {}),
        (13, 1, LORA, {"clear_ensemble_source": "step"}),
        (13, 1, ClearAdapterConfig(task_type="SEQ_CLS"), OFFICIAL_ADAPTER),
        (10, 1, ClearBitFitConfig(task_type="SEQ_CLS"), {"clear_routing": "random"}),
        (10, 1, ClearPromptConfig(task_type="SEQ_CLS"), {"clear_ensemble_source": "step"}),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    training_arguments, tmp_path, stop_at, accumulation, config, settings
):
    """Stops in the warm-up, at its end, in mid-epoch and at the end of an epoch; dropout on."""

    def trainer(*callbacks, **kwargs) -> ClearTrainer:
        return ClearTrainer(
            tiny_bert(),
            training_arguments(
                num_train_epochs=4,
                clear_warmup_epochs=2,
                per_device_train_batch_size=6 // accumulation,
                gradient_accumulation_steps=accumulation,
                **settings,
                **kwargs,
            ),
            train_dataset=toy_dataset(24),
            data_collator=collate,
            peft_config=config,
            callbacks=list(callbacks),
        )

    whole = trainer()
    whole.train()

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == stop_at

    trainer(Stop()).train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=os.path.join(resumed.args.output_dir, f"checkpoint-{stop_at}"))
    assert_same_weights(weights(resumed.model), weights(whole.model))
    for name in ("losses", "mean_losses", "clean_probability", "labels", "targets"):
        stored, expected = getattr(resumed.sample_store, name), getattr(whole.sample_store, name)
        if name == "targets" and settings.get("clear_ensemble_source") == "step":
            assert stored is expected is None
        else:
            assert torch.equal(stored, expected), name

    os.remove(os.path.join(resumed.args.output_dir, f"checkpoint-{stop_at}", "clear_state.safetensors"))
    with pytest.raises(FileNotFoundError, match="clear_state.safetensors is missing"):
        trainer().train(resume_from_checkpoint=os.path.join(resumed.args.output_dir, f"checkpoint-{stop_at}"))


def test_training_again_starts_again(training_arguments):
    trainer = ClearTrainer(
        lora_model(),
        training_arguments(clear_warmup_epochs=2),
        train_dataset=toy_dataset(),
        data_collator=collate,
    )
    trainer.train()
    assert trainer.sample_store.fitted_epoch == 2
    trainer.args.num_train_epochs = 1
    trainer.train()
    assert not trainer.sample_store.is_fitted
