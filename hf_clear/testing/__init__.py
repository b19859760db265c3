"""Contracts for extensions: a `check_...` for each family of methods, that every member of hf_clear passes.

Call one in a test of your own: `check_estimator("mine")`. It raises an AssertionError that says what is broken.
"""

from .estimators import check_estimator
from .evidence import check_evidence
from .losses import check_training_loss
from .noise import check_noise_type
from .routing import check_routing_strategy
from .tuners import check_peft_method

__all__ = [
    "check_estimator",
    "check_evidence",
    "check_noise_type",
    "check_peft_method",
    "check_routing_strategy",
    "check_training_loss",
]
