"""The contract of training losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch

from .._names import IGNORED_LABEL
from ..losses import LossEvidence, LossPart, TrainingLoss, get_training_loss

_NUM_LABELS = 5


def check_training_loss(loss: str | TrainingLoss) -> None:
    """Holds a training loss to its contract: what a trainer relies on.

    For samples and for tokens, in the warm-up and after it, with targets and without: a dictionary of parts, one value
    for each label; finite values and gradients, for extreme logits too; rows that don't depend on each other; the same
    answer twice; evidence and random state left alone; no gradient into the target; unused evidence unused.

    Args:
        loss (`str` or `TrainingLoss`): a registered name, or what [`~hf_clear.losses.get_training_loss`] returns.

    Raises:
        AssertionError: if it doesn't hold; the message says what, and for which evidence.

    Example:

    ```python
    >>> check_training_loss("gce")
    ```
    """
    loss = get_training_loss(loss) if isinstance(loss, str) else loss
    seen = False
    for what, evidence in _cases():
        seen |= _check_parts(loss, evidence, f"the training loss {loss.name!r}, {what}")
    assert seen or not loss.is_active, (
        f"the training loss {loss.name!r} gave no part in any case: register it with `active_if` if that is meant so"
    )


def _check_parts(loss: TrainingLoss, evidence: LossEvidence, what: str) -> bool:
    evidence = _as_declared(loss, evidence)
    logits = evidence.logits.clone().requires_grad_()
    given = replace(evidence, logits=logits)
    kept = {name: value.clone() for name, value in vars(evidence).items() if isinstance(value, torch.Tensor)}
    random_state = torch.random.get_rng_state()
    parts = _ask(loss, given, what)
    assert torch.equal(random_state, torch.random.get_rng_state()), f"{what}: it draws random numbers"
    for name, value in kept.items():
        now = getattr(given, name)
        assert torch.equal(now.detach(), value), f"{what}: it changes the evidence's {name}"
    if not parts:
        assert loss.adds_to_task_loss, f"{what}: no part, so that there would be no loss at all"
        return False
    labelled = evidence.labels != IGNORED_LABEL
    sums = [(part.weight * part.values.where(labelled, 0.0)).sum() for part in parts.values()]
    total = cast(torch.Tensor, sum(sums))
    for name, part in parts.items():
        assert part.values[labelled].isfinite().all(), f"{what}: the part {name!r} is not finite"
    again = _ask(loss, given, what)
    same = parts.keys() == again.keys() and all(torch.equal(parts[name].values, again[name].values) for name in parts)
    assert same, f"{what}: asked twice, it gives two answers"
    assert total.requires_grad, f"{what}: no gradient reaches the logits"
    (gradient,) = torch.autograd.grad(total, logits)
    assert gradient.isfinite().all(), f"{what}: the gradient is not finite"
    assert not gradient[~labelled].any(), f"{what}: a label of {IGNORED_LABEL} has a gradient"

    for name in ("target", "posterior"):
        if getattr(evidence, name) is None:
            continue
        leaf = getattr(evidence, name).clone().requires_grad_()
        leaks = any(part.values.requires_grad for part in _ask(loss, replace(evidence, **{name: leaf}), what).values())
        assert not leaks, f"{what}: a gradient flows into the {name}, which is to be a constant (`{name}.detach()`)"

    half = len(evidence.labels) // 2
    tensors = {name: value for name, value in vars(evidence).items() if isinstance(value, torch.Tensor)}
    halves: dict[str, Any] = {name: value[:half] for name, value in tensors.items()}
    first = replace(evidence, **halves)
    for name, part in _ask(loss, first, what).items():
        close = torch.allclose(part.values, parts[name].values[:half].detach(), atol=1e-5)
        assert close, f"{what}: the part {name!r} of a sample depends on the others in the batch"
    return True


def _as_declared(loss: TrainingLoss, evidence: LossEvidence) -> LossEvidence:
    """As the trainer gives it: without what the loss is not registered to use."""
    target = evidence.target if loss.uses_target else None
    return replace(
        evidence,
        target=target,
        clean_probability=evidence.clean_probability if loss.uses_clean_probability else None,
        posterior=evidence.posterior if loss.uses_posterior else None,
    )


def _ask(loss: TrainingLoss, evidence: LossEvidence, what: str) -> dict[str, LossPart]:
    try:
        return loss(evidence)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


def _cases() -> Iterator[tuple[str, LossEvidence]]:
    generator = torch.Generator().manual_seed(0)
    for what, shape in (("one class a sample", (6,)), ("one class a token", (4, 3))):
        labels = torch.randint(_NUM_LABELS, shape, generator=generator)
        labels[-1:] = IGNORED_LABEL
        probability = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator)
        target = torch.rand(*shape, _NUM_LABELS, generator=generator).softmax(dim=-1)
        target[0] = 0.0  # a sample without a target
        sure = torch.nn.functional.one_hot(labels.clamp_min(0), _NUM_LABELS).float()
        for scale in (1.0, 100.0):
            logits = scale * torch.randn(*shape, _NUM_LABELS, generator=generator)
            where = f"{what}, logits of scale {scale:g}"
            yield f"{where}, in the warm-up", LossEvidence(logits, labels, is_warmup=True)
            yield (
                f"{where}, in the warm-up with targets",
                LossEvidence(logits, labels, None, target, 1.0, is_warmup=True),
            )
            yield f"{where}, without targets", LossEvidence(logits, labels, probability, None, 3.0)
            yield where, LossEvidence(logits, labels, probability, target, 3.0, posterior=target)
        yield f"{what}, all sure", LossEvidence(100 * sure, labels, probability.round(), sure, 5.0, posterior=sure)
