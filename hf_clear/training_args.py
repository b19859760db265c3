"""The arguments of CleaR."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, cast

from transformers import TrainingArguments

from ._argument_checks import check_least, check_numbers, check_whole_numbers, dictionary
from .estimators import ESTIMATORS
from .evidence import evidence_sources
from .losses import TRAINING_LOSSES, TrainingLoss, get_training_loss
from .probe_args import ProbeArguments
from .routing import ROUTING_STRATEGIES

ENSEMBLE_SOURCES = ("epoch", "online", "step")
LOSS_SOURCES = ("epoch", "online")
WARMUPS = ("epochs", "linear_probe", "evidence", "cross_fit")
BEFORE_TRAINING = ("linear_probe", "evidence")  # warm-ups that end before the first step
BY_EVIDENCE = ("evidence", "cross_fit")
LOWEST_TEMPERATURE = 0.01  # f_ens^100: below it, what is left in float32 is 0


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
            "help": "Epochs k of plain PEFT training before the first fit, with the warm-up 'epochs'; with 'evidence', "
            "if that is too weak. Every later epoch begins with a refit."
        },
    )
    clear_warmup: str = field(
        default="evidence",
        metadata={
            "help": "'evidence' takes no epoch: models of frozen features that have not seen a sample's label "
            "(`clear_evidence`) give the first fit, and the head begins as fitted to what it finds. If they say too "
            "little, it is 'epochs': `clear_warmup_epochs` of plain PEFT training. 'linear_probe' trains the head "
            "alone on frozen features, as in TURN (see the arguments `probe_...`): its losses give the clean "
            "probabilities of the epochs up to `clear_warmup_epochs`: with gates (`preset('clear')`), no module sees a "
            "label unrouted. "
            "'cross_fit' trains `clear_folds` adapters at once in these epochs, each on its fold of the samples; each "
            "sample is then predicted by those that have not seen its label, and the adapter that stays starts anew.",
            "choices": list(WARMUPS),
        },
    )
    clear_folds: int = field(
        default=2,
        metadata={
            "help": "Folds of `clear_warmup='cross_fit'`, 2 or more. Its last pass over the training set takes as many "
            "passes as there are folds, less one."
        },
    )
    clear_evidence: str = field(
        default="mean_probe+head_probe",
        metadata={
            "help": "Where the warm-up 'evidence' has its scores from, and 'cross_fit' further ones, with '+' between "
            "the names: 'mean_probe' and 'head_probe' are linear probes with generalized cross entropy, in 5 folds, on "
            "the averaged last hidden states and on what the head sees. `hf_clear.evidence.register_evidence` adds "
            "one. 'none' leaves 'cross_fit' with the scores of its folds."
        },
    )
    clear_warmup_random_routing: bool = field(
        default=False,
        metadata={"help": "In the warm-up, draw gates from Bernoulli(γ) for all samples alike, instead of none."},
    )
    clear_routing: str = field(
        default="none",
        metadata={
            "help": "What gates follow after the warm-up: 'none' has none; 'clean' is CleaR; 'deterministic' (clean "
            "probability above 0.5), 'random' (the mean rate of 'clean' for all), 'noisy' (Bernoulli(γ · (1 - p))) and "
            "'oracle' (the true labels, from a column `true_label`) are its ablations; 'class_balanced' is "
            "'clean', but no class is kept out.",
            "choices": ROUTING_STRATEGIES,
        },
    )
    clear_estimator: str = field(
        default="noise_model",
        metadata={
            "help": "What tells right from wrong labels: 'noise_model' from predictions, with a posterior over the "
            "true class; mixtures, such as CleaR's 'gaussian_mixture', from losses; 'evidence_mixture' from losses and "
            "`clear_evidence`; 'knn' and 'probe' from the frozen model's features. Several with '+' between them are "
            "averaged: 'gaussian_mixture+knn'.",
            "choices": ESTIMATORS,
        },
    )
    clear_min_explained: float = field(
        default=0.5,
        metadata={
            "help": "With a loss on the posterior of the noise model: if its matrix explains a smaller share of what "
            "speaks against the given labels, they are hardly wrong, or in a way that no matrix tells. Training then "
            "goes on as CleaR with gates, by a mixture of losses and evidence, until a later fit explains as much. So "
            "it does if the predictions tell too little for a matrix; and to its end if they lose what they told. 0 "
            "never does."
        },
    )
    clear_loss_source: str = field(
        default="online",
        metadata={
            "help": "Where losses and predictions for the refit come from: 'online' takes the running mean of those of "
            "training (see `clear_ensemble_source`), 'epoch' makes one pass over the training set at each refit, with "
            "every module active.",
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
    clear_loss: str = field(
        default="posterior",
        metadata={
            "help": "The training loss: 'posterior' is cross entropy with the posterior of the noise model; 'clear' is "
            "CleaR's, the task loss plus consistency with the ensemble. Others add to the task loss or take its place: "
            "see `hf_clear.losses`; `register_training_loss` adds one.",
            "choices": TRAINING_LOSSES,
        },
    )
    clear_loss_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Settings of the training loss, as a dictionary or JSON: '{\"q\": 0.5}' for 'gce'."},
    )
    clear_consistency_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight λ >= 0 of the consistency term of the loss 'clear'. 0 leaves it out, with its forward "
            "passes."
        },
    )
    clear_ensemble_size: int = field(
        default=1, metadata={"help": "Number N >= 1 of routed predictions whose mean is the consistency target."}
    )
    clear_ensemble_source: str | None = field(
        default=None,
        metadata={
            "help": "Where the N routed predictions come from: 'online' keeps a running mean, over about N epochs, of "
            "those that training makes anyway; 'epoch' makes N passes over the training set at each refit, 'step' N "
            "forward passes in each training step (the paper's equation). Default: 'online', and 'step' if every "
            "token has a label.",
            "choices": list(ENSEMBLE_SOURCES),
        },
    )
    clear_ensemble_temperature: float = field(
        default=1.0,
        metadata={
            "help": "Temperature T >= 0.01 of the consistency target: below 1, f_ens^(1/T) makes it more certain."
        },
    )
    clear_dropout_after_warmup: bool = field(
        default=True,
        metadata={"help": "Whether dropout stays on after the warm-up."},
    )

    def check_settings(self) -> None:
        super().check_settings()
        if self.clear_warmup not in WARMUPS:
            raise ValueError(
                f"`clear_warmup` has to be one of {', '.join(map(repr, WARMUPS))}; got {self.clear_warmup!r}."
            )
        if not evidence_sources(self.clear_evidence) and self.clear_warmup == "evidence":
            raise ValueError(
                "`clear_warmup='evidence'` has nothing to go by with `clear_evidence='none'`: name a source."
            )
        check_numbers(self, "clear_gamma", "clear_min_explained", "clear_min_clean_probability")
        check_whole_numbers(self, clear_warmup_epochs=0, clear_folds=2)
        if self.clear_warmup == "cross_fit" and self.clear_warmup_epochs == 0:
            raise ValueError("`clear_warmup='cross_fit'` trains in the warm-up: `clear_warmup_epochs` can't be 0.")
        if self.clear_warmup == "cross_fit" and self.clear_warmup_random_routing:
            raise ValueError(
                "`clear_warmup_random_routing` draws gates in the warm-up, in which `clear_warmup='cross_fit'` has "
                "each sample pass the adapter of its fold: leave one of them out."
            )
        for name in ("clear_gamma", "clear_min_explained", "clear_min_clean_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` has to be in [0, 1]; got {getattr(self, name)}.")
        check_least(self, "clear_consistency_weight", 0)
        try:
            check_whole_numbers(self, clear_ensemble_size=1)
        except ValueError as error:
            raise ValueError(f"{error} To train without consistency, set `clear_consistency_weight=0`.") from None
        if self.clear_ensemble_source not in (None, *ENSEMBLE_SOURCES):
            raise ValueError(
                f"`clear_ensemble_source` has to be one of {', '.join(map(repr, ENSEMBLE_SOURCES))}; got "
                f"{self.clear_ensemble_source!r}."
            )
        if self.clear_loss_source not in LOSS_SOURCES:
            raise ValueError(f"`clear_loss_source` has to be 'epoch' or 'online'; got {self.clear_loss_source!r}.")
        if self.clear_loss_source == "online" and self.clear_ensemble_source == "epoch":
            raise ValueError(
                "`clear_loss_source='online'` keeps a running mean of predictions in the place of those that "
                "`clear_ensemble_source='epoch'` keeps: leave one of them out."
            )
        check_least(self, "clear_ensemble_temperature", LOWEST_TEMPERATURE)
        ROUTING_STRATEGIES.find(self.clear_routing, "clear_routing")
        estimator = ESTIMATORS.find(self.clear_estimator, "clear_estimator")
        self.clear_loss_kwargs = dictionary("clear_loss_kwargs", self.clear_loss_kwargs)
        loss = self.get_training_loss()  # refuses a name or a setting that it doesn't know
        if loss.uses_posterior and not estimator.gives_posterior:
            raise ValueError(
                f"`clear_loss={self.clear_loss!r}` trains on the posterior over the true class, and the estimator "
                f"{self.clear_estimator!r} tells right from wrong alone. Use `clear_estimator='noise_model'` with it, "
                "or another loss: `preset('clear')` holds the settings of CleaR with gates, `preset('paper')` those "
                "that were published."
            )

    def ensemble_source(self, labels_tokens: bool) -> str:
        """`clear_ensemble_source`, or what stands for None: predictions for every token of the training set are too
        much to keep from epoch to epoch."""
        return self.clear_ensemble_source or ("step" if labels_tokens else "online")

    def in_force(self, labels_tokens: bool) -> dict[str, Any]:
        """The settings of the method by name, as far as they have an effect, with what stands for None."""
        idle = self.idle_settings()
        settings = {setting.name: getattr(self, setting.name) for setting in fields(ClearArguments)}
        settings["clear_ensemble_source"] = self.ensemble_source(labels_tokens)
        return {name: value for name, value in settings.items() if name not in idle}

    def idle_settings(self) -> dict[str, str]:
        """The settings that have no effect beside the others, by name, with what they would need."""
        loss = self.get_training_loss()
        may_have_gates = loss.uses_posterior and self.clear_min_explained > 0
        uses_target = loss.uses_target or may_have_gates
        needs = {
            "clear_folds": (self.clear_warmup == "cross_fit", "`clear_warmup='cross_fit'`"),
            "clear_evidence": (self.clear_warmup in BY_EVIDENCE, "`clear_warmup='evidence'` or 'cross_fit'"),
            "clear_warmup_random_routing": (self.clear_warmup != "linear_probe", "`clear_warmup='epochs'`"),
            "clear_gamma": (
                self.clear_routing != "none" or self.clear_warmup_random_routing or may_have_gates,
                "gates, such as `clear_routing='clean'`",
            ),
            "clear_min_explained": (loss.uses_posterior, "`clear_loss='posterior'`"),
            "clear_consistency_weight": (
                "consistency_weight" in loss.defaults or may_have_gates,
                "`clear_loss='clear'`",
            ),
            "clear_ensemble_source": (uses_target, "a loss that uses the ensemble, such as `clear_loss='clear'`"),
            "clear_ensemble_size": (
                uses_target or self.clear_loss_source == "online" or "ensemble_size" in loss.defaults,
                "a loss that uses the ensemble, or `clear_loss_source='online'`",
            ),
            "clear_ensemble_temperature": (uses_target, "a loss that uses the ensemble"),
            **dict.fromkeys(
                ("probe_epochs", "probe_learning_rate", "probe_batch_size", "probe_head", "probe_feature_memory"),
                (self.clear_warmup != "epochs", "another `clear_warmup` than 'epochs'"),
            ),
            "probe_features": (self.clear_warmup == "linear_probe", "`clear_warmup='linear_probe'`"),
            "probe_gce_q": (
                self.clear_warmup in ("linear_probe", "cross_fit"),
                "`clear_warmup='linear_probe'` or 'cross_fit'",
            ),
        }
        return {name: need for name, (acts, need) in needs.items() if not acts}

    def get_training_loss(self) -> TrainingLoss:
        """`clear_loss` with its settings: `clear_loss_kwargs`, and those that are arguments of their own, such as
        `clear_consistency_weight`."""
        settings = cast(dict[str, Any] | None, self.clear_loss_kwargs)  # `check_settings` has read a text
        return get_training_loss(self.clear_loss, settings, vars(self))


@dataclass
class ClearTrainingArguments(ClearArguments, TrainingArguments):
    """[`~transformers.TrainingArguments`] plus the arguments of CleaR ([`ClearArguments`]).

    One default differs from transformers': 10 epochs instead of 3. If there is a warm-up of plain epochs, 3 would be
    used up by it (`clear_warmup_epochs`).

    Raises:
        ValueError: if an argument of CleaR is out of its range.

    Example:

    ```python
    >>> args = ClearTrainingArguments(output_dir="out", num_train_epochs=8, clear_warmup_epochs=3, clear_gamma=0.9)
    ```
    """

    num_train_epochs: float = field(default=10.0, metadata={"help": "Total number of training epochs to perform."})
