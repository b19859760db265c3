"""hf_clear: fine-tune Hugging Face models on labels you don't fully trust."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from ._logging import set_up as _set_up_logging
from ._version import __version__ as __version__

# At once: this registers their types with peft. All else comes when it is asked for, since `transformers.Trainer` and
# scikit-learn take longer to import than peft's part of hf_clear.
from .tuners import (
    ClearAdapterConfig,
    ClearBitFitConfig,
    ClearLoraConfig,
    ClearPromptConfig,
    export_to_peft,
    register_peft_method,
)

_set_up_logging()

if TYPE_CHECKING:
    from ._names import SAMPLE_INDEX
    from .adapters.loading import load_adapter
    from .audit.labels import LabelAudit, audit_labels
    from .callbacks import CleanProbabilityCallback, MemorizationCallback
    from .detection import find_label_issues
    from .dynamics import TrainingDynamics, TrainingDynamicsCallback
    from .estimators import (
        CleanProbabilityEstimate,
        SampleEvidence,
        fit_noise_model,
        gaussian_mixture,
        per_class_gaussian_mixture,
        register_estimator,
    )
    from .evidence import register_evidence
    from .losses import LossEvidence, LossPart, consistency_loss, register_training_loss
    from .mixin import ClearMixin
    from .noise import inject_label_noise, register_noise_type
    from .passes import per_sample_losses
    from .presets import preset
    from .report.corrections import apply_corrections
    from .routing import num_routed_layers, register_routable, register_routing_strategy, route
    from .saved_issues import load_label_issues
    from .trainer import ClearTrainer
    from .training_args import ClearArguments, ClearTrainingArguments
    from .turn.mixin import TurnMixin
    from .turn.trainer import TurnTrainer
    from .turn.training_args import TurnArguments, TurnTrainingArguments

_MODULES = {
    "_names": ("SAMPLE_INDEX",),
    "adapters.loading": ("load_adapter",),
    "audit.labels": ("LabelAudit", "audit_labels"),
    "detection": ("find_label_issues",),
    "dynamics": ("TrainingDynamics", "TrainingDynamicsCallback"),
    "evidence": ("register_evidence",),
    "callbacks": ("CleanProbabilityCallback", "MemorizationCallback"),
    "estimators": (
        "CleanProbabilityEstimate",
        "SampleEvidence",
        "fit_noise_model",
        "gaussian_mixture",
        "per_class_gaussian_mixture",
        "register_estimator",
    ),
    "losses": ("LossEvidence", "LossPart", "consistency_loss", "register_training_loss"),
    "mixin": ("ClearMixin",),
    "noise": ("inject_label_noise", "register_noise_type"),
    "passes": ("per_sample_losses",),
    "presets": ("preset",),
    "report.corrections": ("apply_corrections",),
    "routing": ("num_routed_layers", "register_routable", "register_routing_strategy", "route"),
    "saved_issues": ("load_label_issues",),
    "trainer": ("ClearTrainer",),
    "training_args": ("ClearArguments", "ClearTrainingArguments"),
    "turn.mixin": ("TurnMixin",),
    "turn.trainer": ("TurnTrainer",),
    "turn.training_args": ("TurnArguments", "TurnTrainingArguments"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "SAMPLE_INDEX",
    "CleanProbabilityCallback",
    "CleanProbabilityEstimate",
    "ClearAdapterConfig",
    "ClearArguments",
    "ClearBitFitConfig",
    "ClearLoraConfig",
    "ClearMixin",
    "ClearPromptConfig",
    "ClearTrainer",
    "ClearTrainingArguments",
    "LabelAudit",
    "LossEvidence",
    "LossPart",
    "MemorizationCallback",
    "SampleEvidence",
    "TrainingDynamics",
    "TrainingDynamicsCallback",
    "TurnArguments",
    "TurnMixin",
    "TurnTrainer",
    "TurnTrainingArguments",
    "apply_corrections",
    "audit_labels",
    "consistency_loss",
    "export_to_peft",
    "find_label_issues",
    "fit_noise_model",
    "gaussian_mixture",
    "inject_label_noise",
    "load_adapter",
    "load_label_issues",
    "num_routed_layers",
    "per_class_gaussian_mixture",
    "per_sample_losses",
    "preset",
    "register_estimator",
    "register_evidence",
    "register_noise_type",
    "register_peft_method",
    "register_routable",
    "register_routing_strategy",
    "register_training_loss",
    "route",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
        globals()[name] = value
        return value
    if name.isidentifier() and importlib.util.find_spec(f"{__name__}.{name}"):  # such as `hf_clear.metrics`
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING", "annotations", "importlib"})
