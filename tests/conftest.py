import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import datasets
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from hf_clear import ClearTrainingArguments

datasets.disable_progress_bars()

NUM_LABELS, NUM_LAYERS = 4, 3


def pytest_collection_finish(session) -> None:
    """`Trainer` collects garbage after each training: not among what was imported, which takes half a second."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture
def training_arguments(tmp_path):
    """Builds `ClearTrainingArguments` (or another class) with what every test wants."""

    def build(cls=ClearTrainingArguments, **kwargs):
        return cls(
            **{
                "output_dir": str(tmp_path / "out"),
                "use_cpu": True,
                "per_device_train_batch_size": 8,
                "num_train_epochs": 3,
                "learning_rate": 1e-2,
                "logging_steps": 1,
                "save_strategy": "no",
                "disable_tqdm": True,
                "seed": 7,
                **kwargs,
            }
        )

    return build


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """A folder with a random BERT and a word-level tokenizer, as `from_pretrained` wants it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [f"{kind}{i}" for kind in ("red", "green", "blue", "filler") for i in range(12)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
        model_max_length=32,
    )
    folder = str(tmp_path_factory.mktemp("tiny_model"))
    fast.save_pretrained(folder)
    tiny_bert(initializer_range=0.2).save_pretrained(folder)
    return folder
