"""Hands gates to modules. A PEFT method takes part by one call of [`register_routable`]."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import nn

from .._callables import check_call
from ._gates import Gate, PassGates, apply_gate, count_pass
from ._layers import Layer, check_layer_type, walk, with_forward

_Module = TypeVar("_Module")
GateSetter = Callable[[Any, Gate], Callable[[], None]]  # of modules of the type that it is registered for

_GATE_SETTERS: dict[type, GateSetter] = {}
_MODEL_CHECKS: dict[type, Callable[[nn.Module], None]] = {}


def register_routable(
    layer_type: type[_Module],
    set_gate: Callable[[_Module, Gate], Callable[[], None]],
    check_model: Callable[[nn.Module], None] | None = None,
) -> None:
    """Makes every module of a type routable.

    Args:
        layer_type (`type`): the class of the modules that carry a PEFT delta.
        set_gate (`Callable`): `set_gate(module, gate)` makes `module` add its delta only to the rows where `gate` is
            True, and returns a function that undoes this. `gate` stands for a bool tensor `[batch]` and is for
            [`apply_gate`], which `module` calls in each forward pass. [`gate_output`] is one that works for most peft
            layers.
        check_model (`Callable`, *optional*): `check_model(model)` raises a ValueError if bypassing these modules
            would not give the pretrained model.

    Raises:
        ValueError: if `layer_type` is no class, or a function doesn't take these arguments.
    """
    check_layer_type(layer_type)
    check_call(f"`set_gate` of {layer_type.__name__}", set_gate, "module", "gate")
    if check_model is not None:
        check_call(f"`check_model` of {layer_type.__name__}", check_model, "model")
    _GATE_SETTERS[layer_type] = set_gate
    if check_model is not None:
        _MODEL_CHECKS[layer_type] = check_model


def gate_output(layer: nn.Module, gate: Gate) -> Callable[[], None]:
    """A `set_gate` for any layer of peft that wraps a `base_layer`, such as IA3's: a bypassed sample gets the output of
    the base layer, which runs a second time for it. A layer of one's own that computes both anyway is faster.

    Raises:
        ValueError: if the adapter is merged into the base layer.
    """
    if layer.merged:
        raise ValueError("The adapter is merged into the base model, which can't be routed: unmerge it first.")
    outer = layer.__dict__.get("forward")  # of a context around this one, or of whoever else wraps this layer
    stock = getattr(outer, "stock", layer.forward)

    def forward(x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return apply_gate(gate, stock(x, *args, **kwargs), cast(nn.Module, layer.base_layer)(x, *args, **kwargs))

    vars(forward)["stock"] = stock
    return with_forward(layer, forward)


def check_routable(model: nn.Module) -> None:
    """Makes sure that `model` with all its PEFT modules bypassed is the pretrained model.

    Raises:
        ValueError: if a PEFT method's settings rule that out; the message says which.
    """
    for check_model in _MODEL_CHECKS.values():
        check_model(model)


def is_routable(module: nn.Module) -> bool:
    """Whether gates can act on a module."""
    return isinstance(module, tuple(_GATE_SETTERS))


def num_routed_layers(model: nn.Module) -> int:
    """The number of rows that `gates` needs in [`route`]; 0 if `model` has no routable PEFT module."""
    return len(_routed_layers(model))


@contextlib.contextmanager
def route(model: nn.Module, gates: torch.Tensor | None) -> Iterator[None]:
    """Within this context, each layer's PEFT modules act only on the samples that `gates` lets through.

    A bypassed sample passes the frozen layer exactly: with all gates closed the model's hidden states equal the frozen
    base model's bit for bit, with all gates open they equal the ungated model's. A trained head (`modules_to_save`) is
    never gated. Outside the context nothing is gated. The context has to be open in the backward pass too: a layer
    under activation checkpointing reads its gate again there.

    Args:
        model (`nn.Module`): a model with routable PEFT modules, wrapped (DDP, `torch.compile`) or not.
        gates (`torch.BoolTensor` of shape `[num_routed_layers(model), batch]`): True where the module acts. Rows stand
            for layers in the order of the model. PEFT modules of one layer (`encoder.layer.3`; see
            [`~hf_clear.routing.layer_paths`]) share a row; one outside of the layers (a pooler) has a row of its own.
            A layer that each forward pass goes through several times (ALBERT's, or one module at several places of a
            list) has a row for each pass. None gates nothing.

    Raises:
        ValueError: if the shape or the dtype of `gates` is wrong, or a PEFT module can't be routed.
        RuntimeError: in backward, if activation checkpointing recomputes a layer that has several passes.
    """
    if gates is None:
        yield
        return
    layers = _routed_layers(model)
    if gates.dtype != torch.bool or gates.ndim != 2 or gates.shape[0] != len(layers):
        raise ValueError(
            f"`gates` has to be a bool tensor of shape [num_routed_layers, batch] = [{len(layers)}, batch], got "
            f"{gates.dtype} of shape {list(gates.shape)}."
        )
    own_gates: dict[int, list[torch.Tensor]] = {}
    routed: dict[int, tuple[nn.Module, GateSetter]] = {}
    for gate, modules in zip(gates, layers.values()):
        for module, set_gate in modules:
            own_gates.setdefault(id(module), []).append(gate.to(_device(module)))
            routed[id(module)] = module, set_gate
    with contextlib.ExitStack() as undo:
        for key, (module, set_gate) in routed.items():
            gate, *later = own_gates[key]
            if later:
                gate = _count_passes(undo, module, (gate, *later))
            undo.callback(set_gate(module, gate))
        yield


def _count_passes(undo: contextlib.ExitStack, module: nn.Module, gates: tuple[torch.Tensor, ...]) -> PassGates:
    passes = PassGates(gates, current=len(gates) - 1)
    undo.callback(module.__dict__.__setitem__, "_clear_passes", module.__dict__.get("_clear_passes"))
    module.__dict__["_clear_passes"] = passes
    # Stays, and does nothing outside of a context: a compiled model would not notice that it comes and goes.
    if count_pass not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(count_pass)
    return passes


def _routed_layers(model: nn.Module) -> dict[Layer, list[tuple[nn.Module, GateSetter]]]:
    layers: dict[Layer, list[tuple[nn.Module, GateSetter]]] = {}
    shapes: dict[int, str] = {}
    setters: dict[type, GateSetter | None] = {}
    for path, module, layer in walk(model):
        kind = type(module)
        if kind not in setters:
            setters[kind] = next((setter for base, setter in _GATE_SETTERS.items() if issubclass(kind, base)), None)
        set_gate = setters[kind]
        if set_gate is None:
            continue
        # One module at several places of a list is passed several times; under two names (`self.encoder` beside
        # `self.bert.encoder`) it is passed once.
        shape = re.sub(r"\d+", "#", path)
        if shapes.setdefault(id(module), shape) == shape:
            layers.setdefault(layer, []).append((module, set_gate))
    return layers


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
