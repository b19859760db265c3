"""How far the phases of TURN before fine-tuning have come, as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as serialize

from .files import write_atomically
from .sample_store import SampleStore, read_state

STATE_NAME = "turn_state.safetensors"
_FORMAT = "hf_clear.turn.v1"
_STORE = ("losses", "clean_probability", "labels", "mean_losses")
_PLAIN = ("settings", "probe_epochs", "head_shape", "metrics", "logs")


@dataclass
class TurnState:
    """What a run needs to go on.

    Attributes:
        settings (`dict[str, Any]`): what has to be the same in the run that goes on.
        probe_epochs (`int`): epochs of probing that are done.
        probe, optimizer (`dict[str, torch.Tensor]`): the state of the probe, and of its optimizer until it is trained.
        head_shape (`tuple[int, ...]`): `FrozenFeatures.head_shape`.
        sample_store (`SampleStore`, *optional*): after probing; after cleansing with clean probabilities.
        fine_tuning_samples (`np.ndarray`, *optional*): after cleansing.
        metrics (`dict[str, float]`), logs (`list[dict[str, float]]`): of the phases so far.
    """

    settings: dict[str, Any]
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
            parts["store"] = {name: getattr(self.sample_store, name) for name in _STORE}
        if self.fine_tuning_samples is not None:
            parts["fine_tuning"] = {"samples": torch.from_numpy(self.fine_tuning_samples)}
        tensors = {
            f"{part}.{name}": tensor.detach().cpu().contiguous()
            for part, of_part in parts.items()
            for name, tensor in of_part.items()
        }
        plain = {name: getattr(self, name) for name in _PLAIN}
        plain["is_fitted"] = self.sample_store is not None and self.sample_store.is_fitted
        write_atomically(path, serialize(tensors, {"format": _FORMAT, "state": json.dumps(plain)}))

    @classmethod
    def load(cls, path: Path) -> TurnState:
        """Reads what [`~TurnState.save`] wrote.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: where the file is damaged, or is not a state of TURN.
        """
        tensors, metadata = read_state(path, _FORMAT, "TurnTrainer")
        plain = json.loads(metadata["state"])
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            part, name = name.split(".", 1)
            parts.setdefault(part, {})[name] = tensor
        is_fitted, store = plain.pop("is_fitted"), parts.get("store")
        return cls(
            **plain,
            probe=parts["probe"],
            optimizer=parts.get("optimizer", {}),
            sample_store=None if store is None else SampleStore(**store, fitted_epoch=0 if is_fitted else -1),
            fine_tuning_samples=parts["fine_tuning"]["samples"].numpy() if "fine_tuning" in parts else None,
        )
