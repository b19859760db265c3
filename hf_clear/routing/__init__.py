"""Routing: which PEFT modules act on which samples. One strategy a file; gates, layers and registry start with `_`.

It knows no loss and no trainer: probabilities in, gates out, and `route(model, gates)` hands them to the modules. If
layers hold several adapters, `choose_adapters(model, choice)` says which of them acts on which samples.
"""

from . import class_balanced, clean, deterministic, noisy, none, oracle, random  # noqa: F401
from ._choice import AdapterChoice, choose_adapters, register_choice
from ._gates import Gate, apply_gate, expand_gate, sample_gates
from ._layers import layer_paths
from ._registry import ROUTING_STRATEGIES, RoutingStrategy, gate_probability, register_routing_strategy
from ._route import check_routable, gate_output, is_routable, num_routed_layers, register_routable, route

__all__ = [
    "AdapterChoice",
    "Gate",
    "ROUTING_STRATEGIES",
    "RoutingStrategy",
    "apply_gate",
    "check_routable",
    "choose_adapters",
    "expand_gate",
    "gate_output",
    "gate_probability",
    "is_routable",
    "layer_paths",
    "num_routed_layers",
    "register_choice",
    "register_routable",
    "register_routing_strategy",
    "route",
    "sample_gates",
]
