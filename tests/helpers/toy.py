"""A tiny BERT, data that it can learn, and a collator whose results don't depend on who shares a batch."""

from __future__ import annotations

import datasets
import torch
from transformers import BertConfig, BertForSequenceClassification

NUM_LABELS, NUM_LAYERS = 4, 3


def tiny_bert(num_labels: int = NUM_LABELS, **config) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            **{
                "vocab_size": 60,
                "hidden_size": 32,
                "num_hidden_layers": NUM_LAYERS,
                "num_attention_heads": 4,
                "intermediate_size": 37,
                "max_position_embeddings": 32,
                "num_labels": num_labels,
                **config,
            }
        )
    )


def randomize_adapters(model: torch.nn.Module) -> None:
    """LoRA's B starts at zero: give it values, so that acting and bypassed modules differ."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=generator)


def toy_dataset(num_samples: int = 24, num_labels: int = NUM_LABELS, seed: int = 0) -> datasets.Dataset:
    """Sequences of 6 to 9 tokens; the label decides which tokens are frequent, so that it can be learned."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, size: int) -> list[int]:
        return torch.randint(low, high, (size,), generator=generator).tolist()

    labels = [i % num_labels for i in range(num_samples)]
    tokens = [[1] + draw(4 + 10 * label, 14 + 10 * label, 5 + draw(0, 4, 1)[0]) for label in labels]
    return datasets.Dataset.from_dict(
        {"input_ids": tokens, "attention_mask": [[1] * len(ids) for ids in tokens], "labels": labels}
    )


def collate(items: list[dict]) -> dict[str, torch.Tensor]:
    """Pads to one fixed length, so that results don't depend on who shares a batch."""
    width = 12
    pad = [width - len(item["input_ids"]) for item in items]
    batch = {
        "input_ids": torch.tensor([item["input_ids"] + [0] * n for item, n in zip(items, pad)]),
        "attention_mask": torch.tensor([item["attention_mask"] + [0] * n for item, n in zip(items, pad)]),
    }
    if "labels" in items[0]:
        batch["labels"] = torch.tensor([item["labels"] for item in items])
    return batch
