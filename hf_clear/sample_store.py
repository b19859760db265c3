"""What CleaR knows about each training sample: a table keyed by sample index, on the training device."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save as serialize

from ._names import CLEAR_STATE, IGNORED_LABEL
from .class_tables import finite_rows, merge_rows, table_type
from .files import write_atomically
from .files.checksums import sealed
from .files.states import (
    FLOAT_TYPES,
    OPTIONAL_TENSORS,
    SAMPLE_TENSORS,
    WAY_OUT,
    are_probabilities,
    damaged,
    narrowed,
    read_sample_tensors,
    read_state,
)
from .fit_checks import SAYS_NOTHING, FitFindings, without_scores

STATE_NAME = CLEAR_STATE
FINAL_STATE_NAME = f"_{CLEAR_STATE}"  # in `output_dir`; a push leaves out what begins with "_"
_FORMAT = "hf_clear.sample_store.v5"
_ROWS = 1024  # of a table that are worked on at a time
_PAST_WEIGHT = 0.9  # of the exponential mean of losses (official CleaR code, adapter solver)
CLASS_TABLES = ("targets", "posterior", "transition_matrix")
_LAST_EPOCH = 2**31


@dataclass
class SampleStore:
    """The state of every training sample.

    Attributes:
        losses (`torch.Tensor` of shape `[num_samples]`): loss at the last refit, in nats; NaN before the first.
        clean_probability (`torch.FloatTensor` of shape `[num_samples]`): 1 before the first refit. 0 for a sample whose
            loss is not finite, of which nothing is known: no module acts on it, see [`known_clean_probability`].
        labels (`torch.LongTensor` of shape `[num_samples]`): the given labels; -100 before the first refit, and if
            every token has its own.
        mean_losses (`torch.Tensor` of shape `[num_samples]`): exponential mean of the losses over the refits, with
            weight 0.9 on the past, in nats; NaN before the first.
        suggestion (`torch.LongTensor` of shape `[num_samples]`, *optional*): the most probable true class at the last
            refit: by the estimator's posterior, or if it gives none, by the predictions that it was given; -100 if
            nothing is known. None before the first refit, and if every token has a label.
        suggestion_confidence (`torch.FloatTensor` of shape `[num_samples]`, *optional*): its probability; NaN if
            nothing is known.
        neighbors_disagree (`torch.BoolTensor` of shape `[num_samples]`, *optional*): whether another label is
            more frequent among the nearest neighbors in the features of the frozen model; None if nobody looked.
        held_out_clean_probability (`torch.FloatTensor` of shape `[num_samples]`, *optional*): by the evidence from
            outside the sample alone; NaN for a sample of which it says nothing. None if there is none.
        targets (`torch.Tensor` of shape `[num_samples, num_labels]`, *optional*): ensemble targets of the sources
            `"epoch"` and `"online"`; a row of zeros if there is none. In float32, or float16 if there are more than
            [`~hf_clear.class_tables.FULL_PRECISION`] numbers.
        posterior (`torch.Tensor` of shape `[num_samples, num_labels]`, *optional*): the probability of each true class
            at the last refit, if the estimator gives one; in the same type. A row of zeros if nothing is known.
        transition_matrix (`torch.Tensor` of shape `[num_labels, num_labels]`, *optional*): the noise matrix of the last
            refit, if the estimator gives one; row: true class; column: given label.
        keeps_gates (`bool`): whether training has followed a posterior until its predictions lost their skill. As a
            model learns wrong labels by heart, a posterior takes them for right: gates stay then.
        is_provisional (`bool`): whether the posterior is that of weak evidence, which a model that has begun anew
            follows for one epoch. The next refit decides.
        gates_open (`bool`): whether modules act on all samples, whatever their clean probability: neither losses nor
            evidence are two groups.
        fitted_epoch (`int`): the epoch (from 0) at whose beginning the mixture was fitted last; -1 before the first.
        identity (`dict[str, Any]`, *optional*): of the run that the samples are of, as JSON
            ([`~hf_clear.identity.training.Identity`]).
        findings (`FitFindings`): what speaks against the clean probabilities of that fit.
    """

    losses: torch.Tensor
    clean_probability: torch.Tensor
    labels: torch.Tensor
    mean_losses: torch.Tensor
    suggestion: torch.Tensor | None = None
    suggestion_confidence: torch.Tensor | None = None
    neighbors_disagree: torch.Tensor | None = None
    held_out_clean_probability: torch.Tensor | None = None
    targets: torch.Tensor | None = None
    posterior: torch.Tensor | None = None
    transition_matrix: torch.Tensor | None = None
    keeps_gates: bool = False
    is_provisional: bool = False
    gates_open: bool = False
    fitted_epoch: int = -1
    identity: dict[str, Any] | None = field(default=None, repr=False)
    labels_before: torch.Tensor | None = field(default=None, repr=False)  # see `add_losses`
    findings: FitFindings = field(default_factory=FitFindings)
    _is_new: torch.Tensor | None = field(default=None, repr=False)  # what this process added since the last `merge`

    @classmethod
    def empty(
        cls, num_samples: int, device: torch.device | str = "cpu", identity: dict[str, Any] | None = None
    ) -> SampleStore:
        return cls(
            losses=torch.full((num_samples,), float("nan"), device=device),
            clean_probability=torch.ones(num_samples, device=device),
            labels=torch.full((num_samples,), IGNORED_LABEL, device=device),
            mean_losses=torch.full((num_samples,), float("nan"), device=device),
            identity=identity,
        )

    @property
    def is_fitted(self) -> bool:
        return self.fitted_epoch >= 0

    def known_clean_probability(self) -> torch.Tensor:
        """Clean probabilities, and NaN for a sample whose loss is not finite: that is no evidence of a wrong label."""
        return self.clean_probability.masked_fill(~self.losses.isfinite(), torch.nan)

    def issue_columns(self, per_token: bool = False) -> dict[str, np.ndarray]:
        """What [`~hf_clear.report.issue_table`] asks for, `[num_samples]` each, by the name of the argument. If
        the last fit says nothing about the labels, there are no scores and no suggestions.

        Args:
            per_token (`bool`, *optional*, defaults to `False`): whether every token has a label: then there is none to
                show, and none to suggest.
        """
        known = self.known_clean_probability()
        columns = {"label_score": known, "clean_probability": known, "loss": self.losses}
        if not per_token:
            columns["given_label"] = self.labels
            of_labels = {
                "predicted_label": self.suggestion,
                "suggestion_confidence": self.suggestion_confidence,
                "neighbors_disagree": self.neighbors_disagree,
            }
            columns |= {name: tensor for name, tensor in of_labels.items() if tensor is not None}
        found = {name: tensor.cpu().numpy() for name, tensor in columns.items()}
        return without_scores(found) if SAYS_NOTHING in self.findings.warnings else found

    def add_losses(self, losses: torch.Tensor, labels: torch.Tensor) -> None:
        """Takes in what a refit's pass found; both `[num_samples]`. A mean starts with the first finite loss.

        Raises:
            ValueError: if labels are others than `labels_before`, those of the run that this one goes on with; it is
                None if they could be compared before training.
        """
        if self.labels_before is not None:
            before, self.labels_before = self.labels_before, None
            changed = (before >= 0) & (labels.to(before) >= 0) & (before != labels.to(before))
            if changed.any():
                row = int(changed.nonzero()[0])
                raise ValueError(
                    f"Sample {row} has the label {int(labels[row])}, and had {int(before[row])} in the run that this "
                    f"one goes on with, as have {int(changed.sum()) - 1} other samples. Start again, without "
                    "`resume_from_checkpoint`, or go on with the labels that the run began with."
                )
        self.losses.copy_(losses)
        self.labels.copy_(labels)
        mean = _PAST_WEIGHT * self.mean_losses + (1 - _PAST_WEIGHT) * self.losses
        self.mean_losses.copy_(torch.where(self.mean_losses.isfinite(), mean, self.losses))

    def note_held_out(self, clean_probability: torch.Tensor) -> None:
        """Takes in what the evidence from outside the sample says, `[num_samples]`."""
        self.held_out_clean_probability = clean_probability.to(self.losses.device)

    def add_predictions(
        self, index: torch.Tensor, probabilities: torch.Tensor, labels: torch.Tensor, window: int
    ) -> None:
        """Takes a batch's predictions into the running mean `targets` (temporal ensembling, Laine and Aila, 2017): with
        weight `1 / window`, or 1 if a sample is new.

        Args:
            index (`torch.LongTensor` of shape `[batch]`): which samples.
            probabilities (`torch.Tensor` of shape `[batch, num_labels]`): if a row is not finite, the sample's mean
                starts anew.
            labels (`torch.LongTensor` of shape `[batch]`): the given labels.
            window (`int`): of how many predictions the mean is, roughly.
        """
        if self.targets is None:
            shape = (len(self.losses), probabilities.shape[1])
            self.targets = probabilities.new_zeros(shape, dtype=table_type(*shape))
        if self._is_new is None:
            self._is_new = torch.zeros_like(self.labels, dtype=torch.bool)
        past = self.targets[index].to(probabilities.dtype)
        is_first = past.sum(dim=1, keepdim=True) == 0
        mean = torch.where(is_first, probabilities, past + (probabilities - past) / window)
        self.targets[index] = finite_rows(mean).to(self.targets.dtype)
        self.labels[index], self._is_new[index] = labels, True

    def begin_predictions(self, index: torch.Tensor, probabilities: torch.Tensor, labels: torch.Tensor) -> None:
        """Lets the running mean of some samples begin, with predictions that every process has: they aren't merged.

        Args:
            index (`torch.LongTensor` of shape `[rows]`): which samples.
            probabilities (`torch.Tensor` of shape `[num_samples, num_labels]`), labels (`torch.LongTensor` of shape
                `[num_samples]`): of all samples, on the CPU.
        """
        is_new = self._is_new
        for part in index.split(_ROWS):  # no copy of the whole table
            rows = part.cpu()
            given = probabilities[rows].float().to(part.device), labels[rows].to(part.device)
            self.add_predictions(part, *given, window=1)
        self._is_new = is_new

    def merge(self, accelerator: Accelerator) -> None:
        """Gives every process what the others added; a sample that several of them saw gets their mean. To be called by
        all processes: one that added nothing gets what the others did."""
        if accelerator.num_processes == 1:
            return
        own = 0 if self._is_new is None or self.targets is None else self.targets.shape[1]
        num_labels = int(accelerator.gather(torch.tensor([own], device=accelerator.device)).max())
        if num_labels == 0:
            return
        if self.targets is None:
            shape = (len(self.losses), num_labels)
            self.targets = torch.zeros(shape, dtype=table_type(*shape), device=self.losses.device)
        if self._is_new is None:
            self._is_new = torch.zeros_like(self.labels, dtype=torch.bool)
        merge_rows(accelerator, self._is_new, self.labels, self.targets)
        self._is_new = None

    def sample_tensors(self) -> dict[str, torch.Tensor]:
        """What a file holds of the samples, targets aside: with up to 32,768 classes 14 bytes a sample, 4 for its
        suggestion, and 4 if there is evidence. [`read_sample_tensors`] is the way back."""
        tensors = {name: getattr(self, name) for name in (*SAMPLE_TENSORS, *OPTIONAL_TENSORS)}
        return {name: narrowed(name, tensor) for name, tensor in tensors.items() if tensor is not None}

    def save(self, path: str | os.PathLike, with_tables: bool = True) -> None:
        """Writes the state as safetensors, atomically; without the tables of samples by classes, which only a run that
        goes on needs, if `with_tables` is False."""
        tables = {name: getattr(self, name) for name in CLASS_TABLES if with_tables}
        tensors = self.sample_tensors() | {name: table for name, table in tables.items() if table is not None}
        plain = {
            "fitted_epoch": self.fitted_epoch,
            "keeps_gates": self.keeps_gates,
            "is_provisional": self.is_provisional,
            "gates_open": self.gates_open,
            "identity": self.identity,
            "findings": self.findings.as_dict(),
        }
        metadata = {"format": _FORMAT, "state": json.dumps(plain)}
        content = serialize({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
        write_atomically(path, *sealed(content))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        num_samples: int | None = None,
        device: torch.device | str = "cpu",
        num_labels: int | None = None,
    ) -> SampleStore:
        """Reads what [`~SampleStore.save`] wrote.

        Args:
            num_samples (`int`, *optional*): that there have to be; not looked at by default.
            num_labels (`int`, *optional*): classes of the model, that the targets have to be for.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, is not a state of CleaR, or belongs to another training set or model.
        """
        tensors, state = read_state(path, _FORMAT, "ClearTrainer with routing on", SAMPLE_TENSORS, device)
        num_samples = len(tensors["losses"]) if num_samples is None and tensors["losses"].ndim else num_samples or 0
        of_samples = read_sample_tensors(path, tensors, num_samples)
        largest = int(of_samples["labels"].max()) if num_samples else IGNORED_LABEL
        if num_labels is not None and largest >= num_labels:
            raise damaged(path, f"labels holds {largest}, and the model has {num_labels} classes")
        tables = {name: tensors[name] for name in CLASS_TABLES if name in tensors}
        for name, table in tables.items():
            rows = table.shape[-1] if name == "transition_matrix" else num_samples
            if table.ndim != 2 or len(table) != rows or table.dtype not in FLOAT_TYPES:
                raise damaged(path, f"{name} is a {table.dtype} of shape {list(table.shape)}")
            if num_labels is not None and table.shape[1] != num_labels:
                raise ValueError(
                    f"{path} holds {name} for {table.shape[1]} classes while the model has {num_labels}: resume "
                    f"with the model that the run began with. {WAY_OUT}"
                )
            if not are_probabilities(table):
                raise damaged(path, f"{name} holds what is no probability")
        epoch = state.get("fitted_epoch")
        if type(epoch) is not int or not -1 <= epoch <= _LAST_EPOCH:
            raise damaged(path, f"fitted_epoch is {epoch!r}, which is no epoch")
        plain: dict[str, Any] = {"fitted_epoch": epoch, "identity": state.get("identity")}
        plain |= {name: state.get(name) is True for name in ("keeps_gates", "is_provisional", "gates_open")}
        return cls(**{**of_samples, **tables, **plain, "findings": read_findings(path, state)})


def read_findings(path: str | os.PathLike, state: dict[str, Any]) -> FitFindings:
    """What the plain state of a file says of the fit; nothing, in one that was written before there were findings."""
    try:
        return FitFindings.from_dict(state.get("findings") or {})
    except ValueError as error:
        raise damaged(path, str(error)) from error
