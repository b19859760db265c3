"""The contract of routing strategies."""

from __future__ import annotations

import torch

from ..routing import ROUTING_STRATEGIES, RoutingStrategy


def check_routing_strategy(strategy: str | RoutingStrategy) -> None:
    """Holds a routing strategy to what the trainer relies on.

    Whatever the clean probabilities are, gate probabilities come back in the shape, dtype and range of probabilities,
    the same at every call and in every order of the samples. Arguments and random state stay as they are, and the truth
    is read only by a strategy that says so.

    Args:
        strategy (`str` or `RoutingStrategy`): one that was registered, by name; or one that wasn't.

    Raises:
        AssertionError: that says what is broken, and for which arguments.
        ValueError: if there is no strategy of this name.

    Example:

    ```python
    >>> register_routing_strategy("squared", lambda clean_probability, gamma, is_clean: gamma * clean_probability**2)
    >>> check_routing_strategy("squared")
    ```
    """
    member = ROUTING_STRATEGIES.find(strategy) if isinstance(strategy, str) else strategy
    generator = torch.Generator().manual_seed(0)
    probabilities = {
        "of all kinds": torch.rand(50, generator=generator),
        "in float64": torch.rand(50, generator=generator, dtype=torch.float64),
        "all 0": torch.zeros(4),
        "all 1": torch.ones(4),
        "of one sample": torch.tensor([0.3]),
    }
    for kind, p in probabilities.items():
        truth = torch.tensor([1.0, 0.0, torch.nan, 1.0]).repeat(13)[: len(p)].to(p)
        for gamma in (0.0, 0.7, 1.0):
            for is_clean in (truth, torch.full_like(truth, torch.nan)) if member.needs_truth else (None,):
                given = f"clean probabilities {kind}, γ = {gamma}"
                for labels in (torch.tensor([0, 0, 1, -100]).repeat(13)[: len(p)], torch.full((len(p),), -100)):
                    who = f"The routing strategy {member.name!r}, given {given},"
                    _check_call(member, p, gamma, is_clean, labels, who)


def _check_call(
    member: RoutingStrategy,
    p: torch.Tensor,
    gamma: float,
    is_clean: torch.Tensor | None,
    labels: torch.Tensor,
    who: str,
) -> None:
    losses = -p.log()  # infinite, too

    def called(rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        more = (labels[rows], losses[rows]) if member.needs_labels else ()
        return member.function(p[rows], gamma, None if is_clean is None else is_clean[rows], *more)

    p_before, truth_before = p.clone(), p if is_clean is None else is_clean.clone()
    labels_before, losses_before = labels.clone(), losses.clone()
    state = torch.get_rng_state()
    try:
        rate = called()
    except Exception as error:
        truth = "" if member.needs_truth else " Without `needs_truth`, `is_clean` is None."
        count = "five arguments, labels of -100 among them" if member.needs_labels else "three arguments"
        called_with = f" With `needs_labels={member.needs_labels}`, it is called with {count}."
        raise AssertionError(f"{who} raised {type(error).__name__}: {error}.{truth}{called_with}") from error
    assert isinstance(rate, torch.Tensor), f"{who} returned a {type(rate).__name__} instead of a tensor."
    assert rate.shape == p.shape, f"{who} returned the shape {list(rate.shape)} for {list(p.shape)}."
    assert rate.dtype == p.dtype, f"{who} returned {rate.dtype} for {p.dtype}."
    assert ((rate >= 0) & (rate <= 1)).all(), (  # not so for NaN
        f"{who} returned values outside of [0, 1]: from {rate.min():.3g} to {rate.max():.3g}."
    )
    assert torch.equal(p, p_before), f"{who} changed the clean probabilities."
    assert torch.equal(labels, labels_before), f"{who} changed the labels."
    assert torch.equal(losses, losses_before), f"{who} changed the losses."
    assert is_clean is None or torch.equal(is_clean.nan_to_num(-1), truth_before.nan_to_num(-1)), (
        f"{who} changed the truth."
    )
    again = called()
    assert torch.equal(rate, again), f"{who} returned something else when it was called again."
    assert torch.equal(state, torch.get_rng_state()), (
        f"{who} used random numbers: every process and a resumed training would route otherwise. The gates are drawn "
        "from what it returns."
    )
    order = torch.randperm(len(p), generator=torch.Generator().manual_seed(1))
    shuffled = called(order)
    assert torch.allclose(shuffled, rate[order], rtol=0, atol=1e-5), (
        f"{who} returned something else for the same samples in another order."
    )
