import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.architectures import ARCHITECTURES, batch_of, config_of, model_of
from helpers.toy import collate, tiny_bert, toy_dataset
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, ResNetConfig, ResNetForImageClassification, Trainer

from hf_clear import TurnTrainingArguments
from hf_clear.features import FrozenFeatures
from hf_clear.losses import generalized_cross_entropy
from hf_clear.probing import (
    Probe,
    base_model_context,
    features_for_probe,
    find_head,
    probe_optimizer,
    train_probe,
)


@pytest.fixture
def trainer_of(training_arguments):
    def build(model, dataset, **kwargs):
        arguments = training_arguments(TurnTrainingArguments, per_device_eval_batch_size=4, **kwargs)
        return Trainer(model, arguments, train_dataset=dataset, data_collator=kwargs.get("collator"))

    return build


def samples_of(name: str) -> tuple[Dataset, dict[str, torch.Tensor]]:
    """The batch of an architecture as a data set: sequences without their padding."""
    batch = batch_of(name, size=6)
    if name == "vit":
        return Dataset.from_dict({"pixel_values": batch["pixel_values"].numpy(), "labels": [0, 1, 2] * 2}), batch
    lengths = batch["attention_mask"].sum(dim=1)
    rows = [ids[:length].tolist() for ids, length in zip(batch["input_ids"], lengths)]
    masks = [[1] * len(row) for row in rows]
    return Dataset.from_dict({"input_ids": rows, "attention_mask": masks, "labels": [0, 1, 2] * 2}), batch


def collate_any(items: list[dict]) -> dict[str, torch.Tensor]:
    if "pixel_values" in items[0]:
        batch = {"pixel_values": torch.tensor(np.array([item["pixel_values"] for item in items])).float()}
        return {**batch, "labels": torch.tensor([item["labels"] for item in items])}
    return collate(items)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("peft_method", [None, "lora"])
def test_cached_features_give_the_scores_of_the_whole_model(trainer_of, name, peft_method):
    model = model_of(name)
    dataset, batch = samples_of(name)
    with torch.no_grad():
        expected = model(**batch).logits
    if peft_method is not None:  # an adapter that is not where it began: features are those of the base model
        model = get_peft_model(model, config_of(peft_method, name)).eval()
        for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
            parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    trainer = trainer_of(model, dataset)
    trainer.data_collator = collate_any
    with features_for_probe(trainer, dataset, trainer.args, True, base_model_context(trainer)) as features:
        probe = Probe(find_head(model), features.head_shape, features.mean.shape[1])
    torch.testing.assert_close(probe(features, slice(None))[0], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(probe(features, slice(None))[1], torch.zeros_like(expected))  # the layer of its own starts at 0
    assert features.labels.tolist() == dataset["labels"]


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "vit"])
def test_features_under_autocast_are_those_of_full_precision_rounded(trainer_of, name):
    dataset, _ = samples_of(name)
    features = []
    for bf16 in (False, True):
        trainer = trainer_of(model_of(name), dataset, bf16=bf16)
        trainer.data_collator = collate_any
        with features_for_probe(trainer, dataset, trainer.args, True) as some:
            features.append(some)
    for part in ("head", "mean"):
        exact, rounded = (getattr(some, part) for some in features)
        assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
        torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1)


def test_mean_features_leave_padding_out(trainer_of):
    model, dataset = tiny_bert(), toy_dataset(8)
    trainer = trainer_of(model, dataset)
    trainer.data_collator = collate
    with features_for_probe(trainer, dataset, trainer.args, True) as features, torch.no_grad():
        for row, item in enumerate(dataset):
            states = model.eval().bert(torch.tensor([item["input_ids"]])).last_hidden_state
            torch.testing.assert_close(features.mean[row], states[0].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_probing_equals_probing_through_the_whole_model(trainer_of):
    """The same steps with the whole model in evaluation mode, its head alone trainable."""
    dataset, model = toy_dataset(40), tiny_bert(initializer_range=0.2)
    trainer = trainer_of(model, dataset, probe_epochs=3, probe_batch_size=16, probe_learning_rate=1e-2)
    trainer.data_collator = collate
    whole = copy.deepcopy(model).eval()
    with features_for_probe(trainer, dataset, trainer.args, False) as features:
        probe = Probe(find_head(model), features.head_shape)
        optimizer = probe_optimizer(probe, features, trainer.args)
        rate = optimizer.param_groups[0]["initial_lr"]
        train_probe(probe, features, trainer.args, 5, optimizer)
        std = (features.head - features.head.mean(dim=0)).square().mean().sqrt()
    assert rate == pytest.approx(1e-2 / std.item(), rel=1e-5)

    optimizer = torch.optim.AdamW(whole.classifier.parameters(), lr=rate, weight_decay=0.0)
    batch, step = collate(list(dataset)), 0
    labels = batch.pop("labels")
    for epoch in range(3):
        order = np.random.default_rng((5, epoch)).permutation(40)
        for rows in np.split(order, [16, 32]):
            optimizer.param_groups[0]["lr"] = rate * (1 + np.cos(np.pi * step / 9)) / 2
            logits = whole(**{key: value[rows] for key, value in batch.items()}).logits
            optimizer.zero_grad()
            generalized_cross_entropy(logits, labels[rows], 0.7).mean().backward()
            optimizer.step()
            step += 1
    assert not torch.equal(whole.classifier.weight, model.classifier.weight)
    torch.testing.assert_close(probe.head.weight, whole.classifier.weight, rtol=1e-3, atol=1e-5)


def test_features_above_the_memory_cap_are_on_disk_and_the_same(trainer_of, tmp_path):
    dataset = toy_dataset(20)
    kept = []
    for cap in (1.0, 0.0):
        trainer = trainer_of(tiny_bert(), dataset, probe_feature_memory=cap)
        trainer.data_collator = collate
        with features_for_probe(trainer, dataset, trainer.args, True) as features:
            files = list((tmp_path / "out").glob("_features*"))
            assert len(files) == (cap == 0.0)
            assert all(file.stat().st_size == 20 * (1 + 1 + 32 + 32) * 4 for file in files)
            probe = Probe(find_head(trainer.model), features.head_shape, 32)
            train_probe(probe, features, trainer.args, 0)
            kept.append((features.head.clone(), features.mean.clone(), probe.state_dict()))
    torch.testing.assert_close(kept[0], kept[1], rtol=0, atol=0)
    assert not list((tmp_path / "out").glob("_features*"))


def test_a_head_of_another_name_and_shape(trainer_of):
    class Pictures(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(1, 5, 3)
            self.top = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 3))

        def forward(self, pixel_values, labels=None):
            return {"logits": self.top(self.body(pixel_values))}

    torch.manual_seed(0)
    model, images = Pictures(), torch.randn(6, 1, 8, 8)
    dataset = Dataset.from_dict({"pixel_values": images.numpy(), "labels": [0, 1, 2] * 2})
    trainer = trainer_of(model, dataset)
    trainer.data_collator = collate_any
    with pytest.raises(ValueError, match="no head called classifier, score or.*Candidates: body, top"):
        find_head(model)
    with pytest.raises(ValueError, match="no module 'tip'.*Candidates: body, top"):
        find_head(model, "tip")
    trainer.args.probe_head = "top"
    with features_for_probe(trainer, dataset, trainer.args, False) as features, torch.no_grad():
        torch.testing.assert_close(
            Probe(find_head(model, "top"), features.head_shape)(features, slice(None))[0],
            model(images)["logits"],
        )
    trainer.args.probe_head = "body"  # gives no class scores
    with (
        pytest.raises(ValueError, match="class scores of Pictures are not what its head"),
        features_for_probe(trainer, dataset, trainer.args, False),
    ):
        pass


def test_models_without_a_head_to_probe():
    causal = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no head.*`probe_head`.*Candidates: lm_head"):
        find_head(causal)
    config = config_of("lora", "bart")
    config.modules_to_save, config.task_type = None, None
    with pytest.raises(ValueError, match=r"is frozen.*modules_to_save=\['classification_head'\]"):
        find_head(get_peft_model(model_of("bart"), config))
    # Adapted, the head would not be saved as it was probed.
    on_head = LoraConfig(target_modules=["query", "classifier"])
    with pytest.raises(ValueError, match="'classifier' of Bert.* is frozen.*don't adapt it"):
        find_head(get_peft_model(tiny_bert(), on_head))
    with pytest.raises(ValueError, match="PREFIX_TUNING can't be left out.*ClearPromptConfig"):
        find_head(get_peft_model(tiny_bert(), PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)))
    frozen = tiny_bert()
    frozen.classifier.requires_grad_(False)
    with pytest.raises(ValueError, match="is frozen.*requires_grad_"):
        find_head(frozen)


def test_mean_features_of_a_convolutional_network(trainer_of):
    config = ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[4, 12], depths=[1, 1], num_labels=3)
    torch.manual_seed(0)
    model, images = ResNetForImageClassification(config), torch.randn(6, 1, 32, 32)
    dataset = Dataset.from_dict({"pixel_values": images.numpy(), "labels": [0, 1, 2] * 2})
    trainer = trainer_of(model, dataset)
    trainer.data_collator = collate_any
    with features_for_probe(trainer, dataset, trainer.args, True) as features, torch.no_grad():
        outputs = model.eval()(images, output_hidden_states=True)
        torch.testing.assert_close(features.mean, outputs.hidden_states[-1].mean(dim=(2, 3)))
        scores = Probe(find_head(model), features.head_shape)(features, slice(None))[0]
        torch.testing.assert_close(scores, outputs.logits)


def test_a_probe_that_learns_nothing_says_so(trainer_of, caplog):
    dataset = Dataset.from_dict({**toy_dataset(40).to_dict(), "labels": [0, 1, 2, 3] * 10}).map(
        lambda row: {"input_ids": [1, 5, 5], "attention_mask": [1, 1, 1]}
    )
    trainer = trainer_of(tiny_bert(), dataset, probe_epochs=2, probe_learning_rate=1.0)
    trainer.data_collator = collate
    with features_for_probe(trainer, dataset, trainer.args, False) as features:
        train_probe(Probe(find_head(trainer.model), features.head_shape), features, trainer.args, 0)
    assert "is not below that of guessing" in caplog.text


def test_features_that_are_not_finite():
    features = FrozenFeatures(labels=torch.zeros(4, dtype=torch.long), head=torch.ones(4, 3), head_shape=(3,))
    features.head[2, 1] = torch.inf
    with pytest.raises(ValueError, match="features of training sample 2 are not finite"):
        train_probe(Probe(nn.Linear(3, 2), (3,)), features, TurnTrainingArguments(output_dir="unused", use_cpu=True), 0)
