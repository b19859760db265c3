"""The contract of sources of evidence: [`check_evidence`]."""

from __future__ import annotations

import torch

from .._names import IGNORED_LABEL
from ..evidence import EVIDENCE_SOURCES, EvidenceSource
from ..evidence._registry import EvidenceFunction
from ._random_state import unchanged_random_state

_SAMPLES, _DIM, _CLASSES = 400, 64, 4
_LEAST_ACCURACY = 0.7  # on classes that are far apart
_MOST_AGREEMENT = 0.35  # with labels that are drawn at random; 0.25 by chance, with a standard error of 0.02


def check_evidence(source: EvidenceFunction | EvidenceSource | str) -> None:
    """Makes sure that a source of evidence can be relied on.

    On small synthetic sets:

    - it returns one row of scores for each sample, and finds classes that are far apart, with 30 % wrong labels;
    - a row doesn't depend on the sample's own label: on features and labels that have nothing to do with each other,
      scores agree with the labels no more than by chance, although a model that has seen them could learn them by
      heart;
    - it answers if samples have no label (-100), a class has one sample or none, or features are not finite;
    - the same arrays and seed give the same scores; it neither changes what it is given, nor the global random state.

    Args:
        source (`Callable`, [`EvidenceSource`] or `str`): a function, or the name of a registered source.

    Raises:
        AssertionError: that says what is broken.
        ValueError: if no source of this name is registered.

    Example:

    ```python
    >>> check_evidence("mean_probe")
    ```
    """
    if isinstance(source, str):
        source = EVIDENCE_SOURCES.find(source)
    elif not isinstance(source, EvidenceSource):
        source = EvidenceSource(getattr(source, "__name__", type(source).__name__), source, "mean")
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(_CLASSES, (_SAMPLES,), generator=generator)
    features = torch.randn(_SAMPLES, _DIM, generator=generator)
    apart = features + 6 * torch.nn.functional.one_hot(true, _DIM)
    is_wrong = torch.rand(_SAMPLES, generator=generator) < 0.3
    labels = torch.where(is_wrong, (true + 1) % _CLASSES, true)
    _ask(source, apart, labels)  # not the first call that is watched: imports may draw

    with unchanged_random_state(f"The source of evidence {source.name!r}"):
        given = apart.clone(), labels.clone()
        scores = _ask(source, *given)
        assert torch.equal(given[0], apart) and torch.equal(given[1], labels), "it changes what it is given"
        again = _ask(source, apart, labels)
        assert torch.allclose(scores, again, rtol=1e-3, atol=1e-3, equal_nan=True), "asked twice, it gives two answers"
        accuracy = float((scores.argmax(dim=1) == true).float().mean())
        assert accuracy >= _LEAST_ACCURACY, f"it finds {accuracy:.0%} of classes that are far apart"

        drawn = torch.randint(_CLASSES, (_SAMPLES,), generator=generator)
        agreement = float((_ask(source, features, drawn).argmax(dim=1) == drawn).float().mean())
        assert agreement <= _MOST_AGREEMENT, (
            f"its scores agree with {agreement:.0%} of labels that were drawn at random: it has seen the label of the "
            "sample that it scores. Fit it without that sample, in folds for instance."
        )

        odd = labels.clone()
        odd[:40], odd[odd == 2], odd[50] = IGNORED_LABEL, 1, 2  # a class with one sample
        broken = apart.clone()
        broken[60:64] = torch.nan
        finite = _ask(source, broken, odd).isfinite().all(dim=1)
        others = torch.ones(_SAMPLES, dtype=torch.bool)
        others[60:64] = False
        assert finite[others].float().mean() > 0.9, "a few samples without label or features leave most without scores"


def _ask(source: EvidenceSource, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    try:
        return source(features, labels, _CLASSES + 1, 0)  # a class more than there are labels of
    except Exception as error:
        raise AssertionError(f"it fails: {type(error).__name__}: {error}") from error
