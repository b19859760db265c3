"""The arguments of linear probing, which both methods share."""

from __future__ import annotations

from dataclasses import dataclass, field

from ._argument_checks import check_least, check_numbers, check_whole_numbers

PROBE_FEATURES = ("head", "mean")
MEMORY_SETTINGS = ("probe_feature_memory",)  # results don't depend on them


@dataclass
class ProbeArguments:
    """The settings of linear probing, in TURN and as the warm-up of CleaR; a mixin for any `TrainingArguments`. Symbols
    as in TURN (arXiv 2310.17668)."""

    probe_epochs: int = field(default=20, metadata={"help": "Epochs of linear probing, on features computed once."})
    probe_learning_rate: float = field(
        default=1e-3,
        metadata={
            "help": "Learning rate of linear probing (AdamW, falling to 0 along a cosine) for features with a standard "
            "deviation of 1: it is divided by theirs, since the steps of Adam don't depend on the scale of a gradient."
        },
    )
    probe_batch_size: int = field(
        default=32,
        metadata={
            "help": "Batch size of linear probing, on every process. With clear_warmup='evidence', the head is fitted "
            "in batches up to four times as large, at up to twice the learning rate, if there are samples enough."
        },
    )
    probe_gce_q: float = field(
        default=0.7,
        metadata={
            "help": "q in [0, 1] of the generalized cross entropy (1 - p^q) / q: 0 is cross entropy, 1 the mean "
            "absolute error."
        },
    )
    probe_features: str = field(
        default="head",
        metadata={
            "help": "What the probe that looks for wrong labels sees: 'head', what the model's head sees, or 'mean', "
            "the last hidden states averaged over the tokens. The model's own head is trained either way.",
            "choices": list(PROBE_FEATURES),
        },
    )
    probe_head: str | None = field(
        default=None,
        metadata={
            "help": "The module that turns features into class scores. Default: `classifier`, `score` or "
            "`classification_head`, whichever the model has."
        },
    )
    probe_feature_memory: float = field(
        default=4.0,
        metadata={"help": "GiB that the features may take in memory; above it they are mapped from a file on disk."},
    )

    def __post_init__(self):
        # The other base of a combined class, such as TrainingArguments, has a __post_init__ of its own.
        if hasattr(super(), "__post_init__"):
            super().__post_init__()  # type: ignore[misc]
        self.check_settings()

    def check_settings(self) -> None:
        """Looks at the settings of the method once more: whoever assigned them, a hyperparameter search for one, did so
        without a look.

        Raises:
            ValueError: if one is out of its range.
        """
        check_numbers(self, "probe_learning_rate", "probe_gce_q")
        check_whole_numbers(self, probe_epochs=1, probe_batch_size=1)
        if not self.probe_learning_rate > 0:
            raise ValueError(f"`probe_learning_rate` has to be above 0; got {self.probe_learning_rate}.")
        check_least(self, "probe_learning_rate", 0)
        if not 0 <= self.probe_gce_q <= 1:
            raise ValueError(
                f"`probe_gce_q` has to be in [0, 1], from cross entropy to the mean absolute error; got "
                f"{self.probe_gce_q}."
            )
        if self.probe_features not in PROBE_FEATURES:
            raise ValueError(f"`probe_features` has to be 'head' or 'mean'; got {self.probe_features!r}.")
        check_least(self, "probe_feature_memory", 0)
