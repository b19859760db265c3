"""Tables, pictures and a page for a report on a training with wrong labels, and the way back of what people correct."""

from .annotation_tools import to_argilla as to_argilla
from .annotation_tools import to_label_studio as to_label_studio
from .axes import plot_detection as plot_detection
from .axes import plot_loss_mixture as plot_loss_mixture
from .axes import plot_memorization as plot_memorization
from .axes import plot_transition_matrix as plot_transition_matrix
from .callback import ReportCallback as ReportCallback
from .corrections import apply_corrections as apply_corrections
from .exports import to_cleanlab as to_cleanlab
from .exports import to_csv as to_csv
from .exports import to_parquet as to_parquet
from .issue_table import issue_table as issue_table
from .page import check_replaceable as check_replaceable
from .page import save_report as save_report
from .plots import plot_cleansing as plot_cleansing
from .plots import plot_feature_drift as plot_feature_drift
from .run_report import save_run_report as save_run_report
from .tables import cleansing_table as cleansing_table
from .tables import knn_accuracy as knn_accuracy
from .tables import linear_cka as linear_cka
