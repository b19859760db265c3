"""Training losses by name: [`register_training_loss`] adds one, [`get_training_loss`] finds it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .._callables import check_call
from .._registry import Registry
from ._evidence import LossEvidence, LossPart

_LOGGED = ("loss", "grad_norm", "learning_rate", "epoch", "step")  # by `Trainer`
LossFunction = Callable[..., Mapping[str, torch.Tensor | LossPart]]


@dataclass(frozen=True)
class TrainingLoss:
    """A training loss with its settings, as [`get_training_loss`] returns it: called with a [`LossEvidence`].

    Attributes:
        name (`str`): as it is registered.
        function (`Callable`): what is called; see [`register_training_loss`].
        adds_to_task_loss (`bool`): whether its parts are added to the task loss, instead of standing in its place.
        needs_target, needs_clean_probability, needs_posterior (`bool`): whether it needs these of [`LossEvidence`].
        active_if (`Callable[..., bool]`, *optional*): a function of its settings that says whether it has any part.
        least_ensemble_size (`int`): of the setting `ensemble_size`, if it has one.
        settings (`Mapping[str, Any]`): keyword arguments of `function`.
        is_active (`bool`): whether it has any part with these settings.
        uses_target, uses_clean_probability, uses_posterior (`bool`): whether it looks at them with these settings.

    Raises:
        ValueError: when called, if the function doesn't return parts of the shape of the labels.
    """

    name: str
    function: LossFunction
    adds_to_task_loss: bool = False
    needs_target: bool = False
    needs_clean_probability: bool = False
    needs_posterior: bool = False
    active_if: Callable[..., bool] | None = None
    least_ensemble_size: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_active: bool = field(init=False)
    uses_target: bool = field(init=False)
    uses_clean_probability: bool = field(init=False)
    uses_posterior: bool = field(init=False)

    def __post_init__(self):
        is_active = True
        if self.active_if is not None:
            settings = {**self.defaults, **self.settings}
            names = inspect.signature(self.active_if).parameters
            is_active = bool(self.active_if(**{name: settings[name] for name in names}))
        object.__setattr__(self, "is_active", is_active)
        object.__setattr__(self, "uses_target", self.needs_target and is_active)
        object.__setattr__(self, "uses_clean_probability", self.needs_clean_probability and is_active)
        object.__setattr__(self, "uses_posterior", self.needs_posterior and is_active)

    @property
    def defaults(self) -> dict[str, Any]:
        """The keyword arguments that `function` knows, with their defaults."""
        return _keywords(self.function)

    def with_settings(self, settings: Mapping[str, Any]) -> TrainingLoss:
        """The same with other settings; those that are not given keep their defaults.

        Raises:
            ValueError: if the function has no such setting, one is no number whose default is, or the ensemble is too
                small.
        """
        unknown = sorted(settings.keys() - self.defaults.keys())
        if unknown:
            known = ", ".join(f"{name}={value!r}" for name, value in self.defaults.items()) or "none"
            raise ValueError(
                f"The training loss {self.name!r} has no setting {', '.join(map(repr, unknown))}. Its settings are: "
                f"{known}."
            )
        for key, value in settings.items():
            numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in (self.defaults[key], value)]
            if numbers == [True, False]:
                raise ValueError(f"`{key}` of the training loss {self.name!r} has to be a number; got {value!r}.")
        if settings.get("ensemble_size", self.least_ensemble_size) < self.least_ensemble_size:
            raise ValueError(
                f"The training loss {self.name!r} needs a mean of {self.least_ensemble_size} predictions or more: set "
                f"`clear_ensemble_size` ({self.defaults['ensemble_size']} by default of this loss); got "
                f"{settings['ensemble_size']}."
            )
        return replace(self, settings={**self.defaults, **settings})

    def __call__(self, evidence: LossEvidence) -> dict[str, LossPart]:
        if not self.is_active:
            return {}
        given = self.function(evidence, **self.settings)
        if not isinstance(given, Mapping):
            raise ValueError(
                f"The training loss {self.name!r} returned a {type(given).__name__}. It has to return a dictionary of "
                "named parts, each with one value for each label."
            )
        parts = {name: part if isinstance(part, LossPart) else LossPart(part) for name, part in given.items()}
        for name, part in parts.items():
            if name in _LOGGED:
                raise ValueError(
                    f"The training loss {self.name!r} calls a part {name!r}, which stands for something else in the "
                    "log: choose another name."
                )
            if not isinstance(part.values, torch.Tensor) or part.values.shape != evidence.labels.shape:
                got = list(part.values.shape) if isinstance(part.values, torch.Tensor) else type(part.values).__name__
                raise ValueError(
                    f"The part {name!r} of the training loss {self.name!r} has to be of shape "
                    f"{list(evidence.labels.shape)}, one value for each label, not reduced; got {got}."
                )
        return parts


TRAINING_LOSSES: Registry[TrainingLoss] = Registry("training loss", "register_training_loss")


def register_training_loss(
    name: str,
    function: LossFunction,
    *,
    adds_to_task_loss: bool = False,
    uses_target: bool = False,
    uses_clean_probability: bool = False,
    uses_posterior: bool = False,
    active_if: Callable[..., bool] | None = None,
    least_ensemble_size: int = 1,
) -> None:
    """Makes a training loss known by a name, for `clear_loss`.

    Args:
        name (`str`): not taken.
        function (`Callable`): `function(evidence, **settings)` takes a [`LossEvidence`] and returns a dictionary of
            named parts, tensors of the shape of `evidence.labels` or [`LossPart`]s, *not reduced*: the trainer divides
            their sums by the number of labels of the optimizer step, and logs each part. Its keyword arguments are the
            loss's settings (`clear_loss_kwargs`); one that is also an argument of the training, without `clear_`
            in front (`consistency_weight`, `ensemble_size`), has that one's value.
        adds_to_task_loss (`bool`, *optional*, defaults to `False`): the parts are added to the task loss: cross entropy
            with the given labels, or the loss that the model, a `compute_loss_func` or the base class of the trainer
            has. Otherwise they stand in its place.
        uses_target (`bool`, *optional*, defaults to `False`): whether it needs `evidence.target`, which costs what
            `clear_ensemble_source` says.
        uses_clean_probability (`bool`, *optional*, defaults to `False`): whether it needs
            `evidence.clean_probability`.
        uses_posterior (`bool`, *optional*, defaults to `False`): whether it needs `evidence.posterior`, which not every
            `clear_estimator` has.
        active_if (`Callable[..., bool]`, *optional*): `active_if(**settings)` says whether the loss has any part with
            such settings (a weight of 0 has none): if not, nothing is computed for it.
        least_ensemble_size (`int`, *optional*, defaults to 1): a smaller `clear_ensemble_size` is refused, if
            `ensemble_size` is one of its settings.

    Raises:
        ValueError: if the name is taken, the function can't be called with the evidence alone, or `active_if` asks for
            what is no setting.

    Example:

    ```python
    >>> def mean_absolute_error(evidence):
    ...     p = evidence.logits.softmax(dim=-1)
    ...     return {"mae": 1 - p.gather(-1, evidence.labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)}
    >>> register_training_loss("mae", mean_absolute_error)
    ```
    """
    check_call(f"The training loss {name!r}", function, "evidence", hint="Its settings need defaults.")
    if not (active_if is None or callable(active_if)):
        raise ValueError(f"`active_if` of the training loss {name!r} has to be a function; got {active_if!r}.")
    known = () if active_if is None else inspect.signature(active_if).parameters
    unknown = [key for key in known if key not in _keywords(function)]
    if unknown:
        raise ValueError(
            f"`active_if` of the training loss {name!r} asks for {', '.join(map(repr, unknown))}, which is no "
            f"setting of it; there are: {', '.join(_keywords(function)) or 'none'}."
        )
    TRAINING_LOSSES.add(
        name,
        TrainingLoss(
            name,
            function,
            adds_to_task_loss,
            uses_target,
            uses_clean_probability,
            uses_posterior,
            active_if,
            least_ensemble_size,
        ),
    )


def get_training_loss(
    name: str, settings: Mapping[str, Any] | None = None, arguments: Mapping[str, Any] | None = None
) -> TrainingLoss:
    """Finds a training loss by name, with settings in place of its defaults.

    Args:
        settings (`Mapping[str, Any]`, *optional*): `clear_loss_kwargs`.
        arguments (`Mapping[str, Any]`, *optional*): the arguments of the training. A setting that is one of them, with
            `clear_` in front, has its value.

    Raises:
        ValueError: if there is no such loss, it has no such setting, or a setting is an argument of its own.
    """
    loss, settings, arguments = TRAINING_LOSSES.find(name, "clear_loss"), settings or {}, arguments or {}
    own = {key: arguments[f"clear_{key}"] for key in loss.defaults if f"clear_{key}" in arguments}
    twice = sorted(own.keys() & settings.keys())
    if twice:
        raise ValueError(
            f"`clear_loss_kwargs` holds {twice[0]!r}, which is an argument of its own: set `clear_{twice[0]}`."
        )
    return loss.with_settings({**own, **settings})


@functools.cache
def _keywords(function: LossFunction) -> dict[str, Any]:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
