"""The strategies of routing by name: how clean probabilities become gate probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .._callables import check_call
from .._registry import Registry

StrategyFunction = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class RoutingStrategy:
    """How a clean probability becomes the probability that a layer's PEFT module acts.

    Attributes:
        name (`str`): as in the argument `clear_routing`.
        function (`Callable`): `function(clean_probability, gamma, is_clean)`; see [`register_routing_strategy`].
        needs_truth (`bool`): whether the function reads `is_clean`.
        needs_labels (`bool`): whether the function takes the given labels and the losses, too.
    """

    name: str
    function: StrategyFunction
    needs_truth: bool = False
    needs_labels: bool = False


ROUTING_STRATEGIES: Registry[RoutingStrategy] = Registry("routing strategy", "register_routing_strategy")


def register_routing_strategy(
    name: str, function: StrategyFunction, needs_truth: bool = False, needs_labels: bool = False
) -> None:
    """Adds a routing strategy; `clear_routing=name` chooses it.

    Args:
        name (`str`): a new name.
        function (`Callable`): `function(clean_probability, gamma, is_clean)` returns the probability that a PEFT
            module acts on each sample, a float tensor `[num_samples]` in [0, 1], as its first argument. That is the
            clean probability of the whole training set, also a float tensor `[num_samples]`; `gamma` is the cap γ in
            [0, 1]; `is_clean` is None without `needs_truth`, otherwise 1 for a correct label, 0 for a wrong one and
            NaN if unknown. It changes no argument and uses no random numbers: every process calls it for itself,
            and a resumed training calls it again.
        needs_truth (`bool`, *optional*, defaults to `False`): whether the function reads `is_clean`. A training set
            without true labels is then refused.
        needs_labels (`bool`, *optional*, defaults to `False`): whether the function is called with two more arguments:
            the given labels, an integer tensor `[num_samples]`, -100 for none; and the losses of the last refit in
            nats, a float tensor `[num_samples]`. A task with one label a token is then refused.

    Raises:
        ValueError: if the name is taken or empty, or the function doesn't take these arguments.

    Example:

    ```python
    >>> register_routing_strategy("squared", lambda clean_probability, gamma, is_clean: gamma * clean_probability**2)
    ```
    """
    more = ("labels", "losses") if needs_labels else ()
    check_call(f"The routing strategy {name!r}", function, "clean_probability", "gamma", "is_clean", *more)
    ROUTING_STRATEGIES.add(name, RoutingStrategy(name, function, needs_truth, needs_labels))


def gate_probability(
    strategy: str,
    clean_probability: torch.Tensor,
    gamma: float,
    is_clean: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    losses: torch.Tensor | None = None,
) -> torch.Tensor:
    """The probability that a layer's PEFT module acts on each sample (CleaR, arXiv 2411.00873, and its ablations).

    Args:
        strategy (`str`): a name among `ROUTING_STRATEGIES`.
        clean_probability (`torch.Tensor` of shape `[num_samples]`): of the whole training set.
        gamma (`float`): the cap γ in [0, 1].
        is_clean (`torch.Tensor` of shape `[num_samples]`, *optional*): 1 for a correct label, 0 for a wrong one, NaN
            if unknown. For strategies that need the truth; the others don't see it.
        labels (`torch.Tensor` of shape `[num_samples]`, *optional*): the given labels, -100 for none. For strategies
            that need them, as are `losses`.
        losses (`torch.Tensor` of shape `[num_samples]`, *optional*): of the last refit, in nats.

    Returns:
        `torch.Tensor` of shape `[num_samples]`, in [0, 1].

    Raises:
        ValueError: if the strategy is unknown, needs the truth or labels and these are None, or doesn't return
            probabilities.
    """
    member = ROUTING_STRATEGIES.find(strategy)
    if member.needs_truth and is_clean is None:
        raise ValueError(f"The routing strategy {strategy!r} needs to know which labels are correct.")
    more: tuple[torch.Tensor, ...] = ()
    if member.needs_labels:
        if labels is None or losses is None:
            raise ValueError(f"The routing strategy {strategy!r} needs one given label and one loss for each sample.")
        more = labels.clone(), losses.clone()
    try:  # on a copy: what a strategy does in place is no business of the store
        probability = member.function(clean_probability.clone(), gamma, is_clean if member.needs_truth else None, *more)
    except Exception as error:
        raise ValueError(f"The routing strategy {strategy!r} fails: {type(error).__name__}: {error}") from error
    is_of_kind = isinstance(probability, torch.Tensor) and probability.shape == clean_probability.shape
    if not is_of_kind or not bool(((probability >= 0) & (probability <= 1)).all()):
        got = f"values from {probability.min()} to {probability.max()}" if is_of_kind else repr(probability)
        raise ValueError(
            f"The routing strategy {strategy!r} has to return one probability in [0, 1] for each sample, a tensor of "
            f"shape {list(clean_probability.shape)}; got {got}."
        )
    return probability
