"""hf_clear: fine-tune Hugging Face models on labels you don't fully trust."""

__version__ = "0.1.0"

from .adapter_files import load_adapter
from .callbacks import CleanProbabilityCallback, MemorizationCallback
from .clean_probability import CleanProbabilityEstimate, gaussian_mixture, per_class_gaussian_mixture
from .estimators import SampleEvidence, register_estimator
from .losses import consistency_loss
from .prediction import per_sample_losses
from .presets import preset
from .routing import num_routed_layers, route
from .trainer import ClearMixin, ClearTrainer
from .training_args import ClearArguments, ClearTrainingArguments, TurnArguments, TurnTrainingArguments
from .tuners import ClearAdapterConfig, ClearBitFitConfig, ClearLoraConfig, ClearPromptConfig, export_to_peft
from .turn import TurnMixin, TurnTrainer

__all__ = [
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
    "MemorizationCallback",
    "SampleEvidence",
    "TurnArguments",
    "TurnMixin",
    "TurnTrainer",
    "TurnTrainingArguments",
    "consistency_loss",
    "export_to_peft",
    "gaussian_mixture",
    "load_adapter",
    "num_routed_layers",
    "per_class_gaussian_mixture",
    "per_sample_losses",
    "preset",
    "register_estimator",
    "route",
]
