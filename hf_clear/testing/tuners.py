"""The contract of PEFT methods."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from .._unwrap import base_of
from ..routing import AdapterChoice, check_routable, choose_adapters, num_routed_layers, route

_BATCH = 4
_ROUNDING = 1e-4  # of products with other neighbors
_GRADIENT_TOLERANCE = 1e-6  # of the largest gradient: recomputed sums may come in another order


def check_peft_method(
    config: PeftConfig, model: nn.Module, inputs: Mapping[str, torch.Tensor] | None = None, tolerance: float = 0.0
) -> None:
    """Holds a PEFT method to what routing promises, on one model.

    With closed gates the model is the frozen base, with open gates the ungated model; a sample's gates touch no other
    sample, a layer's gates nothing before that layer; parameters get gradients that are zero instead of missing, and
    the same under activation checkpointing if the model has it; autocast changes none of this. A merged adapter is
    refused, a second adapter is gated like the first, each sample of a batch can pass another adapter, and a saved one
    loads with the same outputs.

    Args:
        config (`PeftConfig`): as for `get_peft_model`. A copy is used.
        model (`nn.Module`): the base model, better with a few thousand weights than with many. A copy is used.
        inputs (`Mapping[str, torch.Tensor]`, *optional*): what its forward pass takes, for a batch of 4 or more. By
            default tokens or pixels that fit the model's config.
        tolerance (`float`, *optional*, defaults to 0): how far outputs with closed gates may be from the base model's,
            for a method that documents that they are not equal bit for bit.

    Raises:
        AssertionError: that says what is broken.

    Example:

    ```python
    >>> check_peft_method(ClearLoraConfig(task_type="SEQ_CLS"), model)
    ```
    """
    checked = _Check(config, model, _inputs_for(model) if inputs is None else dict(inputs), tolerance)
    checked.gates()
    checked.independence()
    checked.autocast()
    checked.gradients()
    checked.second_adapter()
    checked.saved_adapter()
    checked.merged_adapter()


class _Check:
    def __init__(self, config: PeftConfig, model: nn.Module, inputs: dict[str, torch.Tensor], tolerance: float):
        self.config, self.base, self.inputs, self.tolerance = config, copy.deepcopy(model).eval(), inputs, tolerance
        self.who = f"{type(config).__name__} on {type(model).__name__}: "
        self.batch = len(next(iter(inputs.values())))
        self.model = _randomized(self._adapted(), seed=1)
        check_routable(self.model)
        self.rows = num_routed_layers(self.model)
        assert self.rows > 0, (
            f"{self.who}no layer can be routed. `register_routable` its class; do its `target_modules` fit the model?"
        )
        with torch.no_grad():
            self.expected, self.plain = _outputs(self.base, inputs), _outputs(self.model, inputs)

    def _adapted(self) -> PeftModel:
        return get_peft_model(copy.deepcopy(self.base), copy.deepcopy(self.config)).eval()

    def _all(self, value: bool) -> torch.Tensor:
        return torch.full((self.rows, self.batch), value)

    def _some(self) -> torch.Tensor:
        return torch.rand(self.rows, self.batch, generator=torch.Generator().manual_seed(2)) < 0.5

    @torch.no_grad()
    def _routed(self, gates: torch.Tensor, model: PeftModel | None = None) -> list[torch.Tensor]:
        model = self.model if model is None else model
        with route(model, gates):
            return _outputs(model, self.inputs)

    def _equal(self, outputs: list[torch.Tensor], expected: list[torch.Tensor], what: str, tolerance=0.0) -> None:
        assert len(outputs) == len(expected), f"{self.who}{what}: the number of outputs differs."
        for output, wanted in zip(outputs, expected):
            same = torch.equal(output, wanted)
            if not same and tolerance:
                same = torch.allclose(output.float(), wanted.float(), rtol=tolerance, atol=tolerance)
            if not same:
                off = (output.float() - wanted.float()).abs().max().item()
                raise AssertionError(f"{self.who}{what}: they are {off:.2g} apart.")

    @torch.no_grad()
    def gates(self) -> None:
        closed, opened = self._all(False), self._all(True)
        assert not all(map(torch.equal, self.plain, self.expected)), (
            f"{self.who}the adapter does nothing, even with random weights."
        )
        bypassed = self._routed(closed)
        self._equal(bypassed, self.expected, "with closed gates the model is not the frozen base", self.tolerance)
        self._equal(self._routed(opened), self.plain, "with open gates the model is not the ungated one")
        with route(self.model, opened):  # a context in a context
            self._equal(self._routed(closed), bypassed, "gates inside of a context of other gates are not followed")
            self._equal(_outputs(self.model, self.inputs), self.plain, "gates outlive an inner context")
        self._equal(_outputs(self.model, self.inputs), self.plain, "gates outlive their context")
        with self.model.disable_adapter():
            outputs = _outputs(self.model, self.inputs)
        self._equal(outputs, self.expected, "with the adapter disabled the model is not the base")
        for row in range(self.rows):
            gates = closed.clone()
            gates[row] = True
            routed = self._routed(gates)
            assert not all(map(torch.equal, routed, bypassed)), f"{self.who}gate row {row} does nothing."

    def independence(self) -> None:
        gates = self._some()
        flipped = gates.clone()
        flipped[:, 1] = ~flipped[:, 1]
        others = [row for row in range(self.batch) if row != 1]
        before, after = self._routed(gates), self._routed(flipped)
        per_sample = [(a, b) for a, b in zip(before, after) if len(a) == self.batch]
        assert per_sample, f"{self.who}no output has a row for each of the {self.batch} samples of `inputs`."
        assert all(torch.equal(a[others], b[others]) for a, b in per_sample), (
            f"{self.who}the gates of one sample changed the outputs of others."
        )
        assert any(not torch.equal(a[1], b[1]) for a, b in per_sample), f"{self.who}a sample's gates do nothing to it."

    @torch.no_grad()
    def autocast(self) -> None:
        with torch.autocast(next(self.base.parameters()).device.type, dtype=torch.bfloat16):
            expected, plain = _outputs(self.base, self.inputs), _outputs(self.model, self.inputs)
            tolerance = 0.05 if self.tolerance else 0.0
            bypassed = self._routed(self._all(False))
            self._equal(bypassed, expected, "under autocast with closed gates it is not the frozen base", tolerance)
            self._equal(
                self._routed(self._all(True)), plain, "under autocast with open gates it is not the ungated one"
            )

    def gradients(self) -> None:
        for name, gradient in self._gradients(self.model, self._all(False)).items():
            assert gradient is not None, f"{self.who}with closed gates {name} has no gradient instead of zeros."
            assert not gradient.any(), f"{self.who}with closed gates {name} has a gradient other than zero."
        if not getattr(self.base, "supports_gradient_checkpointing", False):
            return
        for reentrant in (False, True):
            model = copy.deepcopy(self.model)
            floats = [name for name, value in self.inputs.items() if value.is_floating_point()]
            if not floats:  # re-entrant checkpointing needs an input with a gradient
                model.enable_input_require_grads()
            plain = self._gradients(model, self._some(), floats)
            assert any(gradient is not None and gradient.any() for gradient in plain.values()), (
                f"{self.who}routed, no parameter has a gradient."
            )
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            checkpointed = self._gradients(model, self._some(), floats)
            largest = max(gradient.abs().max().item() for gradient in plain.values() if gradient is not None)
            for name, gradient in plain.items():
                assert _same_gradient(gradient, checkpointed[name], _GRADIENT_TOLERANCE * largest), (
                    f"{self.who}under activation checkpointing (use_reentrant={reentrant}) {name} has another gradient."
                )

    def _gradients(
        self, model: PeftModel, gates: torch.Tensor, floats: list[str] | None = None
    ) -> dict[str, torch.Tensor | None]:
        """Of the adapter's parameters, in training mode."""
        inputs = {
            name: value.clone().requires_grad_() if name in (floats or ()) else value
            for name, value in self.inputs.items()
        }
        model.zero_grad()
        model.train()
        torch.manual_seed(3)  # the same dropout each time
        with route(model, gates):
            _loss(_outputs(model, inputs)).backward()
        model.eval()
        return {name: parameter.grad for name, parameter in _adapter_parameters(model)}

    @torch.no_grad()
    def second_adapter(self) -> None:
        model = copy.deepcopy(self.model)
        model.add_adapter("second", copy.deepcopy(self.config))
        model.set_adapter("second")
        _randomized(model.eval(), seed=9)
        second = _outputs(model, self.inputs)
        assert not all(map(torch.equal, second, self.plain)), f"{self.who}a second adapter is the first one."
        bypassed = self._routed(self._all(False), model)
        self._equal(bypassed, self.expected, "a second adapter is not bypassed", self.tolerance)
        model.set_adapter("default")
        self._equal(_outputs(model, self.inputs), self.plain, "the first adapter changed with the second one")
        which = torch.arange(self.batch) % 2
        with choose_adapters(model, AdapterChoice(("default", "second"), which)):
            chosen = _outputs(model, self.inputs)
        for number, expected in enumerate((self.plain, second)):
            rows = [(a[which == number], b[which == number]) for a, b in zip(chosen, expected) if len(a) == self.batch]
            what = "a sample doesn't pass the adapter that was chosen for it"
            own, others = ([pair[side] for pair in rows] for side in range(2))
            self._equal(own, others, what, max(self.tolerance, _ROUNDING))
        model.delete_adapter("second")
        self._equal(_outputs(model, self.inputs), self.plain, "the first adapter changed when the second one went")

    @torch.no_grad()
    def saved_adapter(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            loaded = PeftModel.from_pretrained(copy.deepcopy(self.base), folder).eval()
        self._equal(_outputs(loaded, self.inputs), self.plain, "a saved adapter loads with other outputs")
        assert num_routed_layers(loaded) == self.rows, f"{self.who}a loaded adapter has other layers."

    @torch.no_grad()
    def merged_adapter(self) -> None:
        model = copy.deepcopy(self.model)
        try:
            model.merge_adapter()
        except Exception:  # many can't be merged, each with an error of its own
            return
        try:
            self._routed(self._all(False), model)
        except ValueError:
            return
        raise AssertionError(f"{self.who}a merged adapter is routed, though the base has changed: raise a ValueError.")


def _adapter_parameters(model: PeftModel) -> Iterator[tuple[str, nn.Parameter]]:
    """What is trained, but for heads: those are never gated, and stay as in the base model here."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "modules_to_save" not in name:
            yield name, parameter


def _randomized(model: PeftModel, seed: int) -> PeftModel:
    """Deltas start as nothing: gives them values, so that acting and bypassed modules differ."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in _adapter_parameters(model):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def _same_gradient(first: torch.Tensor | None, second: torch.Tensor | None, atol: float) -> bool:
    if first is None or second is None:
        return first is second
    return torch.allclose(first, second, rtol=0, atol=atol)


def _outputs(model: nn.Module, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """All float tensors that the model returns, hidden states included if it has them."""
    base = base_of(model)
    options = {"output_hidden_states": True} if isinstance(base, PreTrainedModel) else {}
    if getattr(getattr(base, "config", None), "use_cache", False):
        options["use_cache"] = False  # caches are no tensors
    return list(_tensors(model(**inputs, **options)))


def _loss(outputs: list[torch.Tensor]) -> torch.Tensor:
    """A random direction: squares would be constant after a LayerNorm."""
    generator = torch.Generator().manual_seed(4)
    parts = [(output.float() * torch.randn(output.shape, generator=generator)).sum() for output in outputs]
    return cast(torch.Tensor, sum(parts))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def _inputs_for(model: nn.Module) -> dict[str, torch.Tensor]:
    """Tokens of sequences of different lengths, padded on the right; or pixels."""
    config: Any = getattr(model, "config", None)
    generator = torch.Generator().manual_seed(0)
    if getattr(model, "main_input_name", None) == "pixel_values":
        size = config.image_size if isinstance(config.image_size, (list, tuple)) else [config.image_size] * 2
        return {"pixel_values": torch.randn(_BATCH, config.num_channels, *size, generator=generator)}
    if not hasattr(config, "vocab_size"):
        raise ValueError(f"Pass `inputs`: what a {type(model).__name__} takes can't be read off its config.")
    special = [getattr(config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos")]
    low = max(token for token in (2, *special) if isinstance(token, int) and token < config.vocab_size // 2) + 1
    tokens = torch.randint(low, config.vocab_size, (_BATCH, 9), generator=generator)
    lengths = torch.tensor([9, 7, 9, 5])
    if isinstance(special[2], int):
        tokens[torch.arange(_BATCH), lengths - 1] = special[2]  # where BART and T5 read their classes off
    mask = torch.arange(9) < lengths[:, None]
    return {"input_ids": torch.where(mask, tokens, special[0] or 0), "attention_mask": mask.long()}
