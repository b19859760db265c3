"""From clean probabilities to the samples that are kept."""

from __future__ import annotations

import logging

import numpy as np
from torch.utils.data import DataLoader
from transformers.trainer_utils import has_length

from .._argument_checks import check_seed

logger = logging.getLogger(__name__)


def select_clean(
    clean_probability: np.ndarray,
    labels: np.ndarray,
    threshold: float = 0.6,
    balance: str | int = "none",
    seed: int = 0,
    *,
    prefix: str = "",
) -> np.ndarray:
    """The samples to fine-tune on (TURN, arXiv 2310.17668, phase 2): those with a clean probability above `threshold`;
    in the paper, the same number of them from each class (`balance="min"`).

    No class is dropped unless nothing is known of it: one without such a sample keeps as many of its samples as the
    smallest other class, those with the largest clean probability, and a warning names it.

    Args:
        clean_probability (`np.ndarray` of shape `[num_samples]`): in [0, 1]; NaN if nothing is known,
            and a sample is not selected.
        labels (`np.ndarray` of shape `[num_samples]`): the given class labels.
        threshold (`float`, *optional*, defaults to 0.6): τ.
        balance (`str` or `int`, *optional*, defaults to `"none"`): `"min"` draws as many samples from each class as
            the smallest one has, a number draws so many from each class that has more, `"none"` takes all.
        seed (`int`, *optional*, defaults to 0): of the draw.
        prefix (`str`, *optional*, defaults to `""`): of the names of `threshold` and `balance` in messages.

    Returns:
        `np.ndarray`: row numbers, in ascending order.

    Raises:
        ValueError: if no sample is above the threshold, or an argument is out of its range.
    """
    check_selection(threshold, balance, prefix)
    check_seed(seed)
    clean_probability, labels = np.asarray(clean_probability), np.asarray(labels)
    is_known = ~np.isnan(clean_probability)
    if len(labels) and not is_known.any():
        raise ValueError(
            f"No clean probability is known: the loss of all {len(labels)} samples is not finite. Look at the model's "
            "weights (a learning rate that is too large?) or train in float32 or bf16 instead of fp16."
        )
    is_kept = clean_probability > threshold
    if not is_kept.any():
        raise ValueError(
            f"No sample has a clean probability above {threshold}: all {len(labels)} are called noisy (the largest is "
            f"{clean_probability[is_known].max(initial=0)}). Lower `{prefix}threshold`, or probe longer."
        )
    kept = {label: np.flatnonzero(is_kept & (labels == label)) for label in np.unique(labels)}
    smallest = min(len(rows) for rows in kept.values() if len(rows))
    unknown = [label for label in kept if not (is_known & (labels == label)).any()]
    if unknown:
        logger.warning(
            f"The loss of no sample of {len(unknown)} of the {len(kept)} classes is finite (label {_listed(unknown)}): "
            "the model is not fine-tuned on them."
        )
        kept = {label: rows for label, rows in kept.items() if label not in unknown}
    empty = [label for label, rows in kept.items() if not len(rows)]
    for label in empty:
        rows = np.flatnonzero((labels == label) & is_known)
        kept[label] = rows[np.argsort(-clean_probability[rows], kind="stable")[:smallest]]
    if empty:
        logger.warning(
            f"No sample of {len(empty)} of the {len(kept)} classes (label {_listed(empty)}) has a clean probability "
            f"above {threshold}: each keeps the {smallest} most probably clean ones, as many as the smallest other "
            "class has."
        )
    if balance != "none":
        size = min(map(len, kept.values())) if balance == "min" else int(balance)
        for number, (label, rows) in enumerate(kept.items()):
            if len(rows) > size:
                kept[label] = np.random.default_rng((seed, number)).choice(rows, size, replace=False)
    return np.sort(np.concatenate(list(kept.values())))


def _listed(labels: list[int]) -> str:
    return ", ".join(map(str, labels[:10])) + ", ..." * (len(labels) > 10)


def check_selected(dataloader: DataLoader, kept: np.ndarray, trainer: str) -> None:
    """Makes sure that fine-tuning has the samples that were kept, though `TurnMixin.get_train_dataloader` wasn't asked.

    Args:
        dataloader (`DataLoader`): of fine-tuning.
        kept (`np.ndarray`): row numbers.
        trainer (`str`): what messages call it.

    Raises:
        ValueError: if the batches are of another number of samples, or of an unknown one.
    """
    dataset = getattr(dataloader, "dataset", None)
    size = len(dataset) if has_length(dataset) else None
    if size != len(kept):
        raise ValueError(
            f"The `get_train_dataloader` of {trainer} doesn't call `super().get_train_dataloader()`, which leaves out "
            f"what looks wrong: TURN fine-tunes on {len(kept)} samples, and its dataloader has "
            f"{'an unknown number of' if size is None else size}. Build on what `super()` returns, or on the rows "
            "`self.fine_tuning_samples`."
        )


def check_selection(threshold: float, balance: str | int, prefix: str = "") -> None:
    """Raises a ValueError if one of these arguments of [`select_clean`] is out of its range. In the message, `prefix`
    stands before its name."""
    if not 0 < threshold < 1:
        raise ValueError(f"`{prefix}threshold` is a clean probability strictly between 0 and 1; got {threshold}.")
    is_number = isinstance(balance, int) and not isinstance(balance, bool) and balance >= 1
    if balance not in ("min", "none") and not is_number:
        raise ValueError(
            f"`{prefix}balance` has to be 'min', 'none' or a number of samples a class, 1 or above; got {balance!r}."
        )
