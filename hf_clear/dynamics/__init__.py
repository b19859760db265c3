"""Training dynamics: detection of suspect labels beside any training, without a method of ours.

- [`TrainingDynamicsCallback`]: for a stock `Trainer`. [`TrainingDynamics`]: what it has kept, from its folder.
"""

from .callback import TrainingDynamicsCallback
from .records import TrainingDynamics

__all__ = ["TrainingDynamics", "TrainingDynamicsCallback"]
