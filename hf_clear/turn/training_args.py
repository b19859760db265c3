"""The arguments of TURN."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from .._argument_checks import check_numbers
from ..estimators import ESTIMATORS
from ..probe_args import ProbeArguments
from .selection import check_selection


@dataclass
class TurnArguments(ProbeArguments):
    """What TURN adds to any `TrainingArguments`; a mixin. Symbols as in the paper (arXiv 2310.17668)."""

    turn_threshold: float = field(
        default=0.6,
        metadata={"help": "τ in (0, 1): the model is fine-tuned on samples with a clean probability above it."},
    )
    turn_balance: str = field(
        default="none",
        metadata={
            "help": "How many samples a class has in fine-tuning: 'none' takes all that were kept, 'min' draws from "
            "each as many as the smallest has kept (the paper), a number at most so many."
        },
    )
    turn_estimator: str = field(
        default="per_class_gaussian_mixture",
        metadata={
            "help": "What turns the probe's losses into clean probabilities: see `clear_estimator` of CleaR. TURN fits "
            "a mixture to each class. 'evidence_mixture' is refused: there is no such evidence.",
            "choices": ESTIMATORS,
        },
    )

    def check_settings(self) -> None:
        super().check_settings()
        check_numbers(self, "turn_threshold")
        if str(self.turn_balance).isdecimal():
            self.turn_balance = int(self.turn_balance)  # type: ignore[assignment]  # from a command line
        check_selection(self.turn_threshold, self.turn_balance, prefix="turn_")
        ESTIMATORS.find(self.turn_estimator, "turn_estimator").check_held_out(False)


@dataclass
class TurnTrainingArguments(TurnArguments, TrainingArguments):
    """[`~transformers.TrainingArguments`] plus the arguments of TURN ([`TurnArguments`], [`ProbeArguments`]).

    `num_train_epochs`, `learning_rate` and all other arguments of transformers are those of fine-tuning.

    Raises:
        ValueError: if an argument of TURN is out of its range.

    Example:

    ```python
    >>> args = TurnTrainingArguments(output_dir="out", probe_epochs=20, turn_threshold=0.6, turn_balance="min")
    ```
    """
