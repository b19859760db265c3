"""Which of several adapters acts on a sample: the layers hold them side by side, and each row passes one of them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from .._callables import check_call
from ._gates import expand_gate
from ._layers import check_layer_type, with_forward


@dataclass(frozen=True)
class AdapterChoice:
    """For each sample of a batch, the one adapter that acts on it.

    Attributes:
        names (`tuple[str, ...]`): of the adapters. The first one is the model's active adapter.
        which (`torch.LongTensor` of shape `[batch]`): positions in `names`.
    """

    names: tuple[str, ...]
    which: torch.Tensor
    _groups: dict[int, tuple[torch.Tensor, torch.Tensor, list[int]]] = field(default_factory=dict, repr=False)

    def rows(self, rows: int, device: torch.device) -> torch.Tensor:
        """`which` repeated for the `rows` of an input, as [`expand_gate`] does it: `[rows]`."""
        return expand_gate(self.which, rows).to(device)

    def pick(self, values: Sequence[torch.Tensor], rows: int) -> torch.Tensor:
        """From what each adapter gives, in each row what the row's adapter gives.

        Parameters of an adapter that no row chose get zero gradients rather than none, as under a gate.

        Args:
            values (`Sequence[torch.Tensor]`): one an adapter, each of shape `[rows, ...]`, or `[1, ...]` if it is the
                same for all rows.
            rows (`int`): of the input; a multiple of the batch.

        Returns:
            `torch.Tensor` of shape `[rows, ...]`.
        """
        which = self.rows(rows, values[0].device).view(-1, *[1] * (values[0].ndim - 1))
        picked = values[0].expand(rows, *values[0].shape[1:])
        for number, value in enumerate(values[1:], start=1):
            picked = torch.where(which == number, value, picked)
        return picked

    def apply(self, functions: Sequence[Callable[[torch.Tensor], torch.Tensor]], x: torch.Tensor) -> torch.Tensor:
        """What each adapter makes of its own rows, in the order of the rows. Costs what one adapter on all rows would,
        but for two copies.

        Args:
            functions (`Sequence[Callable]`): one an adapter. Each gets rows of `x` (none, if no row chose it), and
                gives as many.
            x (`torch.Tensor` of shape `[rows, ...]`): an input.
        """
        if len(x) not in self._groups:  # once a forward pass: GPUs have to wait for the sizes
            which = self.rows(len(x), x.device)
            order = which.argsort(stable=True)
            sizes = torch.stack([(which == number).sum() for number in range(len(self.names))]).tolist()
            self._groups[len(x)] = order, order.argsort(), sizes
        order, back, sizes = self._groups[len(x)]
        parts = x[order.to(x.device)].split(sizes)
        return torch.cat([function(own) for function, own in zip(functions, parts)])[back.to(x.device)]


_Module = TypeVar("_Module")
ChoiceSetter = Callable[[Any, AdapterChoice], Callable[[], None]]

_CHOICE_SETTERS: dict[type, ChoiceSetter] = {}


def register_choice(
    layer_type: type[_Module], set_choice: Callable[[_Module, AdapterChoice], Callable[[], None]]
) -> None:
    """Tells how layers of a type let each row pass one of several adapters. Without it, they run once an adapter.

    Args:
        layer_type (`type`): the class of the layers, of peft's kind (`BaseTunerLayer`).
        set_choice (`Callable`): `set_choice(layer, choice)` makes `layer` apply to each row the adapter that an
            [`AdapterChoice`] names, and returns a function that undoes this.

    Raises:
        ValueError: if `layer_type` is no class, or `set_choice` doesn't take these arguments.
    """
    check_layer_type(layer_type)
    check_call(f"`set_choice` of {layer_type.__name__}", set_choice, "layer", "choice")
    _CHOICE_SETTERS[layer_type] = set_choice


@contextlib.contextmanager
def choose_adapters(model: nn.Module, choice: AdapterChoice) -> Iterator[None]:
    """Within this context, each sample passes the adapter that `choice` names for it, and the trained head
    (`modules_to_save`) of that adapter. As with [`route`], the context has to be open in the backward pass too.

    Args:
        model (`nn.Module`): its layers and heads hold all of the adapters; wrapped (DDP, `torch.compile`) or not.

    Raises:
        ValueError: if a layer can't tell the rows of its input apart.
    """
    with contextlib.ExitStack() as undo:
        for module in model.modules():
            if isinstance(module, ModulesToSaveWrapper):
                if choice.names[0] in module.modules_to_save:
                    undo.callback(_choose_head(module, choice))
            elif isinstance(module, BaseTunerLayer) and choice.names[0] in module.active_adapters:
                set_choice = next((s for kind, s in _CHOICE_SETTERS.items() if isinstance(module, kind)), _run_each)
                undo.callback(set_choice(module, choice))
        yield


def _choose_head(head: ModulesToSaveWrapper, choice: AdapterChoice) -> Callable[[], None]:
    def forward(*args, **kwargs) -> torch.Tensor:
        outputs = [head.modules_to_save[name](*args, **kwargs) for name in choice.names]
        if not isinstance(outputs[0], torch.Tensor):
            raise ValueError(
                f"A {type(head.original_module).__name__} that is trained as a whole (`modules_to_save`) gives a "
                f"{type(outputs[0]).__name__} and no tensor, so that its rows can't be told apart."
            )
        return choice.pick(outputs, len(outputs[0]))

    return with_forward(head, forward)


def _run_each(layer: nn.Module, choice: AdapterChoice) -> Callable[[], None]:
    """For any layer of peft: runs it once an adapter, each time on the adapter's rows."""

    def forward(x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        def run(own: torch.Tensor, name: str) -> torch.Tensor:
            tuner = cast(BaseTunerLayer, layer)
            active, tuner._active_adapter = tuner._active_adapter, [name]
            try:
                return stock(own, *args, **kwargs)
            finally:
                tuner._active_adapter = active

        return choice.apply([functools.partial(run, name=name) for name in choice.names], x)

    stock = layer.forward
    return with_forward(layer, forward)
