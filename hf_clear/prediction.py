"""Forward passes over the training set without gradient, with results by sample index."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute
import pyarrow.types as arrow
import torch
from peft import PeftModel
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import Trainer, TrainingArguments
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .losses import IGNORED_LABEL, cross_entropy, per_sample
from .sample_index import SAMPLE_INDEX, indexed_dataloader, label_names


@dataclass
class SamplePredictions:
    """Predictions for a data set; row i belongs to sample i. On CPU, the same on every process.

    Attributes:
        losses (`torch.Tensor` of shape `[num_samples]`): cross entropy with the given label, in nats; the mean over a
            sample's tokens where each has its own.
        labels (`torch.LongTensor` of shape `[num_samples]`): the given labels; -100 where each token has its own.
        probabilities (`torch.Tensor` of shape `[num_samples, num_labels]`, *optional*): softmax of the logits; None
            where each token has its own.
    """

    losses: torch.Tensor
    labels: torch.Tensor
    probabilities: torch.Tensor | None = None


def per_sample_losses(trainer: Trainer, dataset: Dataset | None = None) -> np.ndarray:
    """The cross entropy of every sample with its given label, in evaluation mode (no dropout, nothing routed); where
    every token has a label, the mean over a sample's tokens.

    Works with a stock [`~transformers.Trainer`] too: together with [`~hf_clear.gaussian_mixture`] it finds suspect
    labels after any training. The state of all random generators is left as it was.

    Args:
        trainer (`Trainer`): its model, collator, evaluation batch size and devices are used.
        dataset (`torch.utils.data.Dataset`, *optional*): a map-style data set; the training set by default.

    Returns:
        `np.ndarray` of shape `[num_samples]`, in nats, in the order of the data set; the same on every process.

    Example:

    ```python
    >>> losses = per_sample_losses(trainer)
    >>> suspects = np.argsort(gaussian_mixture(losses).clean_probability)
    ```
    """
    dataset = trainer.train_dataset if dataset is None else dataset
    return predict_samples(trainer, sample_dataloader(trainer, dataset)).losses.numpy()


def sample_dataloader(trainer: Trainer, dataset: Dataset, needs_labels: bool = True) -> DataLoader:
    """A dataloader for [`predict_samples`]: every sample, batches with the indices, from the longest sequence to the
    shortest, which needs the least padding. Data without `input_ids` stay in the order of evaluation.

    Batches are as large as those of evaluation or, if these are larger, of training, which takes more memory.

    Args:
        needs_labels (`bool`, *optional*, defaults to `True`): whether a sample without label is an error.
    """
    stock, trainer.args.dataloader_drop_last = trainer.args.dataloader_drop_last, False
    try:
        return indexed_dataloader(
            trainer,
            dataset,
            "clean probability",
            max(trainer.args.eval_batch_size, trainer._train_batch_size),
            lambda dataset: _longest_first(dataset) or trainer._get_eval_sampler(dataset),
            needs_labels=needs_labels,
        )
    finally:
        trainer.args.dataloader_drop_last = stock


def _longest_first(dataset: Dataset) -> list[int] | None:
    if not isinstance(dataset, datasets.Dataset) or "input_ids" not in dataset.column_names:
        return None
    lengths = []  # by arrow and in parts: Python lists of a million sequences would take gigabytes
    for rows in dataset.with_format("arrow", columns=["input_ids"]).iter(10_000):
        column = rows["input_ids"]
        if not any(is_list(column.type) for is_list in (arrow.is_list, arrow.is_large_list, arrow.is_fixed_size_list)):
            return None  # a collator makes token ids of them
        lengths.append(pyarrow.compute.list_value_length(column).to_numpy())
    return np.argsort(-np.concatenate(lengths), kind="stable").tolist() if lengths else None


def predict_samples(
    trainer: Trainer,
    dataloader: DataLoader,
    batch_context: Callable[[torch.Tensor], AbstractContextManager] | None = None,
) -> SamplePredictions:
    """One pass over `dataloader` (from [`sample_dataloader`]) in evaluation mode.

    Each process runs its share, and one all-reduce at the end puts the rows together: no collective in the loop. The
    state of all random generators and the model's training mode are left as they were.

    Args:
        batch_context (`Callable`, *optional*): `batch_context(sample_index)` is entered around each forward pass, to
            route it.

    Raises:
        ValueError: where the model's logits don't fit the labels.
    """

    def rows_of(model: nn.Module, batch: dict[str, Any], index: torch.Tensor) -> torch.Tensor:
        inputs = trainer._prepare_inputs(batch)
        labels = inputs.pop(trainer.label_names[0])
        add_decoder_inputs(trainer.model, inputs, labels)
        # Not `prediction_step`, which generates text in a Seq2SeqTrainer.
        context = batch_context(index) if batch_context is not None else contextlib.nullcontext()
        with torch.no_grad(), trainer.compute_loss_context_manager(), context:
            logits, labels = scores_and_labels(model(**inputs), labels, shifts_labels(trainer))
        loss = per_sample(cross_entropy(logits, labels), labels).unsqueeze(1)
        if labels.ndim == 1:
            return torch.cat([loss, labels.unsqueeze(1).to(loss), logits.softmax(dim=-1)], dim=1)
        return torch.cat([loss, torch.full_like(loss, IGNORED_LABEL)], dim=1)

    table = _table(trainer, dataloader, rows_of)
    return SamplePredictions(
        losses=table[:, 0], labels=table[:, 1].long(), probabilities=table[:, 2:] if table.shape[1] > 2 else None
    )


@dataclass
class FrozenFeatures:
    """Features of a data set from a model that stays as it is; row i belongs to sample i. On CPU, or in a file that is
    mapped to memory; the same on every process.

    Attributes:
        labels (`torch.LongTensor` of shape `[num_samples]`): the given labels; -100 where a sample has no single one.
        mean (`torch.Tensor` of shape `[num_samples, hidden_size]`, *optional*): the last hidden state, averaged over
            the tokens that are no padding; of an encoder-decoder model, the encoder's.
        head (`torch.Tensor` of shape `[num_samples, dim]`, *optional*): what the model's head makes its scores from.
        head_shape (`tuple[int, ...]`): of one sample of it, as the head takes it, such as `(dim,)`.
    """

    labels: torch.Tensor
    mean: torch.Tensor | None = None
    head: torch.Tensor | None = None
    head_shape: tuple[int, ...] = ()


def predict_features(
    trainer: Trainer,
    dataloader: DataLoader,
    batch_context: Callable[[torch.Tensor], AbstractContextManager] | None = None,
    mean: bool = True,
    head: nn.Module | None = None,
    storage: Path | None = None,
    description: str | None = None,
) -> FrozenFeatures:
    """Features of every sample, in float32, in one pass; other arguments as of [`predict_samples`].

    Args:
        mean (`bool`, *optional*, defaults to `True`): whether to keep the averaged last hidden states.
        head (`nn.Module`, *optional*): the module of the model that turns features into class scores; given, what it
            takes in is kept.
        storage (`Path`, *optional*): a file for the features, then mapped to memory; of all processes.
        description (`str`, *optional*): of a progress bar.

    Raises:
        ValueError: where the model doesn't give its hidden states, or its scores are not those of `head`.
    """
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []  # what the head took in and gave
    hook = None if head is None else head.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    shape, width = (), 0

    def rows_of(model: nn.Module, batch: dict[str, Any], index: torch.Tensor) -> torch.Tensor:
        nonlocal shape, width
        batch = trainer._prepare_inputs(batch)
        names = label_names(trainer)
        labels = next((batch[name] for name in names if name in batch), None)
        labels = labels if labels is not None and labels.ndim == 1 else torch.full_like(index, IGNORED_LABEL)
        batch = {name: value for name, value in batch.items() if name not in names}
        seen.clear()
        rows = [labels.unsqueeze(1).float()]
        context = batch_context(index) if batch_context is not None else contextlib.nullcontext()
        with torch.no_grad(), trainer.compute_loss_context_manager(), context:
            outputs = model(**batch, output_hidden_states=True) if mean else model(**batch)
            if head is not None:
                taken = _head_features(trainer, head, *seen[0], _first_output(outputs)) if seen else None
                if taken is None:
                    raise ValueError(
                        f"The class scores of {type(trainer.model).__name__} are not what its head "
                        f"({type(head).__name__}) makes of one vector a sample, so that the head can't be trained by "
                        "itself. Name another module in `probe_head`."
                    )
                shape, width = tuple(taken.shape[1:]), taken[0].numel()
                rows.append(taken.flatten(1).float())
        if mean:
            rows.append(_mean_state(trainer, outputs, batch))
        return torch.cat([part.to(rows[-1].device) for part in rows], dim=1)

    try:
        table = _table(trainer, dataloader, rows_of, storage, description)
    finally:
        if hook is not None:
            hook.remove()
    return FrozenFeatures(
        labels=table[:, 0].long(),
        head=None if head is None else table[:, 1 : 1 + width],
        mean=table[:, 1 + width :] if mean else None,
        head_shape=shape,
    )


def _head_features(
    trainer: Trainer, head: nn.Module, taken: torch.Tensor, given: torch.Tensor, scores: torch.Tensor
) -> torch.Tensor | None:
    """The part of the head's input, `[batch, ...]`, that its scores are made from: its shape doesn't depend on the
    length of a sequence. None where that can't be told."""
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


def _first_output(outputs: Any) -> torch.Tensor:
    """The class scores among a model's outputs without loss: a `ModelOutput`, a tuple, or themselves."""
    if isinstance(outputs, Mapping):
        return outputs["logits"]
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


def _mean_state(trainer: Trainer, outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    states = None
    if isinstance(outputs, Mapping):
        states = outputs.get("hidden_states") or outputs.get("encoder_hidden_states")
    if not states:
        raise ValueError(
            f"{type(trainer.model).__name__} doesn't give its hidden states (`output_hidden_states=True`), which "
            "the chosen estimator of clean probabilities or `probe_features='mean'` needs. Choose one that doesn't, "
            "such as 'gaussian_mixture' or 'head'."
        )
    state, mask = states[-1].float(), batch.get("attention_mask")
    if mask is None or mask.shape != state.shape[:2]:
        # Images as [batch, channels, height, width], or tokens with the features last.
        return state.flatten(2).mean(dim=2) if state.ndim == 4 else state.flatten(1, -2).mean(dim=1)
    mask = mask.unsqueeze(-1).to(state)
    return (state * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)


def _table(
    trainer: Trainer,
    dataloader: DataLoader,
    rows_of: Callable[[nn.Module, dict[str, Any], torch.Tensor], torch.Tensor],
    storage: Path | None = None,
    description: str | None = None,
) -> torch.Tensor:
    """What `rows_of(model, batch, sample_index)` returns for each batch, `[batch, width]`, as rows by sample index:
    `[num_samples, width]`. On CPU or, where `storage` is given, in that file; the same on every process."""
    accelerator = trainer.accelerator
    model = trainer._wrap_model(trainer.model, training=False)
    # In training, the model is prepared (autocast, FSDP) and used as it is. Before, we don't prepare it, as `evaluate`
    # would: accelerate then takes it for prepared when training begins, and leaves out DDP.
    is_prepared = len(accelerator._models) > 0
    if not is_prepared and trainer.place_model_on_device:
        trainer._move_model_to_device(model, trainer.args.device)
    autocast = contextlib.nullcontext() if is_prepared else accelerator.autocast()
    table: torch.Tensor | None = None
    with random_state_preserved(), evaluation_mode(model), autocast, low_precision(trainer.args):
        quiet = description is None or trainer.args.disable_tqdm or not trainer.is_local_process_zero()
        for batch in tqdm(dataloader, desc=description, disable=quiet):
            index = batch.pop(SAMPLE_INDEX)
            rows = rows_of(model, batch, index)
            rows = torch.cat([torch.ones_like(rows[:, :1]), rows], dim=1)  # how often a sample was seen
            if table is None:
                table = _empty_table(trainer, (len(dataloader.dataset), rows.shape[1]), storage)
            table[index.cpu()] = rows.float().cpu()
    if table is None:
        raise ValueError("The data set has no sample.")
    if storage is not None:
        accelerator.wait_for_everyone()  # all have written their rows
    elif accelerator.num_processes > 1:  # a sample that several processes saw, to fill their batches, counts once
        table = accelerator.reduce(table.to(accelerator.device), "sum").cpu()
        table /= table[:, :1].clone()
    return table[:, 1:]


def _empty_table(trainer: Trainer, shape: tuple[int, int], storage: Path | None) -> torch.Tensor:
    if storage is None:
        return torch.zeros(shape)
    with trainer.args.main_process_first(local=False):
        mode = "w+" if trainer.accelerator.is_main_process else "r+"
        return torch.from_numpy(np.memmap(storage, dtype=np.float32, mode=mode, shape=shape))


def add_decoder_inputs(model: nn.Module, inputs: dict[str, Any], labels: torch.Tensor) -> None:
    """Adds what an encoder-decoder language model makes of its labels, where it isn't given these."""
    prepare = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if labels.ndim == 2 and prepare is not None and "decoder_input_ids" not in inputs:
        inputs["decoder_input_ids"] = prepare(labels=labels)


def shifts_labels(trainer: Trainer) -> bool:
    """Whether the labels of the model are its inputs, to be predicted one token ahead: causal language models."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    # The trainer goes by the loss's name, and by the class's name in places: it takes GPT-2 for both.
    return trainer._loss_shifts_labels or type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def shifted(labels: torch.Tensor) -> torch.Tensor:
    """Labels `[batch, tokens]` moved to where they are predicted: one to the left, with -100 at the end."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)


def scores_and_labels(outputs: Any, labels: torch.Tensor, shift: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The class scores among a model's outputs without loss (a `ModelOutput`, a tuple), in float32, and the labels in
    the places that they are predicted in.

    Args:
        labels (`torch.LongTensor` of shape `[batch]` or `[batch, tokens]`): one class a sample, or one a token.
        shift (`bool`, *optional*, defaults to `False`): see [`shifts_labels`].

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: `[*labels.shape, num_labels]` and the shape of `labels`.

    Raises:
        ValueError: where there is no row of class scores for each label.
    """
    logits = _first_output(outputs)
    if labels.ndim not in (1, 2) or logits.shape[:-1] != labels.shape:
        raise ValueError(
            "hf_clear needs one class a sample or one a token: expected labels of shape [batch] and logits of shape "
            "[batch, num_labels], or [batch, tokens] and [batch, tokens, num_labels]; got "
            f"{list(labels.shape)} and {list(logits.shape)}."
        )
    return logits.float(), shifted(labels) if shift and labels.ndim == 2 else labels


@contextlib.contextmanager
def random_state_preserved() -> Iterator[None]:
    """Leaves the generators of Python, numpy and torch as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def low_precision(args: TrainingArguments) -> contextlib.AbstractContextManager:
    """For predictions without gradient: autocast where `bf16_full_eval` or `fp16_full_eval` asks for it. The weights
    stay as they are, since training goes on with them."""
    if not (args.bf16_full_eval or args.fp16_full_eval):
        return contextlib.nullcontext()
    return torch.autocast(args.device.type, torch.bfloat16 if args.bf16_full_eval else torch.float16)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No dropout; afterwards the model is in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
