"""The adapters of the folds: copies of the model's adapter, beside it in the same layers."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, MutableMapping
from typing import cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from ..files.states import read_tensors_into, write_tensors

# By this ending, files are known as those of a training: no part of a model, and nothing that a push uploads.
STATE_NAME = "clear_folds_state.safetensors"
_FORMAT = "hf_clear.folds.v1"
_WRITER = "ClearTrainer in a cross-fitting warm-up"


class FoldAdapters:
    """One adapter, with its trained head, for each fold. The first is the model's own; the others are copies of it that
    peft doesn't know of: they act within [`~hf_clear.routing.choose_adapters`] alone, and are not in the model's
    `state_dict`, so that nobody else saves them.

    Args:
        model (`nn.Module`): carries one active adapter; unwrapped.
        num_folds (`int`): how many adapters there shall be.

    Attributes:
        names (`tuple[str, ...]`): of the adapters, fold by fold.

    Raises:
        ValueError: if something is trained that is in no adapter, and would see the labels of all folds; or if
            several adapters are active.
    """

    def __init__(self, model: nn.Module, num_folds: int):
        self._model = model
        main = _active_adapter(model)
        self.names = (main, *(f"clear_fold_{number}" for number in range(1, num_folds)))
        self._initial = {name: tensor.detach().clone() for name, tensor in self.tensors(0).items()}
        _check_nothing_is_shared(model, self.tensors(0))
        self._hooks = []
        for _, container in list(_containers(model, main)):
            for name in self.names[1:]:
                container[name] = copy.deepcopy(container[main])
            if isinstance(container, nn.Module):
                self._hooks.append(container.register_state_dict_post_hook(_Hidden(self.names[1:])))

    def tensors(self, fold: int) -> dict[str, torch.Tensor]:
        """The parameters and buffers of a fold's adapter, by a name that is the same for all folds."""
        tensors: dict[str, torch.Tensor] = {}
        for path, container in _containers(self._model, self.names[fold]):
            item = container[self.names[fold]]
            if isinstance(item, nn.Module):
                tensors |= {f"{path}.{name}": tensor for name, tensor in item.state_dict(keep_vars=True).items()}
            elif isinstance(item, torch.Tensor):
                tensors[path] = item
        return tensors

    def parameters(self, fold: int) -> list[nn.Parameter]:
        return [cast(nn.Parameter, tensor) for tensor in self.tensors(fold).values() if tensor.requires_grad]

    def drop(self) -> None:
        """Takes the copies out of the model. Its own adapter, that of the first fold, stays as it is."""
        for fold, name in enumerate(self.names[1:], start=1):
            for parameter in self.parameters(fold):
                parameter.grad = None  # DDP keeps the parameters
            for _, container in list(_containers(self._model, name)):
                del container[name]
        while self._hooks:
            self._hooks.pop().remove()

    @torch.no_grad()
    def restore(self) -> None:
        """Gives the model's own adapter the values that all began with."""
        for name, tensor in self.tensors(0).items():
            tensor.copy_(self._initial[name])

    # ---- State ----

    def save(self, path: str | os.PathLike) -> None:
        """Writes all adapters, and the values that they began with, as safetensors, atomically."""
        write_tensors(path, _FORMAT, self._all(), num_folds=len(self.names))

    def load(self, path: str | os.PathLike) -> None:
        """Goes on from what [`save`] wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or of other adapters.
        """
        read_tensors_into(self._all(), path, _FORMAT, _WRITER, "another PEFT config or other `clear_folds`")

    def _all(self) -> dict[str, torch.Tensor]:
        parts = {"initial": self._initial, **{str(fold): self.tensors(fold) for fold in range(len(self.names))}}
        return {f"{part}.{name}": tensor for part, of_part in parts.items() for name, tensor in of_part.items()}


class _Hidden:
    """A hook that takes adapters out of the `state_dict` of a module that holds them by their names."""

    def __init__(self, adapters: tuple[str, ...]):
        self.adapters = adapters

    def __call__(self, module: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, metadata: object) -> None:
        for name in list(state_dict):
            if name.startswith(prefix) and name.removeprefix(prefix).split(".")[0] in self.adapters:
                del state_dict[name]


def _check_nothing_is_shared(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    own = {id(tensor) for tensor in tensors.values()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in own:
            raise ValueError(
                f"`clear_warmup='cross_fit'` trains an adapter for each fold, and {name} is trained and in no adapter: "
                "it would see the labels of all folds. Name its module in `modules_to_save` of the PEFT config, or "
                "freeze it."
            )


def _active_adapter(model: nn.Module) -> str:
    layers = [layer for layer in model.modules() if isinstance(layer, (BaseTunerLayer, AuxiliaryTrainingWrapper))]
    active = sorted({name for layer in layers for name in layer.active_adapters})
    if len(active) != 1:
        raise ValueError(
            f"`clear_warmup='cross_fit'` trains copies of one adapter, and this model has {len(active)} active ones"
            f"{': ' * bool(active)}{', '.join(active)}. Activate the one that is to be trained (`set_adapter`)."
        )
    return active[0]


def _containers(model: nn.Module, adapter: str) -> Iterator[tuple[str, MutableMapping]]:
    """Wherever a layer or a trained head keeps something by the name of an adapter: modules, parameters, settings."""
    for path, layer in model.named_modules():
        if isinstance(layer, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            for name, value in [*vars(layer).items(), *cast(nn.Module, layer)._modules.items()]:
                is_one = isinstance(value, (dict, nn.ModuleDict, nn.ParameterDict)) and not name.startswith("_")
                if is_one and adapter in value:
                    yield f"{path}.{name}", value
