"""Features of a data set from a model that stays as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ._names import IGNORED_LABEL
from ._scores import scores_of
from ._typing import AnyTrainer
from .passes import tables_by_index
from .sample_index import label_names

_DEVICE_BYTES = 2**31
_HOOKED = "_output_capturing_hooks_installed"  # transformers' mark


@dataclass
class FrozenFeatures:
    """Features of a data set from a model that stays as it is; row i belongs to sample i. On CPU, or in a file that is
    mapped to memory; the same on every process.

    Attributes:
        labels (`torch.LongTensor` of shape `[num_samples]`): the given labels; -100 if a sample has no single one.
        mean (`torch.Tensor` of shape `[num_samples, hidden_size]`, *optional*): the last hidden state, averaged over
            the tokens that are no padding; of an encoder-decoder model, the encoder's.
        head (`torch.Tensor` of shape `[num_samples, dim]`, *optional*): what the model's head makes its scores from.
        head_shape (`tuple[int, ...]`): of one sample of it, as the head takes it, such as `(dim,)`.
    """

    labels: torch.Tensor
    mean: torch.Tensor | None = None
    head: torch.Tensor | None = None
    head_shape: tuple[int, ...] = ()

    def with_head_on(self, device: torch.device) -> FrozenFeatures:
        """A copy whose `head` is on a device, if it fits ([`on_device`])."""
        return self if self.head is None else replace(self, head=on_device(self.head, device))


def on_device(table: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A table of features on a device, if it takes up to 2 GiB; otherwise where it is."""
    return table if table.numel() * 4 > _DEVICE_BYTES else table.to(device)


def predict_features(
    trainer: AnyTrainer,
    dataloader: DataLoader,
    batch_context: Callable[[torch.Tensor], AbstractContextManager] | None = None,
    mean: bool = True,
    head: nn.Module | None = None,
    storage: Path | None = None,
    description: str | None = None,
    needs_all: bool = True,
) -> FrozenFeatures:
    """Features of every sample, in float32, in one pass; other arguments as of [`~hf_clear.passes.predict_samples`].

    Args:
        mean (`bool`, *optional*, defaults to `True`): whether to keep the averaged last hidden states.
        head (`nn.Module`, *optional*): the module of the model that turns features into class scores; given, what it
            takes in is kept.
        storage (`Path`, *optional*): a file for the features, then mapped to memory; of all processes.
        description (`str`, *optional*): of a progress bar.
        needs_all (`bool`, *optional*, defaults to `True`): whether it is an error if the collator drops a sample, whose
            features are NaN otherwise, and its label -100.

    Raises:
        ValueError: if the model doesn't give its hidden states, or its scores are not those of `head`.
    """
    hook = None if head is None else _HeadInputs(head)
    shape: tuple[int, ...] = ()
    width = 0

    def rows_of(model: nn.Module, batch: dict[str, Any], index: torch.Tensor) -> list[torch.Tensor]:
        nonlocal shape, width
        batch = trainer._prepare_inputs(batch)
        names = label_names(trainer)
        labels = next((batch[name] for name in names if name in batch), None)
        labels = labels if labels is not None and labels.ndim == 1 else torch.full_like(index, IGNORED_LABEL)
        batch = {name: value for name, value in batch.items() if name not in names}
        # A first column of ones: how rows lie in memory decides how products with them are rounded.
        rows = [torch.ones(len(index), 1), labels.unsqueeze(1).float()]
        context = batch_context(index) if batch_context is not None else contextlib.nullcontext()
        with context:
            taken, states = _features(trainer, model, batch, hook, mean)
        if taken is not None:
            shape, width = tuple(taken.shape[1:]), taken[0].numel()
            rows.append(taken.flatten(1).float())
        if states is not None:
            rows.append(states)
        return [torch.cat([part.to(rows[-1].device) for part in rows], dim=1)]

    with hook or contextlib.nullcontext(), _without_new_hooks(trainer.model):
        (table,) = tables_by_index(trainer, dataloader, rows_of, storage, description)
    table = table[:, 1:]
    missing = table[:, 0].isnan().nonzero().squeeze(1).tolist()
    if missing and needs_all:
        raise ValueError(
            f"The data collator dropped {len(missing)} samples, sample {missing[0]} first, so that they have no "
            "features. Take them out of the data set."
        )
    return FrozenFeatures(
        labels=table[:, 0].nan_to_num(IGNORED_LABEL).long(),
        head=None if head is None else table[:, 1 : 1 + width],
        mean=table[:, 1 + width :] if mean else None,
        head_shape=shape,
    )


class _HeadInputs(contextlib.AbstractContextManager):
    """Sees what a head takes in and gives, while it is entered."""

    def __init__(self, head: nn.Module):
        self.head = head
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __enter__(self) -> _HeadInputs:
        self._hook = self.head.register_forward_hook(lambda _, args, output: self.seen.append((args[0], output)))
        return self

    def __exit__(self, *error: Any) -> None:
        self._hook.remove()


@contextlib.contextmanager
def _without_new_hooks(model: nn.Module) -> Iterator[None]:
    """Takes away what transformers leaves in a model that has been asked for its hidden states: hooks, with which it
    can't be pickled, and the mark that they are there."""
    modules = list(model.modules())
    before = [(set(module._forward_hooks), _HOOKED in module.__dict__) for module in modules]
    try:
        yield
    finally:
        for module, (hooks, was_marked) in zip(modules, before):
            for key in set(module._forward_hooks) - hooks:
                del module._forward_hooks[key]
            if not was_marked:
                module.__dict__.pop(_HOOKED, None)


def check_features(trainer: AnyTrainer, batch: dict[str, Any], head: nn.Module, mean: bool = True) -> None:
    """Whether a batch (without labels) gives the head's features, and if asked for, averaged hidden states.

    Raises:
        ValueError: if it doesn't; the message says why.
    """
    with _HeadInputs(head) as hook, _without_new_hooks(trainer.model):
        _features(trainer, trainer.model, batch, hook, mean)


def _features(
    trainer: AnyTrainer, model: nn.Module, batch: dict[str, Any], hook: _HeadInputs | None, mean: bool
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """What the head takes in, `[batch, ...]`, and the averaged last hidden states, `[batch, hidden_size]`."""
    if hook is not None:
        hook.seen.clear()
    with torch.no_grad(), trainer.compute_loss_context_manager():
        outputs = model(**batch, output_hidden_states=True) if mean else model(**batch)
        taken = None
        if hook is not None:
            taken = _head_features(trainer, hook.head, *hook.seen[0], scores_of(outputs)) if hook.seen else None
            if taken is None:
                raise ValueError(
                    f"The class scores of {type(trainer.model).__name__} are not what its head "
                    f"({type(hook.head).__name__}) makes of one vector a sample, so that the head can't be trained by "
                    "itself. Name another module in `probe_head`."
                )
    return taken, _mean_state(trainer, outputs, batch) if mean else None


def _head_features(
    trainer: AnyTrainer, head: nn.Module, taken: torch.Tensor, given: torch.Tensor, scores: torch.Tensor
) -> torch.Tensor | None:
    """The part of the head's input, `[batch, ...]`, that its scores are made from: its shape doesn't depend on the
    length of a sequence. None if that can't be told."""
    if not isinstance(given, torch.Tensor) or len(taken) != len(scores):
        return None
    if given.ndim == 3:  # scores of every token, of which the model picks one
        picked = (given.float() == scores.float().unsqueeze(1)).all(dim=-1) if scores.ndim == 2 else None
        if picked is None or taken.ndim != 3 or not picked.any(dim=1).all():
            return None
        return taken[torch.arange(len(taken), device=taken.device), picked.int().argmax(dim=1)]
    if not _close(given, scores):
        return None
    if taken.ndim == 3:  # a sequence, of which heads of transformers look at the first token
        return taken[:, :1] if _close(head(taken[:, :1]), scores) else None
    return taken


def _close(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal up to the rounding of half precision."""
    return first.shape == second.shape and bool(
        torch.allclose(first.float(), second.float(), rtol=0.02, atol=0.02, equal_nan=True)
    )


def _mean_state(trainer: AnyTrainer, outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    states = None
    if isinstance(outputs, Mapping):
        states = outputs.get("hidden_states") or outputs.get("encoder_hidden_states")
    if not states:
        raise ValueError(
            f"{type(trainer.model).__name__} doesn't give its hidden states by name (`output_hidden_states=True`), "
            "which `clear_evidence`, the estimator or `probe_features='mean'` needs. If the config says "
            "`return_dict=False`, leave that out. Else choose what doesn't need them: `clear_evidence='head_probe'`, "
            "the estimator 'gaussian_mixture', `probe_features='head'`."
        )
    state, mask = states[-1].float(), batch.get("attention_mask")
    if mask is None or mask.shape != state.shape[:2]:
        # Images as [batch, channels, height, width], or tokens with the features last.
        return state.flatten(2).mean(dim=2) if state.ndim == 4 else state.flatten(1, -2).mean(dim=1)
    mask = mask.unsqueeze(-1).to(state)
    return (state * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)
