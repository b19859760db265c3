"""Small random models of every architecture that hf_clear is tested on, and the PEFT methods, one row each."""

from __future__ import annotations

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import (
    AlbertConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedModel,
    Qwen2Config,
    RobertaConfig,
    T5Config,
    ViTConfig,
)

from hf_clear import ClearAdapterConfig, ClearBitFitConfig, ClearLoraConfig, ClearPromptConfig

NUM_LABELS = 3
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "initializer_range": 0.2,
    "num_labels": NUM_LABELS,
}
_TEXT = {**_SIZES, "vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ARCHITECTURES = {
    "bert": lambda: BertConfig(**_TEXT),
    "roberta": lambda: RobertaConfig(**_TEXT),
    "distilbert": lambda: DistilBertConfig(
        vocab_size=60, dim=32, n_layers=2, n_heads=4, hidden_dim=37, initializer_range=0.2, num_labels=NUM_LABELS
    ),
    "deberta-v2": lambda: DebertaV2Config(
        **_TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True, position_buckets=8
    ),
    "electra": lambda: ElectraConfig(**_TEXT, embedding_size=16),
    "mpnet": lambda: MPNetConfig(**_TEXT),
    "albert": lambda: AlbertConfig(**_TEXT, embedding_size=16),
    "modernbert": lambda: ModernBertConfig(**_TEXT, cls_token_id=1, sep_token_id=2, local_attention=4),
    "gpt2": lambda: GPT2Config(
        vocab_size=60,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.2,
        num_labels=NUM_LABELS,
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "llama": lambda: LlamaConfig(**_TEXT, num_key_value_heads=2),
    "qwen2": lambda: Qwen2Config(**_TEXT, num_key_value_heads=2),
    "t5": lambda: T5Config(
        vocab_size=60,
        d_model=32,
        d_kv=8,
        d_ff=37,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        num_labels=NUM_LABELS,
        **{"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2},
    ),
    "bart": lambda: BartConfig(
        vocab_size=60,
        d_model=32,
        init_std=0.2,
        num_labels=NUM_LABELS,
        **{f"{stack}_layers": 2 for stack in ("encoder", "decoder")},
        **{f"{stack}_attention_heads": 4 for stack in ("encoder", "decoder")},
        **{f"{stack}_ffn_dim": 37 for stack in ("encoder", "decoder")},
        **{"decoder_start_token_id": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "vit": lambda: ViTConfig(**_SIZES, image_size=8, patch_size=4),
}
# Gate rows: one a layer (in ALBERT one for each pass through its layer); an encoder and a decoder count apart.
ROWS = {**dict.fromkeys(ARCHITECTURES, 2), "t5": 4, "bart": 4}
# Heads that peft doesn't know by itself, and LoRA targets if it has no (or, in DeBERTa, no routable) default.
_HEADS = {**dict.fromkeys(["t5", "bart"], ["classification_head"]), "vit": ["classifier"]}
_LORA_TARGETS = {
    "distilbert": ["q_lin", "v_lin"],
    "deberta-v2": ["value_proj"],
    "mpnet": ["attn.q", "attn.v"],
    "albert": ["query", "value"],
    "modernbert": ["Wqkv"],
    "vit": ["q_proj", "v_proj"],
}
METHODS = {
    "lora": lambda name, **kwargs: ClearLoraConfig(r=4, target_modules=_LORA_TARGETS.get(name), **kwargs),
    "adapter": lambda name, **kwargs: ClearAdapterConfig(bottleneck_size=4, **kwargs),
    "bitfit": lambda name, **kwargs: ClearBitFitConfig(**kwargs),
    "prompt": lambda name, **kwargs: ClearPromptConfig(num_virtual_tokens=3, **kwargs),
    "prompt-exact": lambda name, **kwargs: ClearPromptConfig(num_virtual_tokens=3, exact=True, **kwargs),
}
_NO_BIASES, _NO_INTERFACE = "the layers of .* have none", "doesn't go through transformers' attention interface"
UNSUPPORTED = {
    **{("bitfit", name): _NO_BIASES for name in ("modernbert", "llama", "t5")},
    **{(method, name): _NO_INTERFACE for method in ("prompt", "prompt-exact") for name in ("deberta-v2", "mpnet")},
}
SUPPORTED = [(method, name) for method in METHODS for name in ARCHITECTURES if (method, name) not in UNSUPPORTED]


def model_of(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    auto = AutoModelForImageClassification if name == "vit" else AutoModelForSequenceClassification
    return auto.from_config(ARCHITECTURES[name]()).eval()


def config_of(method: str, name: str) -> PeftConfig:
    task_type = None if name == "vit" else "SEQ_CLS"
    return METHODS[method](name, task_type=task_type, modules_to_save=_HEADS.get(name))


def adapted(method: str, name: str) -> PeftModel:
    return randomized(get_peft_model(model_of(name), config_of(method, name)).eval())


def randomized(model: PeftModel, seed: int = 1) -> PeftModel:
    """Deltas start at zero: gives them values, so that acting and bypassed modules differ."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3, generator=generator)
    return model


def batch_of(name: str, size: int = 4) -> dict[str, torch.Tensor]:
    """Sequences of different lengths, right-padded; or images."""
    generator = torch.Generator().manual_seed(3)
    if name == "vit":
        return {"pixel_values": torch.randn(size, 3, 8, 8, generator=generator)}
    tokens = torch.randint(5, 60, (size, 9), generator=generator)
    lengths = torch.tensor([9, 7, 9, 5, 8, 6])[:size]
    mask = torch.arange(9) < lengths[:, None]
    tokens[torch.arange(size), lengths - 1] = 2  # where BART and T5 read their classes off
    return {"input_ids": tokens * mask, "attention_mask": mask.long()}


def hidden_states(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Of every layer and stack: what the head, which is never gated, has no part in."""
    outputs = model(**batch, output_hidden_states=True)
    names = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
    return [state for name in names for state in getattr(outputs, name, None) or ()]


def all_equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) > 0 and all(torch.equal(a, b) for a, b in zip(first, second))
