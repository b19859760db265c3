"""A run and its folder: whether a run there is the same one, and what it leaves there. For scripts; the trainers need
none of it.

- [`PeftArguments`], [`LabelArguments`], [`NoisyTrainingArguments`]: for a command line; [`parse_arguments`],
  [`check_choices`], [`default_learning_rate`].
- [`run_arguments`], [`detect_last_checkpoint`]: goes on with the run in a folder if it is the same run;
  [`check_output_dir`], [`paths_read`], [`note_outputs`]: and deletes nothing that a run did not write.
- [`datasets_of_each_epoch`], [`ProbeTestCallback`]: what is scored while it goes on.
- [`save_clean_probabilities`]: `clean_probabilities.parquet`, and how well it finds the wrong labels;
  [`save_predictions`].
- [`accuracy_over_epochs`], [`results_table`]: results of one run, and of several side by side.
"""

from .arguments import LabelArguments, PeftArguments, check_choices
from .command_line import parse_arguments
from .evaluation import ProbeTestCallback, datasets_of_each_epoch
from .identity import RUN_ARGUMENTS, detect_last_checkpoint, run_arguments
from .outputs import OUTPUTS, check_output_dir, note_outputs, paths_read
from .results import accuracy_over_epochs, results_table, save_clean_probabilities, save_predictions
from .training_arguments import NoisyTrainingArguments, default_learning_rate

__all__ = [
    "OUTPUTS",
    "RUN_ARGUMENTS",
    "LabelArguments",
    "NoisyTrainingArguments",
    "PeftArguments",
    "ProbeTestCallback",
    "accuracy_over_epochs",
    "check_choices",
    "check_output_dir",
    "datasets_of_each_epoch",
    "default_learning_rate",
    "detect_last_checkpoint",
    "note_outputs",
    "parse_arguments",
    "paths_read",
    "results_table",
    "run_arguments",
    "save_clean_probabilities",
    "save_predictions",
]
