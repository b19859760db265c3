"""Linear probes on features of the frozen model, in folds: each sample is scored by one that has not seen its label."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import numpy as np
import torch

from .._argument_checks import check_count, check_seed
from .._names import IGNORED_LABEL
from ..fold_assignment import assign_folds
from ..losses._functional import check_q
from ._registry import register_evidence

_NUM_FOLDS = 5
_EPOCHS, _LEARNING_RATE = 30, 1e-2
# From hardly any to all but the strongest directions: of AdamW, at about 240 steps.
WEIGHT_DECAYS = (1e-2, 10.0, 30.0, 100.0)
# Batches an epoch: 8, as far as they are then of 128 to 512 samples; at most 32, of as many samples as that takes,
# as far as the logits of all folds are then no more than these numbers.
_BATCHES, _MOST_BATCHES = 8, 32
_LEAST_SIZE, _LARGER_SIZE = 128, 512
_MOST_NUMBERS = 2**24
_NORM = 8.0  # mean norm of the features, so that one learning rate suits all
_GCE_Q = 0.7
_MOST_COMPARED, _LEAST_COMPARED = 2**20, 2000  # logits, and samples, by which decays are compared
_AT_RANDOM = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
_LEAST = torch.finfo(torch.float32).tiny
_LEAST_GAIN = 1e-4  # nats: by less, labels are as likely
_LOG_SCALES = (-6.0, 4.0)  # of scores of unit size: from saying nothing to being sure


def cross_fitted_probe(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_labels: int,
    seed: int = 0,
    num_folds: int = _NUM_FOLDS,
    q: float = _GCE_Q,
    weight_decay: float | Sequence[float] = WEIGHT_DECAYS,
) -> torch.Tensor:
    """Scores of linear classifiers, each of which has learned from the other folds alone.

    They minimize the generalized cross entropy (Zhang and Sabuncu, 2018, arXiv 1805.07836), which is robust to wrong
    labels, with AdamW for 30 epochs. It hardly pulls on what is unlikely, so that a class of few samples might never be
    learned, and all of its labels looked wrong: each class counts by the square root of its size. The folds are fitted
    at the same time: one product of matrices a step for all. A batch is an eighth of the samples, but of 128 to 512; of
    more than 16,384 samples a thirty-second, as far as its logits have no more than 2^24 numbers.

    If features say little of the classes, or nearly all labels are wrong, such a classifier learns mostly chance unless
    its weights are kept small. How small, the labels themselves tell: weight decay is raised as long as this makes them
    likelier for classifiers that have not seen them.

    Args:
        features (`torch.Tensor` of shape `[num_samples, dim]`): of a frozen model. Their scale doesn't matter.
        labels (`torch.LongTensor` of shape `[num_samples]`): the given classes; samples with -100 are scored, and not
            learned from.
        seed (`int`, *optional*, defaults to 0): of the folds and of the order of the samples. The state of torch's
            random generators is left as it was.
        num_folds (`int`, *optional*, defaults to 5): each is scored by a classifier of its own.
        q (`float`, *optional*, defaults to 0.7): of the generalized cross entropy; 0 is cross entropy.
        weight_decay (`float` or `Sequence[float]`, *optional*, defaults to 0.01, 10, 30, 100): of AdamW; of several, as
            far in their order as each one makes held-out labels likelier than the one before, at the scale of the
            scores and the share of random labels that suit it best.

    Returns:
        `torch.Tensor` of shape `[num_samples, num_labels]`: logits, on CPU; NaN for a sample whose features are not
        finite.

    Raises:
        ValueError: if there is no weight decay to try, `q` is outside [0, 1], `num_folds` is below 2, or `seed` is
            none.
    """
    check_q(q)
    check_count("num_folds", num_folds, 2)
    check_seed(seed)
    decays = [weight_decay] if isinstance(weight_decay, numbers.Real) else list(weight_decay)  # type: ignore[arg-type]
    if not decays:
        raise ValueError("`weight_decay` is empty: name one or more.")
    device = features.device
    features, labels = features.float(), labels.to(device)
    finite = features.isfinite().all(dim=1)
    x = features.where(finite.unsqueeze(1), 0.0)
    x = x * (_NORM / x.norm(dim=1)[finite].mean().clamp_min(1e-12)) if finite.any() else x
    folds = torch.from_numpy(assign_folds(len(x), num_folds, seed, labels.cpu().numpy())).to(device)
    learned = finite & (labels != IGNORED_LABEL)
    best = torch.full((len(x), num_labels), torch.nan)
    greatest = -math.inf
    for decay in decays:
        weight, bias = _fit(x, labels, folds, learned, num_labels, num_folds, q, seed, float(decay))
        scores = torch.full_like(best, torch.nan)
        for fold in range(num_folds):
            rows = (folds == fold) & finite
            scores[rows.cpu()] = (x[rows] @ weight[fold] + bias[fold]).cpu()
        likelihood = _held_out_likelihood(scores[learned.cpu()], labels[learned].cpu())
        if not likelihood > greatest + _LEAST_GAIN:
            break
        best, greatest = scores, likelihood
    return best


def _held_out_likelihood(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean logarithm of the probability of labels, in nats, if some of them are drawn at random: at the share of
    these, of a few, and the scale of the scores that make it greatest."""
    from scipy.optimize import minimize_scalar

    num_labels = scores.shape[1]
    most = max(_MOST_COMPARED // num_labels, _LEAST_COMPARED)
    if len(labels) > most:  # of very many, a part
        rows = torch.from_numpy(np.random.default_rng(0).permutation(len(labels))[:most])
        scores, labels = scores[rows], labels[rows]
    size = scores.abs().mean() if len(labels) else torch.zeros(())
    if not size > 0:
        return -math.log(num_labels)
    scores = scores / size

    def loss(log_scale: float, at_random: float) -> float:
        right = (scores * math.exp(log_scale)).softmax(dim=1).gather(1, labels.unsqueeze(1))
        return -float(((1 - at_random) * right + at_random / num_labels).clamp_min(_LEAST).log().mean())

    found = [minimize_scalar(loss, bounds=_LOG_SCALES, args=(share,), method="bounded") for share in _AT_RANDOM]
    return -min(float(one.fun) for one in found)


def _fit(
    x: torch.Tensor,
    labels: torch.Tensor,
    folds: torch.Tensor,
    learned: torch.Tensor,
    num_labels: int,
    num_folds: int,
    q: float,
    seed: int,
    weight_decay: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights `[num_folds, dim, num_labels]` and biases `[num_folds, 1, num_labels]`."""
    weight = torch.zeros(num_folds, x.shape[1], num_labels, device=x.device)
    bias = torch.zeros(num_folds, 1, num_labels, device=x.device)
    # One kernel a step on a GPU, where a step takes as long as what it launches.
    optimizer = torch.optim.AdamW([weight, bias], lr=_LEARNING_RATE, weight_decay=weight_decay, fused=x.is_cuda)
    samples = learned.nonzero().squeeze(1)
    sees = folds != torch.arange(num_folds, device=x.device).unsqueeze(1)
    counts = _class_weights(labels[samples], folds[samples], num_labels, num_folds)[:, labels.clamp_min(0)] * sees
    size = _batch_size(len(samples), num_folds * num_labels)
    step, num_steps = 0, _EPOCHS * -(-len(samples) // size)
    generator = np.random.default_rng(seed)
    for _ in range(_EPOCHS if len(samples) else 0):
        order = torch.from_numpy(generator.permutation(len(samples))).to(x.device)
        for rows in samples[order].split(size):
            optimizer.param_groups[0]["lr"] = _LEARNING_RATE * (1 + math.cos(math.pi * step / num_steps)) / 2
            step += 1
            some, count = x[rows], counts[:, rows] / sees[:, rows].sum(dim=1, keepdim=True).clamp_min(1)
            along = gce_gradient(some @ weight + bias, labels[rows], q) * count.unsqueeze(2)
            weight.grad, bias.grad = some.T @ along, along.sum(dim=1, keepdim=True)  # the folds share no parameter
            optimizer.step()
    return weight, bias


def gce_gradient(logits: torch.Tensor, labels: torch.Tensor, q: float) -> torch.Tensor:
    """That of the generalized cross entropy along logits, `p_y^q (p - onehot(y))`: autograd takes three times as long.

    Args:
        logits (`torch.Tensor` of shape `[num_folds, batch, num_labels]`), labels (`torch.LongTensor` of shape
            `[batch]`): of the samples that all folds have in common.
    """
    p = logits.softmax(dim=2)
    chosen = labels.expand(len(p), -1).unsqueeze(2)
    strength = p.gather(2, chosen).pow(q)
    return (p * strength).scatter_add_(2, chosen, -strength)


def _batch_size(num_samples: int, numbers_of_each: int) -> int:
    size = min(max(num_samples // _BATCHES, _LEAST_SIZE), _LARGER_SIZE)
    size = max(size, num_samples // _MOST_BATCHES)
    return max(min(size, _MOST_NUMBERS // numbers_of_each), _LEAST_SIZE)


def _class_weights(labels: torch.Tensor, folds: torch.Tensor, num_labels: int, num_folds: int) -> torch.Tensor:
    """What a sample of each class counts in what each fold's classifier learns from, 1 on average: `[num_folds,
    num_labels]`."""
    of_all = torch.bincount(folds * num_labels + labels, minlength=num_folds * num_labels).view(num_folds, num_labels)
    sizes = of_all.sum(dim=0) - of_all  # of the other folds
    return sizes.clamp_min(1).rsqrt() * (sizes.sum(dim=1) / sizes.sqrt().sum(dim=1)).unsqueeze(1)


for _features in ("mean", "head"):
    register_evidence(f"{_features}_probe", cross_fitted_probe, _features)
