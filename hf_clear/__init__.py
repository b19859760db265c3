"""hf_clear: fine-tune Hugging Face models on labels you don't fully trust."""

__version__ = "0.1.0"

from .callbacks import CleanProbabilityCallback
from .clean_probability import CleanProbabilityEstimate, gaussian_mixture
from .losses import consistency_loss
from .prediction import per_sample_losses
from .routing import num_routed_layers, route
from .trainer import ClearMixin, ClearTrainer
from .training_args import ClearArguments, ClearTrainingArguments
from .tuners import ClearAdapterConfig, ClearBitFitConfig, ClearLoraConfig, ClearPromptConfig, export_to_peft

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
    "consistency_loss",
    "export_to_peft",
    "gaussian_mixture",
    "num_routed_layers",
    "per_sample_losses",
    "route",
]
