"""A run and its folder: whether a run there is the same one, and what it leaves there. For scripts; the trainers need
none of it.

- [`PeftArguments`], [`LabelArguments`], [`DataArguments`], [`NoisyTrainingArguments`]: for a command line;
  [`parse_arguments`], [`run_defaults`], [`check_choices`], [`check_effects`], [`default_learning_rate`].
- [`trained_classes`], [`order_of_classes`], [`set_padding`], [`longest_input`]: what a pretrained model brings along.
- [`run_arguments`], [`detect_last_checkpoint`]: goes on with the run in a folder if it is the same run;
  [`check_output_dir`], [`paths_read`], [`note_outputs`]: and deletes nothing that a run did not write;
  [`begin_without_training`] for a run that predicts alone.
- [`datasets_of_each_epoch`], [`ProbeTestCallback`]: what is scored while it goes on.
- [`label_evidence`]: what a trainer thinks of its labels; [`save_label_issues`]: the table of them, with the rows that
  were taken for validation; [`save_clean_probabilities`]: `clean_probabilities.parquet`, and how well it finds the
  wrong labels; [`predict`], [`save_predictions`].
- [`accuracy_over_epochs`], [`results_table`]: results of one run, and of several side by side.
"""

from .arguments import DataArguments, LabelArguments, PeftArguments, check_choices
from .command_line import parse_arguments
from .defaults import run_defaults
from .effects import check_effects
from .evaluation import ProbeTestCallback, datasets_of_each_epoch
from .identity import RUN_ARGUMENTS, begin_without_training, detect_last_checkpoint, run_arguments
from .label_issues import label_evidence, save_label_issues
from .models import longest_input, order_of_classes, set_padding, trained_classes
from .outputs import OUTPUTS, check_output_dir, note_outputs, paths_read
from .predictions import labelled_part, predict
from .results import accuracy_over_epochs, results_table, save_clean_probabilities, save_predictions
from .training_arguments import NoisyTrainingArguments, default_learning_rate

__all__ = [
    "OUTPUTS",
    "RUN_ARGUMENTS",
    "DataArguments",
    "LabelArguments",
    "NoisyTrainingArguments",
    "PeftArguments",
    "ProbeTestCallback",
    "accuracy_over_epochs",
    "begin_without_training",
    "check_choices",
    "check_effects",
    "check_output_dir",
    "datasets_of_each_epoch",
    "default_learning_rate",
    "detect_last_checkpoint",
    "label_evidence",
    "labelled_part",
    "longest_input",
    "note_outputs",
    "order_of_classes",
    "parse_arguments",
    "paths_read",
    "predict",
    "results_table",
    "run_arguments",
    "run_defaults",
    "save_clean_probabilities",
    "save_label_issues",
    "save_predictions",
    "set_padding",
    "trained_classes",
]
