"""The linear probe as CleaR's warm-up."""

import torch
from helpers.toy import collate, tiny_bert
from helpers.turn import assert_same, noisy_dataset, state_of
from transformers import TrainerCallback

from hf_clear import ClearLoraConfig, ClearTrainer, ClearTrainingArguments, TurnTrainer, TurnTrainingArguments


def test_linear_probe_as_warm_up_of_clear(training_arguments):
    """The first gates follow the probe's clean probabilities, before any module has seen a label."""
    seen = {}

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 0:
                seen["state"] = state_of(trainer)
                seen["probability"] = trainer.sample_store.clean_probability.clone()

        def on_epoch_end(self, args, state, control, **kwargs):
            seen.setdefault("probabilities", []).append(trainer.sample_store.clean_probability.clone())
            seen.setdefault("targets", []).append(trainer.sample_store.targets.clone())

    dataset = noisy_dataset()
    probe = {"probe_epochs": 6, "probe_learning_rate": 1e-2, "num_train_epochs": 4}
    arguments = training_arguments(
        ClearTrainingArguments,
        **{"clear_warmup": "linear_probe", "clear_warmup_epochs": 2, **probe},
        clear_estimator="per_class_gaussian_mixture",
    )
    config = ClearLoraConfig(task_type="SEQ_CLS", r=4)
    trainer = ClearTrainer(
        tiny_bert(initializer_range=0.2),
        arguments,
        train_dataset=dataset,
        data_collator=collate,
        peft_config=config,
        callbacks=[Look()],
    )
    before = state_of(trainer)
    trainer.train()

    changed = {name for name in before if not torch.equal(before[name], seen["state"][name])}
    assert changed == {f"base_model.model.classifier.modules_to_save.default.{name}" for name in ("weight", "bias")}
    turn = TurnTrainer(
        tiny_bert(initializer_range=0.2),
        training_arguments(TurnTrainingArguments, **probe),
        train_dataset=dataset,
        data_collator=collate,
        peft_config=config,
    )
    turn.linear_probe()
    turn.cleanse()
    assert torch.equal(seen["probability"], turn.sample_store.clean_probability)
    assert_same(
        {name: tensor for name, tensor in state_of(turn).items() if "modules_to_save" in name},
        {name: tensor for name, tensor in seen["state"].items() if "modules_to_save" in name},
    )
    first, second, third, _ = seen["probabilities"]
    assert torch.equal(first, second) and not torch.equal(second, third)  # refitted to the model from epoch 3 on
    assert not torch.equal(seen["targets"][0], seen["targets"][1])  # the ensemble is asked again each epoch


def test_a_run_warmed_up_by_a_probe_resumes(training_arguments, tmp_path):
    def build(**kwargs):
        arguments = training_arguments(
            ClearTrainingArguments,
            **{"clear_warmup": "linear_probe", "clear_warmup_epochs": 2, "probe_epochs": 3, "num_train_epochs": 3},
            **{"save_strategy": "steps", "save_steps": 13},  # in mid-epoch
        )
        config = ClearLoraConfig(task_type="SEQ_CLS", r=4)
        return ClearTrainer(
            tiny_bert(), arguments, train_dataset=noisy_dataset(), data_collator=collate, peft_config=config, **kwargs
        )

    straight = build()
    straight.train()
    for step in (13, 26):
        resumed = build()
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
        assert_same(state_of(straight), state_of(resumed))
        assert straight.clean_probabilities()[:] == resumed.clean_probabilities()[:]
