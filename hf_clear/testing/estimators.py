"""The contract of estimators: [`check_estimator`]."""

from __future__ import annotations

import gc
import weakref

import numpy as np

from ..estimators import CleanProbabilityEstimate, Estimator, NamedEstimator, SampleEvidence, get_estimator
from ._random_state import unchanged_random_state

_SAMPLES, _CLASSES, _WRONG = 400, 4, 0.3  # of the synthetic set; a fifth class stays empty
_AUROC = 0.9
_ORDER = 0.02  # mean difference of clean probabilities that another order may make

Arrays = dict[str, np.ndarray]


def check_estimator(
    estimator: Estimator | NamedEstimator | str,
    uses_features: bool = False,
    uses_labels: bool = False,
    uses_held_out: bool = False,
) -> None:
    """Makes sure that an estimator of clean probabilities can be trained with.

    It runs on a small synthetic set on which losses, predictions, and features all tell the wrong labels, in float32 as
    in training, and on the edge cases that occur there:

    - it returns one clean probability in [0, 1] for each sample, and diagnostics that are numbers;
    - nearly every wrong label gets a smaller clean probability than nearly every correct one (AUROC above 0.9), also
      if a few losses are NaN or infinite;
    - it also answers if no loss is finite, all losses are the same, there is one sample or one class, or a class has
      one sample;
    - the same evidence gives the same answer, whatever came between, and the order of the samples hardly matters;
    - it neither changes nor keeps what it is given, nor the global random state;
    - it does without `features`, `labels` and `held_out_clean_probability` unless it says that it uses them;
    - it does without the last in any case, since the evidence may tell nothing.

    Args:
        estimator (`Callable[[SampleEvidence], CleanProbabilityEstimate]` or `str`): a function, a [`NamedEstimator`],
            or the name of a registered one.
        uses_features (`bool`, *optional*, defaults to `False`): as in [`register_estimator`]; read for a bare function.
        uses_labels, uses_held_out (`bool`, *optional*, defaults to `False`): the same.

    Raises:
        AssertionError: that says what is broken and on which evidence.
        ValueError: if no estimator of this name is registered.

    Example:

    ```python
    >>> check_estimator("gaussian_mixture+knn")
    >>> check_estimator(lambda e: CleanProbabilityEstimate(np.exp(-np.nan_to_num(e.losses, nan=np.inf))))
    ```
    """
    if isinstance(estimator, str):
        estimator = get_estimator(estimator)
    elif not isinstance(estimator, NamedEstimator):
        name = getattr(estimator, "__name__", type(estimator).__name__)
        estimator = NamedEstimator(name, estimator, uses_features, uses_labels, uses_held_out=uses_held_out)
    arrays, is_wrong = _synthetic()
    _check_ranks(estimator, arrays, is_wrong)
    with unchanged_random_state(f"The estimator {estimator.name!r}"):  # not the first call: imports may draw
        _check_edge_cases(estimator, arrays)
        _check_repeats(estimator, arrays)
        _check_order(estimator, arrays)
        _check_inputs(estimator, arrays)


def _synthetic(seed: int = 0) -> tuple[Arrays, np.ndarray]:
    """The fields of the evidence, and which labels are wrong (`[num_samples]`, bool)."""
    rng = np.random.default_rng(seed)
    true, is_wrong = rng.integers(0, _CLASSES, _SAMPLES), rng.random(_SAMPLES) < _WRONG
    labels = np.where(is_wrong, (true + rng.integers(1, _CLASSES, _SAMPLES)) % _CLASSES, true)
    odds = np.exp(rng.normal(0, 0.5, (_SAMPLES, _CLASSES + 1)) + 4 * np.eye(_CLASSES + 1)[true])
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    losses = -np.log(probabilities[np.arange(_SAMPLES), labels])
    arrays = {
        "losses": losses,
        "mean_losses": losses + rng.normal(0, 0.05, _SAMPLES),
        "probabilities": probabilities,
        "features": rng.normal(size=(_CLASSES, 16))[true] + rng.normal(0, 0.3, (_SAMPLES, 16)),
        "held_out_clean_probability": np.where(rng.random(_SAMPLES) < 0.1, rng.random(_SAMPLES), ~is_wrong),
    }
    return {"labels": labels, **{name: values.astype(np.float32) for name, values in arrays.items()}}, is_wrong


def _evidence(estimator: NamedEstimator, arrays: Arrays) -> SampleEvidence:
    """Features and evidence from outside the sample for those alone that ask for them."""
    asked = {"features": estimator.uses_features, "held_out_clean_probability": estimator.uses_held_out}
    given = {name: values for name, values in arrays.items() if asked.get(name, True)}
    return SampleEvidence(**{name: values.copy() for name, values in given.items()})


def _estimate(estimator: NamedEstimator, evidence: SampleEvidence, where: str) -> CleanProbabilityEstimate:
    try:
        return estimator(evidence)
    except Exception as error:
        raise AssertionError(
            f"The estimator {estimator.name!r} (uses_features={estimator.uses_features}, "
            f"uses_labels={estimator.uses_labels}) fails on {where}: {type(error).__name__}: {error}"
        ) from error


def _check_ranks(estimator: NamedEstimator, arrays: Arrays, is_wrong: np.ndarray) -> None:
    from sklearn.metrics import roc_auc_score

    for given, where in [
        (arrays, f"an easy set of {_SAMPLES} samples"),
        (_without(arrays, 3), "an easy set with 3 losses that are NaN or infinite"),
    ]:
        probability = _estimate(estimator, _evidence(estimator, given), where).clean_probability
        finite = np.isfinite(given["losses"])
        auroc = roc_auc_score(~is_wrong[finite], probability[finite])
        assert auroc > _AUROC, (
            f"The estimator {estimator.name!r} tells wrong labels from correct ones with an AUROC of {auroc:.2f} on "
            f"{where}; it has to be above {_AUROC}."
            + (" Is it the probability that a label is wrong?" if auroc < 1 - _AUROC else "")
        )


def _check_edge_cases(estimator: NamedEstimator, arrays: Arrays) -> None:
    same = np.full(_SAMPLES, 0.7, dtype=np.float32)
    lonely = np.where(np.arange(_SAMPLES) == 7, _CLASSES, arrays["labels"])
    cases = {
        "one sample": {name: values[:1] for name, values in arrays.items()},
        "losses that are all the same": {**arrays, "losses": same, "mean_losses": same},
        "losses of which none is finite": _without(arrays, _SAMPLES),
        "a class of one sample": {**arrays, "labels": lonely},
        "labels that are all the same": {**arrays, "labels": np.zeros_like(lonely)},
    }
    if estimator.uses_held_out:
        told = arrays["held_out_clean_probability"]
        cases["no evidence from outside the sample"] = {
            name: values for name, values in arrays.items() if values is not told
        }
        cases["evidence of no sample"] = {**arrays, "held_out_clean_probability": np.full_like(told, np.nan)}
        cases["evidence of half of the samples"] = {
            **arrays,
            "held_out_clean_probability": np.where(np.arange(_SAMPLES) % 2, told, np.nan),
        }
    if not estimator.uses_labels:
        tokens = "a token-level task, without labels and probabilities (an estimator that needs them says uses_labels)"
        cases[tokens] = {name: arrays[name] for name in ("losses", "mean_losses", "features")}
    for where, given in cases.items():
        _estimate(estimator, _evidence(estimator, given), where)


def _check_repeats(estimator: NamedEstimator, arrays: Arrays) -> None:
    first = _estimate(estimator, _evidence(estimator, arrays), "an easy set")
    _estimate(estimator, _evidence(estimator, _synthetic(seed=1)[0]), "another set")
    again = _estimate(estimator, _evidence(estimator, arrays), "an easy set, again")
    same = np.array_equal(first.clean_probability, again.clean_probability)
    assert same and str(first.diagnostics) == str(again.diagnostics), (
        f"The estimator {estimator.name!r} gives another answer on the same evidence: it draws without a fixed seed, "
        "or remembers what it saw before."
    )


def _check_order(estimator: NamedEstimator, arrays: Arrays) -> None:
    order = np.random.default_rng(0).permutation(_SAMPLES)
    permuted = {name: values[order] for name, values in arrays.items()}
    first = _estimate(estimator, _evidence(estimator, arrays), "an easy set").clean_probability
    other = _estimate(estimator, _evidence(estimator, permuted), "an easy set in another order").clean_probability
    difference = np.abs(other - first[order]).mean()
    assert difference <= _ORDER, (
        f"The estimator {estimator.name!r} goes by the order of the samples: in another order, their clean "
        f"probabilities differ by {difference:.3f} on average (at most {_ORDER} is tolerated)."
    )


def _check_inputs(estimator: NamedEstimator, arrays: Arrays) -> None:
    evidence = _evidence(estimator, arrays)
    given = {name: values for name, values in vars(evidence).items() if values is not None}
    references = [weakref.ref(value) for value in (evidence, *given.values())]
    _estimate(estimator, evidence, "an easy set")
    changed = [name for name in given if not np.array_equal(given[name], arrays[name])]
    assert not changed, f"The estimator {estimator.name!r} changes the {' and '.join(changed)} that it is given."
    del evidence, given
    gc.collect()
    assert all(reference() is None for reference in references), (
        f"The estimator {estimator.name!r} keeps what it is given: its features can take gigabytes, and losses change "
        "after the call."
    )


def _without(arrays: Arrays, count: int) -> Arrays:
    """Losses that are not finite, with the predictions that belong to them, for the first `count` samples."""
    arrays = {name: values.copy() for name, values in arrays.items()}
    for name in ("losses", "mean_losses", "probabilities"):
        arrays[name][:count] = np.nan
    for name in ("losses", "mean_losses"):
        arrays[name][1:count:2] = np.inf
    return arrays
