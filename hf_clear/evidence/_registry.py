"""Sources of evidence by name: [`register_evidence`] adds one, [`evidence_sources`] finds several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .._callables import check_call
from .._registry import Registry

EvidenceFunction = Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor]
FEATURES = ("head", "mean")


@dataclass(frozen=True)
class EvidenceSource:
    """A source of evidence: called with features, labels, the number of classes and a seed, see [`register_evidence`].

    Attributes:
        name (`str`): as in `clear_evidence`.
        function (`Callable`): what is called.
        features (`str`): which features of the frozen model it sees, `"head"` or `"mean"`.

    Raises:
        ValueError: when called, if the function doesn't return one row of scores for each sample.
    """

    name: str
    function: EvidenceFunction
    features: str

    def __call__(self, features: torch.Tensor, labels: torch.Tensor, num_labels: int, seed: int) -> torch.Tensor:
        scores = self.function(features, labels, num_labels, seed)
        expected = (len(labels), num_labels)
        if not isinstance(scores, torch.Tensor) or scores.shape != expected:
            got = list(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
            raise ValueError(
                f"The source of evidence {self.name!r} has to return scores of shape {list(expected)}, one row for "
                f"each sample; got {got}."
            )
        return scores.float()


EVIDENCE_SOURCES: Registry[EvidenceSource] = Registry("source of evidence", "register_evidence")


def register_evidence(name: str, function: EvidenceFunction, features: str = "mean") -> None:
    """Makes a source of evidence known by a name, for `clear_evidence`.

    Args:
        name (`str`): not taken, and without `"+"`, which stands between names.
        function (`Callable`): `function(features, labels, num_labels, seed)` returns class scores (logits), a tensor
            `[num_samples, num_labels]`. The row of a sample must not depend on its own label: it is of a model that
            was fitted without it. `features` is a float tensor `[num_samples, dim]`, `labels` a tensor of whole numbers
            `[num_samples]`, -100 if a sample has none. A row that is not finite says nothing. How large scores are
            doesn't matter: the noise model fits a scale for each source.
        features (`str`, *optional*, defaults to `"mean"`): `"mean"` for the last hidden states of the frozen model,
            averaged over the tokens; `"head"` for what its head makes its scores from.

    Raises:
        ValueError: if the name is empty, taken or holds `"+"`, there are no such features, or the function doesn't take
            these arguments.

    Example:

    ```python
    >>> def nearest_centroid(features, labels, num_labels, seed): ...
    >>> register_evidence("nearest_centroid", nearest_centroid)
    >>> ClearTrainingArguments(output_dir="out", clear_evidence="mean_probe+nearest_centroid")
    ```
    """
    if "+" in str(name) or name == "none":
        raise ValueError(
            f"The name of a source of evidence stands between '+', and 'none' for no source: {name!r} can't be one."
        )
    if features not in FEATURES:
        raise ValueError(f"`features` of the source of evidence {name!r} has to be 'head' or 'mean'; got {features!r}.")
    check_call(f"The source of evidence {name!r}", function, "features", "labels", "num_labels", "seed")
    EVIDENCE_SOURCES.add(name, EvidenceSource(name, function, features))


def evidence_sources(names: str) -> list[EvidenceSource]:
    """The sources of `"mean_probe+head_probe"`, in order; of `"none"`, none.

    Raises:
        ValueError: if there is no such source, or one is named twice.
    """
    if names == "none":
        return []
    parts = names.split("+") if isinstance(names, str) else [names]
    if len(set(map(str, parts))) < len(parts):
        raise ValueError(f"`clear_evidence` names a source twice: {names!r}.")
    return [EVIDENCE_SOURCES.find(part, "clear_evidence") for part in parts]
