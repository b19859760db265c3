"""Detection alone: from labelled texts, or arrays, to a table of suspects, and how far to trust it.

- [`audit_labels`]: arrays in. [`frozen_features`]: what a pretrained model makes of texts.
- [`audit_file`]: a file in; table, summary and report out. What `hf-clear audit` does.
"""

from .features import frozen_features
from .files import AuditArguments, audit_file
from .labels import LabelAudit, audit_labels
from .summary import precision_table, summary, warnings_of

__all__ = [
    "AuditArguments",
    "LabelAudit",
    "audit_file",
    "audit_labels",
    "frozen_features",
    "precision_table",
    "summary",
    "warnings_of",
]
