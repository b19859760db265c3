"""Label noise for experiments: corrupts the labels of a data set and keeps the truth."""

from .._names import TRUE_LABEL
from ._inject import NoiseReport, inject_label_noise
from ._matrix import class_conditional, corrupt_labels, load_transition_matrix
from ._registry import NOISE_TYPES, NoiseFunction, NoiseType, register_noise_type
from .asymmetric import asymmetric_transition_matrix
from .instance_dependent import instance_dependent_noise
from .symmetric import symmetric_transition_matrix

__all__ = [
    "NOISE_TYPES",
    "TRUE_LABEL",
    "NoiseFunction",
    "NoiseReport",
    "NoiseType",
    "asymmetric_transition_matrix",
    "class_conditional",
    "corrupt_labels",
    "inject_label_noise",
    "instance_dependent_noise",
    "load_transition_matrix",
    "register_noise_type",
    "symmetric_transition_matrix",
]
