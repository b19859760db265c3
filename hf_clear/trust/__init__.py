"""How far to trust a list of suspect labels, without the truth. Arrays in, numbers out: no model, no trainer.

- [`estimate_noise_rate`]: how many labels are wrong, as a range. [`confident_joint`]: one of its two estimates.
- [`plant_and_find`]: errors that are planted, and how many of them are found.
- [`expected_precision`]: how many of the first labels of the list are wrong, with an interval.
- [`clean_accuracy`]: accuracy on true labels, from noisy ones.
"""

from .accuracy import CleanAccuracy, clean_accuracy
from .noise_rate import NoiseRate, confident_joint, estimate_noise_rate
from .planted import PlantedErrors, plant_and_find
from .precision import expected_precision

__all__ = [
    "CleanAccuracy",
    "NoiseRate",
    "PlantedErrors",
    "clean_accuracy",
    "confident_joint",
    "estimate_noise_rate",
    "expected_precision",
    "plant_and_find",
]
