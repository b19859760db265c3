"""The arguments of CleaR and TURN."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from .cleansing import check_selection
from .estimators import get_estimator
from .routing import ROUTING_STRATEGIES

ENSEMBLE_SOURCES = ("epoch", "online", "step")
LOSS_SOURCES = ("epoch", "online")
PROBE_FEATURES = ("head", "mean")
WARMUPS = ("epochs", "linear_probe")


def _check_numbers(arguments: ProbeArguments, *names: str) -> None:
    for name in names:
        value = getattr(arguments, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"`{name}` has to be a number; got {value!r}.")


def _check_whole_numbers(arguments: ProbeArguments, **least: int) -> None:
    _check_numbers(arguments, *least)
    for name, smallest in least.items():
        value = getattr(arguments, name)
        if value != value or value in (float("inf"), float("-inf")) or value != int(value) or value < smallest:
            raise ValueError(f"`{name}` has to be a whole number, {smallest} or above; got {value}.")
        setattr(arguments, name, int(value))


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
    probe_batch_size: int = field(default=32, metadata={"help": "Batch size of linear probing, on every process."})
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
            super().__post_init__()
        self.check_settings()

    def check_settings(self) -> None:
        """Looks at the settings of the method once more: whoever assigned them, a hyperparameter search for one, did so
        without a look.

        Raises:
            ValueError: where one is out of its range.
        """
        _check_numbers(self, "probe_learning_rate", "probe_gce_q", "probe_feature_memory")
        _check_whole_numbers(self, probe_epochs=1, probe_batch_size=1)
        if not self.probe_learning_rate > 0:
            raise ValueError(f"`probe_learning_rate` has to be above 0; got {self.probe_learning_rate}.")
        if not 0 <= self.probe_gce_q <= 1:
            raise ValueError(
                f"`probe_gce_q` has to be in [0, 1], from cross entropy to the mean absolute error; got "
                f"{self.probe_gce_q}."
            )
        if self.probe_features not in PROBE_FEATURES:
            raise ValueError(f"`probe_features` has to be 'head' or 'mean'; got {self.probe_features!r}.")
        if not self.probe_feature_memory >= 0:
            raise ValueError(f"`probe_feature_memory` has to be 0 or above; got {self.probe_feature_memory}.")


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
            "a mixture to each class."
        },
    )

    def check_settings(self) -> None:
        super().check_settings()
        _check_numbers(self, "turn_threshold")
        if str(self.turn_balance).isdecimal():
            self.turn_balance = int(self.turn_balance)  # from a command line
        check_selection(self.turn_threshold, self.turn_balance)
        get_estimator(self.turn_estimator)  # refuses what it doesn't know


@dataclass
class TurnTrainingArguments(TurnArguments, TrainingArguments):
    """[`~transformers.TrainingArguments`] plus the arguments of TURN ([`TurnArguments`], [`ProbeArguments`]).

    `num_train_epochs`, `learning_rate` and all other arguments of transformers are those of fine-tuning.

    Raises:
        ValueError: where an argument of TURN is out of its range.

    Example:

    ```python
    >>> args = TurnTrainingArguments(output_dir="out", probe_epochs=20, turn_threshold=0.6, turn_balance="min")
    ```
    """


@dataclass
class ClearArguments(ProbeArguments):
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
    clear_warmup: str = field(
        default="epochs",
        metadata={
            "help": "'epochs' warms up with `clear_warmup_epochs` of plain PEFT training. 'linear_probe' trains the "
            "head alone on frozen features, as in TURN (see the arguments `probe_...`): its losses give the clean "
            "probabilities of the epochs up to `clear_warmup_epochs`, so that no module sees a label unrouted.",
            "choices": list(WARMUPS),
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
            "choices": ROUTING_STRATEGIES,
        },
    )
    clear_estimator: str = field(
        default="gaussian_mixture",
        metadata={
            "help": "What turns losses into clean probabilities: gaussian_mixture, per_class_gaussian_mixture, "
            "ema_gaussian_mixture, knn, or several with '+' between them, which are averaged."
        },
    )
    clear_loss_source: str = field(
        default="epoch",
        metadata={
            "help": "Where the losses for the mixture come from: 'epoch' makes one pass over the training set at each "
            "refit, with every module active; 'online' makes none and takes the running mean of the predictions of "
            "training (see `clear_ensemble_source`).",
            "choices": list(LOSS_SOURCES),
        },
    )
    clear_min_clean_probability: float = field(
        default=0.0,
        metadata={
            "help": "After the warm-up, samples with a smaller clean probability are left out of the batches, which "
            "become smaller and faster: no module and no head sees them. The next refit looks at them again; with "
            "`clear_loss_source='online'`, which predicts nothing that is not trained on, they stay out."
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
            "help": "Where the N routed predictions come from: 'online' keeps a running mean, over about N epochs, of "
            "those that training makes anyway; 'epoch' makes N passes over the training set at each refit, 'step' N "
            "forward passes in each training step (the paper's equation). Default: 'online', and 'step' where every "
            "token has a label.",
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

    def check_settings(self) -> None:
        super().check_settings()
        if self.clear_warmup not in WARMUPS:
            raise ValueError(f"`clear_warmup` has to be 'epochs' or 'linear_probe'; got {self.clear_warmup!r}.")
        _check_numbers(self, "clear_gamma", "clear_min_clean_probability")
        _check_numbers(self, "clear_consistency_weight", "clear_ensemble_temperature")
        _check_whole_numbers(self, clear_warmup_epochs=0)
        if not 0 <= self.clear_gamma <= 1:
            raise ValueError(f"`clear_gamma` is a probability, so it has to be in [0, 1]; got {self.clear_gamma}.")
        if not 0 <= self.clear_min_clean_probability <= 1:
            raise ValueError(
                "`clear_min_clean_probability` has to be in [0, 1], a probability; got "
                f"{self.clear_min_clean_probability}."
            )
        if not self.clear_consistency_weight >= 0:
            raise ValueError(f"`clear_consistency_weight` has to be 0 or above; got {self.clear_consistency_weight}.")
        if self.clear_ensemble_size != int(self.clear_ensemble_size) or self.clear_ensemble_size < 1:
            raise ValueError(
                "`clear_ensemble_size` has to be a whole number, 1 or above; got "
                f"{self.clear_ensemble_size}. To train without consistency, set `clear_consistency_weight=0`."
            )
        self.clear_ensemble_size = int(self.clear_ensemble_size)
        if self.clear_ensemble_source not in (None, *ENSEMBLE_SOURCES):
            raise ValueError(
                f"`clear_ensemble_source` has to be one of {', '.join(map(repr, ENSEMBLE_SOURCES))}; got "
                f"{self.clear_ensemble_source!r}."
            )
        if self.clear_loss_source not in LOSS_SOURCES:
            raise ValueError(f"`clear_loss_source` has to be 'epoch' or 'online'; got {self.clear_loss_source!r}.")
        if self.clear_loss_source == "online" and self.clear_ensemble_source == "epoch":
            raise ValueError(
                "`clear_loss_source='online'` keeps a running mean of predictions where "
                "`clear_ensemble_source='epoch'` keeps its own: leave one of them out."
            )
        if not self.clear_ensemble_temperature > 0:
            raise ValueError(f"`clear_ensemble_temperature` has to be above 0; got {self.clear_ensemble_temperature}.")
        ROUTING_STRATEGIES.find(self.clear_routing, "clear_routing")
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
