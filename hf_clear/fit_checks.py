"""What speaks against the clean probabilities of a fit, and the share of wrong labels that it supports. No trainer.

An estimator answers whatever it is given: a mixture splits any losses in two. Here it is looked at whether the answer
is supported by what it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .estimators import LEAST_DIP, LEAST_SEPARATION, Groups, find_groups

_SIGNIFICANCE = 0.01  # one-sided: how rarely guessing passes for a model, or an accident for a lost class
_LEAST_AGREEMENT = 0.05  # with the given labels, as Cohen's kappa; a perfect model has 0.2 under 80 % symmetric noise
_LOST = 0.9  # share of a class's samples above which, called wrong, the class is lost
SAYS_NOTHING = "says_nothing"  # a kind of warning, after which no label has a score
_NAMED = 10  # classes that a message lists


@dataclass(frozen=True)
class FitFindings:
    """What a fit of clean probabilities supports, as `trainer.fit_findings`. All numbers are about the samples whose
    loss is finite.

    Attributes:
        warnings (`dict[str, str]`): what speaks against the clean probabilities, in plain words, by kind: `"no_better_
            than_chance"`, `"lost_classes"`, `"unexplained_classes"`, `"no_two_groups"`, `"says_nothing"`,
            `"non_finite_losses"`. Empty if nothing does.
        missing (`int`): samples whose loss is not finite: nothing is known of their labels.
        noise_rate (`float`, *optional*): the estimated share of wrong labels, 1 - the mean clean probability. None
            if the fit doesn't support one.
        noise_rate_interval (`tuple[float, float]`, *optional*): where it lies if the two groups of losses are right and
            wrong labels: from the smallest to the largest of four estimates (that above; the weight of the component of
            large losses; the share of clean probabilities below 0.5; the share of labels that the model doesn't
            predict), widened by the share of samples that two such groups confuse, and by two standard deviations of
            the count. It knows nothing of wrong labels that the model has learned by heart, or that look right to it.
        unsupported (`str`): why there is no noise rate; empty if there is one.
    """

    warnings: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    noise_rate: float | None = None
    noise_rate_interval: tuple[float, float] | None = None
    unsupported: str = "nothing was fitted"

    def logs(self) -> dict[str, float]:
        """Numbers for the log: `fit_warnings`, how many kinds there are; 1 under `fit_` and the name of each; the noise
        rate and the ends of its interval, if there is one."""
        logs: dict[str, float] = {"fit_warnings": len(self.warnings), **{f"fit_{kind}": 1 for kind in self.warnings}}
        if self.noise_rate is None or self.noise_rate_interval is None:  # there are both or none
            return logs
        low, high = self.noise_rate_interval
        rates = {"": self.noise_rate, "_low": low, "_high": high}
        return logs | {f"estimated_noise_rate{end}": rate for end, rate in rates.items()}

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FitFindings:
        """From [`as_dict`].

        Raises:
            ValueError: if these are no findings.
        """
        try:
            found = cls(**values)
            interval = found.noise_rate_interval
            interval = None if interval is None else (float(interval[0]), float(interval[1]))
            numbers = [found.noise_rate, *(interval or ())]
            is_one = (
                isinstance(found.warnings, dict)
                and all(isinstance(text, str) for text in [found.unsupported, *found.warnings.values()])
                and type(found.missing) is int
                and (found.noise_rate is None) == (interval is None)
                and all(number is None or 0 <= number <= 1 for number in numbers)
            )
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise ValueError(f"its findings are none: {error}") from error
        if not is_one:
            raise ValueError("its findings are none: a value is of a wrong type")
        return cls(dict(found.warnings), found.missing, found.noise_rate, interval, found.unsupported)


def without_scores(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arguments of [`~hf_clear.report.issue_table`] without what would be told of labels: nothing is known of any."""
    unknown = {"label_score": np.nan, "suggestion_confidence": np.nan, "predicted_label": -1}
    return {name: np.full_like(own, unknown[name]) if name in unknown else own for name, own in found.items()}


def check_fit(
    losses: np.ndarray,
    clean_probability: np.ndarray,
    labels: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    id2label: Mapping[int, str] | None = None,
    transition_matrix: np.ndarray | None = None,
    is_supported: bool = True,
) -> tuple[FitFindings, dict[str, float]]:
    """Looks at a fit.

    - *No better than chance*: the model's predictions agree with the given labels no more than guesses with the same
      frequencies would, plus 5 % of the way to full agreement (Cohen's kappa of 0.05), by a one-sided binomial test at
      1 %. A good model passes under heavy noise: it agrees with few given labels, but with more than that.
    - *Lost classes*: more than 90 % of a class has a clean probability below 0.5, and more than would come about in any
      class by accident, at 1 %, if all classes lost as large a share.
    - *Unexplained classes*: more than half of a class is called wrong, and by the noise matrix, most samples with this
      label have it rightly (by a one-sided binomial test at 1 %): the model may not have learned the class. Without a
      noise matrix, the share of all classes stands in.
    - *No two groups*: the losses have no two peaks. Both have to say so: a mixture of two Gaussians, by a separation
      above 2 (Ashman et al., 1994), and Hartigan's dip (1985) of the losses or of their logarithms, at 5 %, since a
      mixture splits skewed losses with one peak as well.
    - *Says nothing*: the estimate itself says that it tells nothing about the labels, as that of a noise model whose
      predictions make no label likelier, or of a mixture that finds one group.

    Args:
        losses, clean_probability (`np.ndarray` of shape `[num_samples]`): of the fit.
        labels (`np.ndarray` of shape `[num_samples]`, *optional*): the given classes; None if every token has one.
        predicted (`np.ndarray` of shape `[num_samples]`, *optional*): the classes that the model predicts.
        id2label (`Mapping[int, str]`, *optional*): the names of the classes, for messages, as in a model's config.
        transition_matrix (`np.ndarray` of shape `[num_labels, num_labels]`, *optional*): the noise matrix of the fit;
            row: true class; column: given label.
        is_supported (`bool`, *optional*, defaults to `True`): as the estimate itself says.

    Returns:
        `tuple[FitFindings, dict[str, float]]`: what was found, and numbers for the log: those of [`FitFindings.logs`],
        `loss_separation` and `loss_dip` (which reject one group above 2 and 0.51).
    """
    finite = np.isfinite(losses)
    missing, warnings = int((~finite).sum()), {}
    if missing:
        tokens = "They may be without any labelled token. Otherwise, look" if labels is None else "Look"
        warnings["non_finite_losses"] = (
            f"The losses of {missing} of {len(losses)} training samples are not finite. Nothing is known of their "
            f"labels: gates, if there are any, are closed for them, and a posterior says nothing. {tokens} at the "
            "learning rate, or train in float32 or bf16 instead of fp16."
        )
    if missing == len(losses):
        findings = FitFindings(warnings, missing, unsupported="no loss is finite")
        return findings, findings.logs()
    losses, p = losses[finite], clean_probability[finite]
    unsupported, agreement = [], None
    labels = None if labels is None else labels[finite]
    if labels is not None and predicted is not None:
        predicted = predicted[finite]
        agreement = float((predicted == labels).mean())
        if (found := no_better_than_chance(predicted, labels)) is not None:
            warnings["no_better_than_chance"], why = found
            unsupported.append(why)
    if labels is not None:
        lost = _lost_classes(labels, p)
        if len(lost):
            warnings["lost_classes"] = _of_lost(lost, labels, id2label)
            if np.isin(labels, lost).sum() > 0.1 * (p < 0.5).sum():
                unsupported.append(f"nearly all labels of whole classes are called wrong ({len(lost)} of them)")
        unexplained = np.setdiff1d(_unexplained_classes(labels, p, transition_matrix), lost)
        if len(unexplained):
            warnings["unexplained_classes"] = _of_unexplained(unexplained, labels, p, id2label, transition_matrix)
    if not is_supported:
        warnings[SAYS_NOTHING] = (
            "The estimate says nothing about the labels, by its own account. None gets a score (`label_issues()`), "
            "and that training takes them for correct is no finding."
        )
        unsupported.append("the estimate says nothing about the labels")
    groups = find_groups(losses)
    if not groups.are_two:
        unsupported.append("the losses show no two groups")
        if (p < 0.5).any() and is_supported:
            warnings["no_two_groups"] = _of_groups(groups, p, transition_matrix is not None)
    rate, interval = None, None
    if not unsupported:
        rate = float(1 - p.mean())
        interval = _interval(p, groups, agreement)
    findings = FitFindings(warnings, missing, rate, interval, "; ".join(unsupported))
    return findings, {**findings.logs(), "loss_separation": float(groups.separation), "loss_dip": groups.dip}


def no_better_than_chance(predicted: np.ndarray, labels: np.ndarray) -> tuple[str, str] | None:
    """A warning, and in a few words what it says, if a model predicts labels no better than guesses; else None.

    Args:
        predicted, labels (`np.ndarray` of shape `[num_samples]`): classes; what is negative agrees with nothing.
    """
    from scipy.stats import binom

    size, agreeing = len(labels), int((predicted == labels).sum())
    num_labels = int(max(predicted.max(), labels.max())) + 1
    shares = [np.bincount(values[values >= 0], minlength=num_labels) / size for values in (predicted, labels)]
    chance = float((shares[0] * shares[1]).sum())
    least = chance + _LEAST_AGREEMENT * (1 - chance)
    if binom.sf(agreeing - 1, size, least) <= _SIGNIFICANCE:
        return None
    counted = (
        f"The model predicts {agreeing} of {size} training samples as they are labelled; guesses with the same "
        f"frequencies get about {chance * size:.0f}"
    )
    needed = int(binom.isf(_SIGNIFICANCE, size, least)) + 1
    if needed > size:  # whatever it predicts
        few = f"{counted}. So few samples, or nearly all of one class, can't tell a good model from guesses."
        return few, "the samples are too few, or too much of one class, to tell the model from chance"
    learn = (
        "Its losses say next to nothing about labels. Let it learn for longer before the first fit "
        "(`clear_warmup_epochs`, `probe_epochs`), or with another learning rate."
    )
    told = f"{counted}, and a model that tells anything would get {needed} or more. {learn}"
    return told, "the model is no better than chance on the given labels"


def _lost_classes(labels: np.ndarray, p: np.ndarray) -> np.ndarray:
    from scipy.stats import binom

    classes, of_sample = np.unique(labels, return_inverse=True)
    wrong, size = np.bincount(of_sample, weights=p < 0.5), np.bincount(of_sample)
    accident = binom.sf(wrong - 1, size, (p < 0.5).mean()) * len(classes)  # of many small classes, some have no luck
    return classes[(wrong > _LOST * size) & (accident <= _SIGNIFICANCE)]


def _unexplained_classes(labels: np.ndarray, p: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    from scipy.stats import binom

    labels, p = labels[labels >= 0], p[labels >= 0]
    if len(labels) == 0:
        return labels
    num_labels = int(labels.max()) + 1 if matrix is None else len(matrix)
    size = np.bincount(labels, minlength=num_labels)
    wrong = np.bincount(labels, weights=p < 0.5, minlength=num_labels)
    if matrix is None:
        expected = np.full(num_labels, (p < 0.5).mean())
    else:
        prior = np.linalg.lstsq(matrix.T, size / len(labels), rcond=None)[0].clip(0)  # of true classes: given = T' true
        given = (prior[:, None] * matrix).sum(axis=0)
        expected = 1 - prior * np.diag(matrix) / np.maximum(given, 1e-12)  # the share of wrong labels in each
    accident = binom.sf(wrong - 1, size, expected.clip(0, 1)) * (size > 0).sum()
    return np.flatnonzero((wrong > 0.5 * size) & (expected < 0.5) & (accident <= _SIGNIFICANCE))


def _of_unexplained(
    classes: np.ndarray, labels: np.ndarray, p: np.ndarray, names: Any, matrix: np.ndarray | None
) -> str:
    beyond = f"and {(p < 0.5).mean():.0%} of all" if matrix is None else "which the noise matrix doesn't explain"
    return (
        f"More than half of the labels of {len(classes)} of {len(np.unique(labels))} classes are called wrong, "
        f"{beyond}: label {_named(classes, names)}. The model may not have learned them: look at some of these samples "
        "(`label_issues()`) before you trust the others."
    )


def _of_lost(lost: np.ndarray, labels: np.ndarray, names: Any) -> str:
    return (
        f"More than {_LOST:.0%} of the labels of {len(lost)} of {len(np.unique(labels))} classes are called wrong: "
        f"label {_named(lost, names)}. It is likelier that the model has not learned them than that nearly all of "
        "their labels are wrong. Let it learn for longer before the fit "
        "(`clear_warmup_epochs`, `probe_epochs`), or try the estimator 'per_class_gaussian_mixture'."
    )


def _named(classes: np.ndarray, names: Any) -> str:
    listed = [f"{label}{_name_of(label, names)}" for label in classes[:_NAMED].tolist()]
    return ", ".join(listed) + ", ..." * (len(classes) > _NAMED)


def _name_of(label: int, names: Any) -> str:
    """Not one that transformers makes up (`LABEL_0`)."""
    name = names.get(label) if isinstance(names, Mapping) else None
    return f" ({name!r})" if isinstance(name, str) and name != f"LABEL_{label}" else ""


def _of_groups(groups: Groups, p: np.ndarray, has_matrix: bool) -> str:
    found = "no mixture could be fitted"
    if np.isfinite(groups.separation):
        found = (
            f"separation {groups.separation:.2g}, dip {groups.dip:.2g}; it takes more than {LEAST_SEPARATION:g} and "
            f"{LEAST_DIP}"
        )
    why = "a mixture splits any losses in two"
    if has_matrix:
        why = "the noise matrix alone says so, which explains doubts of the model and wrong labels alike"
    return (
        f"The losses of {len(p)} training samples show no two groups ({found}), and yet {(p < 0.5).sum()} labels are "
        f"called wrong: {why}. How many labels are wrong can't be told. Take "
        "`label_issues()` for an order in which to look at labels, not for a list of wrong ones. Groups may show after "
        "more or fewer epochs (`clear_warmup_epochs`, `probe_epochs`)."
    )


def _interval(p: np.ndarray, groups: Groups, agreement: float | None) -> tuple[float, float]:
    """See [`FitFindings`]."""
    from scipy.stats import norm

    estimates = [1 - p.mean(), groups.weight, (p < 0.5).mean()] + ([] if agreement is None else [1 - agreement])
    spread = norm.cdf(-groups.separation / 2) + 2 * np.sqrt((p * (1 - p)).sum()) / len(p)
    return float(max(min(estimates) - spread, 0)), float(min(max(estimates) + spread, 1))
