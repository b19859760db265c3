"""What a pretrained model takes: a padding token, a longest input."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn
from transformers import PretrainedConfig

POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")  # of learned positions

logger = logging.getLogger(__name__)


def set_padding(tokenizer: Any, config: PretrainedConfig) -> None:
    """Lets a model without a padding token, such as GPT-2 and Llama, take batches: the token for the end of a text
    pads, on the right. What its head looks at is the last token that is no padding.

    Raises:
        ValueError: if there is no end of a text, either.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                "The tokenizer has neither a padding token nor one for the end of a text, so texts of different "
                "lengths make no batch. Set `pad_token` in its tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
    if config.pad_token_id != tokenizer.pad_token_id:
        config.pad_token_id = tokenizer.pad_token_id


def longest_input(model: nn.Module, tokenizer: Any, asked_for: int) -> int:
    """The number of tokens to truncate to: what is asked for, or what tokenizer and positions of the model allow.

    Raises:
        ValueError: if that leaves nothing of a text.
    """
    limit = min(asked_for, tokenizer.model_max_length)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITION_TABLES:
            # RoBERTa and BART leave the first rows to padding.
            padding = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            limit = min(limit, module.num_embeddings - padding)
    if limit < asked_for:
        logger.warning(f"Texts are truncated to {limit} tokens, not {asked_for}: that is what the model takes.")
    least = tokenizer.num_special_tokens_to_add() + 1
    if limit < least:
        raise ValueError(f"--max_seq_length {asked_for} leaves nothing of a text: it has to be {least} or above.")
    return limit
