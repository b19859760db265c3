"""Gates: how they are drawn, and how a PEFT module's layer applies its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


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


@dataclass
class PassGates:
    """The gates of a module that a forward pass goes through several times, such as ALBERT's shared layer.

    Attributes:
        gates (`tuple[torch.BoolTensor, ...]`): the gate `[batch]` of each pass, in order.
        current (`int`): which pass the module is in. The last one to begin with, so that [`count_pass`] moves on to
            the first, and a second forward pass of the model begins anew.
    """

    gates: tuple[torch.Tensor, ...]
    current: int

    def gate(self) -> torch.Tensor:
        return self.gates[self.current]


Gate = torch.Tensor | PassGates


def count_pass(module: nn.Module, args: tuple) -> None:
    """A forward pre-hook of modules with [`PassGates`]: each call of the module is its next pass."""
    passes = module.__dict__.get("_clear_passes")
    if passes is None:  # not routed
        return
    # Activation checkpointing would call the module again, last pass first.
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            f"A {type(module).__name__} that the model goes through {len(passes.gates)} times was called during "
            "backward, which is what activation checkpointing does: its passes can't be told apart there, so they "
            "would get each other's gates. Train this model without activation checkpointing "
            "(`gradient_checkpointing=False`)."
        )
    passes.current = (passes.current + 1) % len(passes.gates)


def apply_gate(gate: Gate, routed: torch.Tensor, bypassed: torch.Tensor) -> torch.Tensor:
    """`routed` in the rows where `gate` is True, `bypassed` elsewhere: for the layers of a PEFT method.

    `torch.where` instead of a product: bit-exact, safe where a delta is not finite, and parameters of a fully bypassed
    module get zero gradients rather than none. Dimension 0 is the batch, or a multiple of it in which the rows of a
    sample stand together (windows of an image, choices of a question).

    Args:
        gate (`Gate`): what `set_gate` was given (see [`register_routable`]): for a batch `[batch]`.
        routed, bypassed (`torch.Tensor` of shape `[rows, ...]`): what the layer gives with and without the adapter.

    Raises:
        ValueError: if dimension 0 is not a multiple of the batch.
    """
    gate = expand_gate(gate, routed.shape[0])
    return torch.where(gate.view(-1, *[1] * (routed.ndim - 1)), routed, bypassed)


def expand_gate(gate: Gate, rows: int) -> torch.Tensor:
    """The gate repeated for the `rows` of an input, a bool tensor `[rows]`; see [`apply_gate`].

    Raises:
        ValueError: if `rows` is not a multiple of the batch.
    """
    if isinstance(gate, PassGates):
        gate = gate.gate()
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
