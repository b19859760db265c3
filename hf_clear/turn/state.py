"""How far the phases of TURN before fine-tuning have come, as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as serialize

from ..files import write_atomically
from ..files.checksums import sealed
from ..files.states import OPTIONAL_TENSORS, SAMPLE_TENSORS, damaged, read_sample_tensors, read_state
from ..identity.training import check_read
from ..sample_store import SampleStore, read_findings

STATE_NAME = "_turn_state.safetensors"  # a push leaves out what begins with "_": it tells of every sample
_FORMAT = "hf_clear.turn.v3"
_PLAIN = {"identity": dict, "probe_epochs": int, "head_shape": list, "metrics": dict, "logs": list}


@dataclass
class TurnState:
    """What a run needs to go on.

    Attributes:
        identity (`dict[str, Any]`): what has to be the same in the run that goes on
            ([`~hf_clear.identity.training.Identity`]).
        probe_epochs (`int`): epochs of probing that are done.
        probe, optimizer (`dict[str, torch.Tensor]`): the state of the probe, and of its optimizer until it is trained.
        head_shape (`tuple[int, ...]`): `FrozenFeatures.head_shape`.
        sample_store (`SampleStore`, *optional*): after probing; after cleansing with clean probabilities.
        fine_tuning_samples (`np.ndarray`, *optional*): after cleansing.
        metrics (`dict[str, float]`), logs (`list[dict[str, float]]`): of the phases so far.
    """

    identity: dict[str, Any]
    probe_epochs: int
    probe: dict[str, torch.Tensor]
    head_shape: tuple[int, ...]
    optimizer: dict[str, torch.Tensor]
    sample_store: SampleStore | None
    fine_tuning_samples: np.ndarray | None
    metrics: dict[str, float]
    logs: list[dict[str, float]]

    def save(self, path: Path) -> None:
        """Writes the state as safetensors, atomically."""
        parts = {"probe": self.probe, "optimizer": self.optimizer}
        if self.sample_store is not None:
            parts["store"] = self.sample_store.sample_tensors()
        if self.fine_tuning_samples is not None:
            parts["fine_tuning"] = {"samples": torch.from_numpy(self.fine_tuning_samples)}
        tensors = {
            f"{part}.{name}": tensor.detach().cpu().contiguous()
            for part, of_part in parts.items()
            for name, tensor in of_part.items()
        }
        plain = {name: getattr(self, name) for name in _PLAIN}
        plain["is_fitted"] = False
        if self.sample_store is not None and self.sample_store.is_fitted:
            plain |= {"is_fitted": True, "findings": self.sample_store.findings.as_dict()}
        write_atomically(path, *sealed(serialize(tensors, {"format": _FORMAT, "state": json.dumps(plain)})))

    @classmethod
    def load(cls, path: Path) -> TurnState:
        """Reads what [`~TurnState.save`] wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, or is not a state of TURN.
        """
        tensors, plain = read_state(path, _FORMAT, "TurnTrainer")
        for name, kind in {**_PLAIN, "is_fitted": bool}.items():
            if type(plain.get(name)) is not kind:
                raise damaged(path, f"{name} in its metadata is {plain.get(name)!r}, not a {kind.__name__}")
        parts: dict[str, dict[str, torch.Tensor]] = {"probe": {}}
        for name, tensor in tensors.items():
            part, _, name = name.partition(".")
            parts.setdefault(part, {})[name] = tensor
        if (wrong := check_read(plain["identity"])) is not None:
            raise damaged(path, wrong)
        is_fitted, of_samples, store = plain.pop("is_fitted"), parts.get("store"), None
        num_samples = plain["identity"]["data"]["num_samples"]
        if of_samples is not None:
            if of_samples.keys() - set(OPTIONAL_TENSORS) != set(SAMPLE_TENSORS):
                raise damaged(
                    path, f"it holds {', '.join(sorted(of_samples))} of the samples, not {', '.join(SAMPLE_TENSORS)}"
                )
            of_samples = read_sample_tensors(path, of_samples, num_samples)
        if "fine_tuning" in parts:
            samples = parts["fine_tuning"].get("samples")
            if samples is None or samples.ndim != 1 or samples.dtype != torch.int64:
                raise damaged(path, "the samples to fine-tune on are no list of rows")
            if len(samples) and not 0 <= int(samples.min()) <= int(samples.max()) < num_samples:
                raise damaged(path, f"the samples to fine-tune on are not all among the {num_samples} there are")
        if of_samples is not None:
            others: dict[str, Any] = {**of_samples, "findings": read_findings(path, plain)}
            store = SampleStore(**others, fitted_epoch=0 if is_fitted else -1)
        return cls(
            **{name: plain[name] for name in _PLAIN},
            probe=parts["probe"],
            optimizer=parts.get("optimizer", {}),
            sample_store=store,
            fine_tuning_samples=parts["fine_tuning"]["samples"].numpy() if "fine_tuning" in parts else None,
        )
