"""The arguments of CleaR."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from .estimators import get_estimator
from .routing import ROUTING_STRATEGIES

ENSEMBLE_SOURCES = ("epoch", "step")


@dataclass
class ClearArguments:
    """What CleaR adds to any `TrainingArguments`; a mixin, e.g. for `Seq2SeqTrainingArguments`. Symbols as in the paper
    (arXiv 2411.00873)."""

    clear_gamma: float = field(
        default=0.9,
        metadata={
            "help": "Cap γ in [0, 1] on the probability that a layer's PEFT module acts on a sample: its gate is drawn "
            "from Bernoulli(γ · clean probability)."
        },
    )
    clear_warmup_epochs: int = field(
        default=3,
        metadata={
            "help": "Epochs k of plain PEFT training before the first mixture is fitted. Routing and consistency start "
            "after it; the mixture is refitted at the beginning of every later epoch."
        },
    )
    clear_warmup_random_routing: bool = field(
        default=False,
        metadata={"help": "In the warm-up, draw gates from Bernoulli(γ) for all samples alike, instead of none."},
    )
    clear_routing: str = field(
        default="clean",
        metadata={
            "help": "What the gates follow after the warm-up: 'clean' is CleaR; 'deterministic' (clean probability "
            "above 0.5), 'random' (the mean rate of 'clean' for all), 'noisy' (Bernoulli(γ · (1 - p))), 'oracle' (the "
            "true labels, from a column `true_label`) and 'none' are its ablations.",
            "choices": list(ROUTING_STRATEGIES),
        },
    )
    clear_estimator: str = field(
        default="gaussian_mixture",
        metadata={
            "help": "What turns losses into clean probabilities: gaussian_mixture, per_class_gaussian_mixture, "
            "ema_gaussian_mixture, knn, or several with '+' between them, which are averaged."
        },
    )
    clear_consistency_weight: float = field(
        default=1.0,
        metadata={"help": "Weight λ >= 0 of the consistency term. 0 leaves it out, with its forward passes."},
    )
    clear_ensemble_size: int = field(
        default=2, metadata={"help": "Number N >= 1 of routed predictions whose mean is the consistency target."}
    )
    clear_ensemble_source: str | None = field(
        default=None,
        metadata={
            "help": "Where the N routed predictions come from: 'epoch' makes N passes over the training set at each "
            "refit, 'step' N forward passes in each training step (the paper's equation). Default: 'epoch', and 'step' "
            "where every token has a label.",
            "choices": list(ENSEMBLE_SOURCES),
        },
    )
    clear_ensemble_temperature: float = field(
        default=1.0,
        metadata={"help": "Temperature T > 0 of the consistency target: below 1, f_ens^(1/T) makes it more certain."},
    )
    clear_dropout_after_warmup: bool = field(
        default=True,
        metadata={"help": "Whether dropout stays on after the warm-up."},
    )

    def __post_init__(self):
        # The other base of a combined class, such as TrainingArguments, has a __post_init__ of its own.
        if hasattr(super(), "__post_init__"):
            super().__post_init__()
        if not 0 <= self.clear_gamma <= 1:
            raise ValueError(f"`clear_gamma` is a probability, so it has to be in [0, 1]; got {self.clear_gamma}.")
        if self.clear_warmup_epochs != int(self.clear_warmup_epochs) or self.clear_warmup_epochs < 0:
            raise ValueError(
                f"`clear_warmup_epochs` has to be a whole number of epochs, 0 or above; got {self.clear_warmup_epochs}."
            )
        if not self.clear_consistency_weight >= 0:
            raise ValueError(f"`clear_consistency_weight` has to be 0 or above; got {self.clear_consistency_weight}.")
        if self.clear_ensemble_size != int(self.clear_ensemble_size) or self.clear_ensemble_size < 1:
            raise ValueError(
                "`clear_ensemble_size` has to be a whole number, 1 or above; got "
                f"{self.clear_ensemble_size}. To train without consistency, set `clear_consistency_weight=0`."
            )
        if self.clear_ensemble_source not in (None, *ENSEMBLE_SOURCES):
            raise ValueError(
                f"`clear_ensemble_source` has to be one of {', '.join(map(repr, ENSEMBLE_SOURCES))}; got "
                f"{self.clear_ensemble_source!r}."
            )
        if not self.clear_ensemble_temperature > 0:
            raise ValueError(f"`clear_ensemble_temperature` has to be above 0; got {self.clear_ensemble_temperature}.")
        if self.clear_routing not in ROUTING_STRATEGIES:
            raise ValueError(
                f"`clear_routing` has to be one of {', '.join(map(repr, ROUTING_STRATEGIES))}; got "
                f"{self.clear_routing!r}."
            )
        get_estimator(self.clear_estimator)  # refuses what it doesn't know


@dataclass
class ClearTrainingArguments(ClearArguments, TrainingArguments):
    """[`~transformers.TrainingArguments`] plus the arguments of CleaR ([`ClearArguments`]).

    One default differs from transformers': 10 epochs instead of 3, which the warm-up alone would use up.

    Raises:
        ValueError: where an argument of CleaR is out of its range.

    Example:

    ```python
    >>> args = ClearTrainingArguments(output_dir="out", num_train_epochs=8, clear_warmup_epochs=3, clear_gamma=0.9)
    ```
    """

    num_train_epochs: float = field(default=10.0, metadata={"help": "Total number of training epochs to perform."})
