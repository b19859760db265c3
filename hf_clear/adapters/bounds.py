"""The numbers in the settings of an adapter: within what peft can work with in bounded time and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, cast

from peft import PeftConfig
from torch import nn

_LARGEST = 1e9  # of what is no integer, such as `lora_alpha`
_LARGEST_SIZE = 2**16  # of integers, for adapters that hold fewer numbers than that
_LARGEST_COUNT = 256  # of what is built or gone through one by one
_COUNTS = (
    "adapter_layers adapter_len boft_block_num boft_n_butterfly_factor depth encoder_num_layers gralora_k loftq_iter "
    "n_skills n_splits num_B num_cayley_neumann_terms num_layers num_samples num_subspaces num_transformer_submodules "
    "psoft_svd_lowrank_niter shadow_num_hidden_layers xlora_depth buffer_size"
).split()
_MOST_SAMPLES = 1200  # `buffer_size * num_samples` of MonteCLoRA, each of a whole weight's size; peft's defaults
_STEPS = "deltaT final_warmup init_warmup mask_interval tfinal tinit total_step".split()  # of a past training
_MOST_LAYERS = 10  # times as many as the model has
_MOST_ITERATIONS = 64  # of "pissa_niter_[number]"; peft's examples take 4 and 16
_INITIALIZATIONS = "eva gaussian loftq lora_ga mica olora orthogonal pissa".split()
_NEEDS_DATA = ("corda",)  # initializations that change the base model by what training data say
_OF_TOKENS = ("trainable_token_indices", "token_indices", "alora_invocation_tokens", "cpt_token_ids")


def check_numbers(config: PeftConfig, num_values: int) -> None:
    """Makes sure that nothing is of a size that the adapter's own tensors can't have.

    Args:
        num_values (`int`): how many numbers all tensors of the adapter hold.

    Raises:
        ValueError: names the setting.
    """
    largest = max(_LARGEST_SIZE, num_values)
    limit: float
    for name, value in _numbers(vars(config)):
        if "seed" in name or "prng" in name or name in _STEPS or name in _OF_TOKENS:
            limit = 2**63
        elif isinstance(value, float) or "alpha" in name:
            limit = _LARGEST
        else:
            limit = _LARGEST_COUNT if name in _COUNTS else largest
        if not abs(value) <= limit:
            raise ValueError(f"The setting {name!r} can't be {value}: an adapter of this size has at most {limit:,}.")
    samples = getattr(config, "monteclora_config", None)
    if samples is not None and samples.buffer_size * samples.num_samples > _MOST_SAMPLES:
        raise ValueError(f"'buffer_size' times 'num_samples' of `monteclora_config` can't be above {_MOST_SAMPLES:,}.")


def check_initialization(config: PeftConfig) -> None:
    """Makes sure that weights which are loaded anyway are not computed at length before, and that the base model
    becomes what it was in training.

    Raises:
        ValueError: at PiSSA with many iterations, and at CorDA, whose change of the base model is not in the file.
    """
    init = getattr(config, "init_lora_weights", None)
    if not isinstance(init, str):
        return
    if init in _NEEDS_DATA:
        raise ValueError(
            f"The setting 'init_lora_weights' can't be {init!r}: it changed the base model by its training data, which "
            "the adapter doesn't hold. Convert it to plain LoRA (`path_initial_model_for_weight_conversion` of "
            "`save_pretrained`), or set it to true if the base model is the changed one."
        )
    iterations = init.removeprefix("pissa_niter_")
    if iterations != init and not (iterations.isdecimal() and int(iterations[:9]) <= _MOST_ITERATIONS):
        raise ValueError(
            f"The setting 'init_lora_weights' can't be {init[:100]!r}: loading would compute it again, and at most "
            f"{_MOST_ITERATIONS} iterations are. Convert the adapter to plain LoRA (`path_initial_model_for_weight_"
            "conversion` of `save_pretrained`)."
        )
    if iterations == init and init.lower() not in _INITIALIZATIONS:
        raise ValueError(
            f"The setting 'init_lora_weights' can't be {init[:100]!r}; there are {', '.join(_INITIALIZATIONS)}, and "
            "pissa_niter_[number]."
        )
    if init.lower() == "loftq":
        loftq = getattr(config, "loftq_config", None) or {}
        bits, steps = (loftq.get(name) for name in ("loftq_bits", "loftq_iter"))
        if bits not in (2, 4, 8):
            raise ValueError(f"The setting 'loftq_bits' can't be {bits!r:.100}: it has to be 2, 4 or 8.")
        if type(steps) is not int or steps < 1:
            raise ValueError(f"The setting 'loftq_iter' can't be {steps!r:.100}: it has to be 1 or above.")


def check_against_model(config: PeftConfig, base: nn.Module) -> None:
    """Makes sure that layers and tokens are among the model's.

    Raises:
        ValueError: names the setting.
    """
    copies = getattr(config, "layer_replication", None)
    if copies:
        num_layers = max((len(m) for m in base.modules() if isinstance(m, nn.ModuleList)), default=0)
        is_of_pairs = all(len(pair) == 2 and 0 <= pair[0] < pair[1] <= num_layers for pair in copies)
        if not is_of_pairs or sum(end - start for start, end in copies) > _MOST_LAYERS * num_layers:
            raise ValueError(
                f"The setting 'layer_replication' has to be of pairs from 0 to the model's {num_layers} layers, and of "
                f"no more than {_MOST_LAYERS} times as many in all."
            )
    for setting in _OF_TOKENS:
        tokens: Any = getattr(config, setting, None)
        embedding = cast(Any, base).get_input_embeddings() if tokens and hasattr(base, "get_input_embeddings") else None
        if embedding is None or not hasattr(embedding, "num_embeddings"):
            continue
        for of_module in tokens.values() if isinstance(tokens, Mapping) else [tokens]:
            if not all(type(token) is int and 0 <= token < embedding.num_embeddings for token in of_module):
                raise ValueError(
                    f"The setting {setting!r} names a token that is none of the model's {embedding.num_embeddings:,}."
                )


def _numbers(values: Any, name: str = "") -> Iterable[tuple[str, int | float]]:
    """All numbers inside of objects and lists, with the names of their settings."""
    if dataclasses.is_dataclass(values):
        values = vars(values)
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _numbers(value, name if name.endswith(("_pattern", *_OF_TOKENS)) else str(key))
    elif isinstance(values, (list, tuple, set)):
        for value in values:
            if not isinstance(value, str):
                yield from _numbers(value, name)
    elif isinstance(values, (int, float)) and not isinstance(values, bool):
        yield name, values
