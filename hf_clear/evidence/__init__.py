"""Evidence from outside the sample: scores for every training sample from models that have not seen its label.

Arrays in, arrays out: no model, no trainer. [`register_evidence`] adds a source; `clear_evidence` names them.
"""

from . import probes as _probes
from ._registry import EVIDENCE_SOURCES, EvidenceSource, evidence_sources, register_evidence
from .probes import cross_fitted_probe

del _probes

__all__ = [
    "EVIDENCE_SOURCES",
    "EvidenceSource",
    "cross_fitted_probe",
    "evidence_sources",
    "register_evidence",
]
