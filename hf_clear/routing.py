"""Gates: for every layer and every sample, whether the layer's PEFT module acts or is bypassed.

This module draws gates and hands them to the modules. It knows no loss and no trainer. A PEFT method takes part by one
call of [`register_routable`].
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import torch
from torch import nn

GateSetter = Callable[[nn.Module, torch.Tensor], Callable[[], None]]

_GATE_SETTERS: dict[type[nn.Module], GateSetter] = {}
_MODEL_CHECKS: dict[type[nn.Module], Callable[[nn.Module], None]] = {}


def register_routable(
    layer_type: type[nn.Module], set_gate: GateSetter, check_model: Callable[[nn.Module], None] | None = None
) -> None:
    """Makes every module of a type routable.

    Args:
        layer_type (`type`): the class of the modules that carry a PEFT delta.
        set_gate (`Callable`): `set_gate(module, gate)` makes `module` add its delta only to the rows where `gate`, a
            bool tensor `[batch]`, is True (see [`apply_gate`]), and returns a function that undoes this.
        check_model (`Callable`, *optional*): `check_model(model)` raises a ValueError where bypassing these modules
            would not give the pretrained model.
    """
    _GATE_SETTERS[layer_type] = set_gate
    if check_model is not None:
        _MODEL_CHECKS[layer_type] = check_model


def check_routable(model: nn.Module) -> None:
    """Makes sure that `model` with all its PEFT modules bypassed is the pretrained model.

    Raises:
        ValueError: where a PEFT method's settings rule that out; the message says which.
    """
    for check_model in _MODEL_CHECKS.values():
        check_model(model)


def num_routed_layers(model: nn.Module) -> int:
    """The number of rows that `gates` needs in [`route`]; 0 where `model` has no routable PEFT module."""
    return len(_routed_layers(model))


@contextlib.contextmanager
def route(model: nn.Module, gates: torch.Tensor) -> Iterator[None]:
    """Within this context, each layer's PEFT modules act only on the samples that `gates` lets through.

    A bypassed sample passes the frozen layer exactly: with all gates closed the model's hidden states equal the frozen
    base model's bit for bit, with all gates open they equal the ungated model's. A trained head (`modules_to_save`) is
    never gated. Outside the context nothing is gated. The context has to be open in the backward pass too: a layer
    under activation checkpointing reads its gate again there.

    Args:
        model (`nn.Module`): a model with routable PEFT modules, wrapped (DDP, `torch.compile`) or not.
        gates (`torch.BoolTensor` of shape `[num_routed_layers(model), batch]`): True where the module acts. Rows stand
            for layers in the order of the model's modules. PEFT modules that share a numbered layer (`encoder.layer.3`)
            share a row; one outside of any numbered layer (a pooler) has a row of its own.

    Raises:
        ValueError: where the shape or the dtype of `gates` is wrong, or a PEFT module can't be routed.
    """
    layers = _routed_layers(model)
    if gates.dtype != torch.bool or gates.ndim != 2 or gates.shape[0] != len(layers):
        raise ValueError(
            f"`gates` has to be a bool tensor of shape [num_routed_layers, batch] = [{len(layers)}, batch], got "
            f"{gates.dtype} of shape {list(gates.shape)}."
        )
    with contextlib.ExitStack() as undo:
        for gate, modules in zip(gates, layers.values()):
            for module, set_gate in modules:
                undo.callback(set_gate(module, gate.to(_device(module))))
        yield


RoutingStrategy = Callable[[torch.Tensor, float, "torch.Tensor | None"], torch.Tensor]
ROUTING_STRATEGIES: dict[str, RoutingStrategy] = {
    "clean": lambda probability, gamma, is_clean: gamma * probability,
    "deterministic": lambda probability, gamma, is_clean: (probability > 0.5).to(probability),
    "random": lambda probability, gamma, is_clean: (gamma * probability.mean()).expand_as(probability),
    "noisy": lambda probability, gamma, is_clean: gamma * (1 - probability),
    "oracle": lambda probability, gamma, is_clean: torch.where(is_clean.isnan(), gamma * probability, is_clean),
    "none": lambda probability, gamma, is_clean: torch.ones_like(probability),
}


def gate_probability(
    strategy: str, clean_probability: torch.Tensor, gamma: float, is_clean: torch.Tensor | None = None
) -> torch.Tensor:
    """The probability that a layer's PEFT module acts on each sample (CleaR, arXiv 2411.00873, and its ablations).

    - `"clean"`: `γ·p`, the method itself;
    - `"deterministic"`: 1 where `p > 0.5`, else 0;
    - `"random"`: `γ` times the mean of `p`, the same for all samples: as many modules act as under `"clean"`;
    - `"noisy"`: `γ·(1 - p)`;
    - `"oracle"`: 1 for truly clean samples, 0 for truly noisy ones, `γ·p` where the truth is unknown;
    - `"none"`: 1.

    Args:
        strategy (`str`): one of the names above.
        clean_probability (`torch.Tensor` of shape `[num_samples]`): of the whole training set.
        gamma (`float`): the cap γ in [0, 1].
        is_clean (`torch.Tensor` of shape `[num_samples]`, *optional*): 1 for a correct label, 0 for a wrong one, NaN
            where unknown. For `"oracle"`.

    Returns:
        `torch.Tensor` of shape `[num_samples]`, in [0, 1].

    Raises:
        ValueError: where the strategy is unknown, or is `"oracle"` and `is_clean` is None.
    """
    if strategy not in ROUTING_STRATEGIES:
        raise ValueError(f"The routing strategy has to be one of {', '.join(ROUTING_STRATEGIES)}; got {strategy!r}.")
    if strategy == "oracle" and is_clean is None:
        raise ValueError("The routing strategy 'oracle' needs to know which labels are correct.")
    return ROUTING_STRATEGIES[strategy](clean_probability, gamma, is_clean)


def sample_gates(
    probability: torch.Tensor, num_layers: int, sample_index: torch.Tensor, key: tuple[int, ...]
) -> torch.Tensor:
    """Draws `gates[l, i] ~ Bernoulli(probability[i])`, independently for every layer and sample.

    The draw is a pure function of `(key, sample_index[i], l)`: it uses and changes no random state and does not depend
    on how samples are split into batches, accumulation steps and processes. A resumed run draws what the uninterrupted
    one would have drawn.

    Args:
        probability (`torch.Tensor` of shape `[batch]`): the probability that a module acts on a sample, in [0, 1].
        num_layers (`int`): the number of rows to draw.
        sample_index (`torch.LongTensor` of shape `[batch]`): which sample of the training set each column is.
        key (`tuple[int, ...]`): whatever else tells draws apart, such as `(seed, step)`.

    Returns:
        `torch.BoolTensor` of shape `[num_layers, batch]`, on the device of `probability`.
    """
    state = torch.zeros((), dtype=torch.int64, device=probability.device)
    for part in key:
        state = _mix(state + part)
    layer = torch.arange(num_layers, device=probability.device).unsqueeze(1)
    bits = _mix(_mix(state + sample_index.to(probability.device)) + layer)
    # The upper 24 bits are a uniform number in [0, 1) that float32 holds exactly: 0 never passes, 1 always does.
    uniform = ((bits >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24
    return uniform < probability


def apply_gate(gate: torch.Tensor, routed: torch.Tensor, bypassed: torch.Tensor) -> torch.Tensor:
    """`routed` in the rows where `gate` is True, `bypassed` elsewhere: for the layers of a PEFT method.

    `torch.where` instead of a product: bit-exact, safe where a delta is not finite, and parameters of a fully bypassed
    module get zero gradients rather than none. Dimension 0 is the batch, or a multiple of it in which the rows of a
    sample stand together (windows of an image, choices of a question).

    Raises:
        ValueError: where dimension 0 is not a multiple of the batch.
    """
    gate = expand_gate(gate, routed.shape[0])
    return torch.where(gate.view(-1, *[1] * (routed.ndim - 1)), routed, bypassed)


def expand_gate(gate: torch.Tensor, rows: int) -> torch.Tensor:
    """The gate `[batch]` repeated for the `rows` of an input, `[rows]`; see [`apply_gate`].

    Raises:
        ValueError: where `rows` is not a multiple of the batch.
    """
    batch = gate.shape[0]
    if rows == batch:
        return gate
    if rows == 0 or rows % batch:
        raise ValueError(
            f"A PEFT module got an input with {rows} rows while the gates stand for a batch of {batch}: its rows are "
            "not samples, so they can't be routed one by one. Take this module out of `target_modules`, or use a "
            "collator that keeps the samples apart."
        )
    return gate.repeat_interleave(rows // batch)


def _routed_layers(model: nn.Module) -> dict[str, list[tuple[nn.Module, GateSetter]]]:
    layers: dict[str, list[tuple[nn.Module, GateSetter]]] = {}
    for path, module in model.named_modules():
        for layer_type, set_gate in _GATE_SETTERS.items():
            if isinstance(module, layer_type):
                layers.setdefault(layer_of(path), []).append((module, set_gate))
                break
    return layers


def layer_of(path: str) -> str:
    """A module's path up to its first number: `encoder.layer.3.attention.query` belongs to `encoder.layer.3`. One
    without a number is a layer of its own."""
    numbered = re.match(r"(.*?\.)?\d+(?=\.|$)", path)
    return numbered.group() if numbered else path


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _mix(state: torch.Tensor) -> torch.Tensor:
    """One step of SplitMix64 (Steele et al., 2014): a bijection of int64 whose output bits look independent."""
    state = state + _int64(0x9E3779B97F4A7C15)
    state = (state ^ _shift_right(state, 30)) * _int64(0xBF58476D1CE4E5B9)
    state = (state ^ _shift_right(state, 27)) * _int64(0x94D049BB133111EB)
    return state ^ _shift_right(state, 31)


def _shift_right(state: torch.Tensor, bits: int) -> torch.Tensor:
    """torch has no unsigned shift for 64 bits: clear the copies of the sign bit."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _int64(unsigned: int) -> int:
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned
