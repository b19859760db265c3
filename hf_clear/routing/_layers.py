"""Layers: which one a module belongs to, and how often a forward pass goes through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


class Layer(NamedTuple):
    """What a row of gates stands for: a layer of the model, and which of the passes through it."""

    path: str
    number: int = 0


class Place(NamedTuple):
    """A module that a walk through the model comes by."""

    path: str
    module: nn.Module
    layer: Layer


def layer_paths(model: nn.Module) -> dict[str, str]:
    """For the path of every module, the path of the layer that it belongs to; its own outside of the layers.

    A layer is the innermost block that transformers checkpoints (`BertLayer`, `T5Block`, `SwinLayer`), or, in a model
    without those, the innermost element of a numbered list of alike blocks. Stages, experts of a mixture, heads, the
    numbered parts of a block and whole models in an `nn.ModuleList` are none. `encoder.layer.3.output.dense` belongs to
    `encoder.layer.3`, `layers.0.mlp.experts.3` to `layers.0`, and `0.encoder.layer.3` is a layer.
    """
    paths = {path: path for path, _ in model.named_modules()}
    return paths | {place.path: place.layer.path for place in walk(model)}


def check_layer_type(layer_type: object) -> None:
    """Raises ValueError if this is no class of layers."""
    if not isinstance(layer_type, type):
        raise ValueError(f"`layer_type` has to be a class of layers; got {layer_type!r}.")


def walk(model: nn.Module) -> list[Place]:
    """All modules in the order of the model, each at every path that it has. A layer that a forward pass goes through
    several times comes by once a pass, as a [`Layer`] of its own each time."""
    walker = _Walk()
    walker.visit(model, "", Layer(""), _PART, None)
    around = walker.around
    return [place._replace(layer=Layer(place.path)) if place.layer.path in around else place for place in walker.places]


# How likely an element of a numbered list is a layer. A deeper one takes over if it is as likely as the one around it,
# and from `_BLOCK` on: a list of one is the wrapper of a model as often as of a part.
_PART, _SOLE, _BLOCK, _REPEATED, _CHECKPOINTED, _PASSED = range(6)
_PARALLEL = {"expert", "experts", "head", "heads", "branch", "branches"}  # names of lists whose elements are no layers


class _Walk:
    def __init__(self):
        self.places: list[Place] = []
        self.around: set[str] = set()  # numbered modules with layers inside: what else they hold is in no layer
        self._ranks: dict[int, dict[str, int]] = {}  # by the id of the list
        self._ancestors: set[int] = set()

    def visit(self, module: nn.Module, path: str, layer: Layer, rank: int, owner: nn.Module | None) -> None:
        """Notes `module` and all that is in it. `layer` is the layer that it is in (empty outside of all), `owner` the
        module of that layer, `rank` how likely that is a layer."""
        if id(module) in self._ancestors:  # a module that holds its parent
            return
        self.places.append(Place(path, module, layer if layer.path else Layer(path)))
        if not module._modules:
            return
        self._ancestors.add(id(module))
        shared, passes = _passes(module)
        for name, child in module._modules.items():
            if child is None:
                continue
            child_path = f"{path}.{name}" if path else name
            if name == shared:
                self._take_over(layer, owner)
                for number, inner in enumerate(passes):
                    inner_path = f"{child_path}.{inner}"
                    inner_layer = Layer(inner_path, number)
                    self.visit(child.get_submodule(inner), inner_path, inner_layer, _PASSED, child)
            elif name.isdigit() and (not layer.path or self._rank(module, path, name) >= max(rank, _BLOCK)):
                self._take_over(layer, owner)
                found = self._rank(module, path, name)
                self.visit(child, child_path, Layer(child_path), found, child)
            else:
                self.visit(child, child_path, layer, rank, owner)
        self._ancestors.remove(id(module))

    def _take_over(self, layer: Layer, owner: nn.Module | None) -> None:
        """What surrounds layers is none, but for the stages of transformers: a row stands for their downsampling."""
        if layer.path and not isinstance(owner, GradientCheckpointingLayer):
            self.around.add(layer.path)

    def _rank(self, parent: nn.Module, path: str, name: str) -> int:
        if id(parent) not in self._ranks:
            self._ranks[id(parent)] = _ranks(parent, path.rpartition(".")[2])
        return self._ranks[id(parent)][name]


def _ranks(parent: nn.Module, parent_name: str) -> dict[str, int]:
    """How likely each numbered child of a module is a layer."""
    elements = {
        name: child.get_base_layer() if isinstance(child, BaseTunerLayer) else child
        for name, child in parent._modules.items()
        if name.isdigit() and child is not None
    }
    blocks = {name: child for name, child in elements.items() if any(True for _ in child.children())}
    # In a list of layers, an Identity stands for one that was taken out. Activations between blocks make a part.
    only_blocks = all(name in blocks or isinstance(child, nn.Identity) for name, child in elements.items())
    repeated = only_blocks and len({type(block) for block in blocks.values()}) < len(blocks)
    ranks = {}
    for name, child in elements.items():
        # transformers checkpoints some models by stage (`SwinStage`, `HieraStage`): their blocks are the layers.
        if isinstance(child, GradientCheckpointingLayer) and not type(child).__name__.endswith("Stage"):
            ranks[name] = _CHECKPOINTED
        elif name not in blocks or not _PARALLEL.isdisjoint(parent_name.split("_")):
            ranks[name] = _PART
        else:
            ranks[name] = _REPEATED if repeated else _BLOCK if len(elements) > 1 else _SOLE
    return ranks


def _albert_passes(groups: nn.ModuleList, num_passes: int) -> list[str]:
    """As `AlbertTransformer.forward` goes through its groups, each several times, and through the layers of each."""
    return [
        f"{group}.albert_layers.{inner}"
        for group in (int(number / (num_passes / len(groups))) for number in range(num_passes))
        for inner in range(len(cast(nn.ModuleList, groups[group].albert_layers)))
    ]


def _passes(module: nn.Module) -> tuple[str, list[str]]:
    """If a module goes through its layers several times: the name of their list, and the path in it of each pass's
    layer, in order. The one place for models that say so in their code alone."""
    config: Any = module.__dict__.get("config")
    if getattr(config, "model_type", None) == "albert" and "albert_layer_groups" in module._modules:
        return "albert_layer_groups", _albert_passes(
            cast(nn.ModuleList, module.albert_layer_groups), config.num_hidden_layers
        )
    return "", []


def with_forward(module: nn.Module, forward: Callable) -> Callable[[], None]:
    """Puts a `forward` in place of the module's own, or of one that a context around this one has put there. Returns
    what undoes it."""
    outer = module.__dict__.get("forward")
    module.forward = forward

    def undo() -> None:
        if outer is None:
            del module.forward
        else:
            module.forward = outer

    return undo
