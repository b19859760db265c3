import functools
import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, a core each

import datasets
import pytest
from helpers.toy import tiny_bert
from helpers.turn import turn_trainer

from hf_clear import ClearArguments, ClearTrainingArguments, preset

datasets.disable_progress_bars()


SLOW = ("end_to_end", "notebooks", "distributed", "faults", "hub", "trl")  # in the names of files


def pytest_collection_modifyitems(items) -> None:
    """The slow ones first: of tests that run side by side, none is left to be waited for."""
    rank = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: min((rank[name] for name in SLOW if name in item.path.stem), default=len(SLOW)))


def pytest_collection_finish(session) -> None:
    """`Trainer` collects garbage after each training: not among what was imported, which takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def training_arguments(tmp_path):
    """Builds `ClearTrainingArguments` (or another class) with what every test wants: CleaR's own settings are those of
    the preset "clear", whatever the defaults are."""

    def build(cls=ClearTrainingArguments, **kwargs):
        return cls(
            **{
                **(preset("clear") if issubclass(cls, ClearArguments) else {}),
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


@pytest.fixture
def turn(training_arguments):
    """Builds a `TurnTrainer` on toy data."""
    return functools.partial(turn_trainer, training_arguments)


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
