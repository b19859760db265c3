"""A run and its folder: whether a run there is the same one, and what it leaves there. For scripts; the trainers need
none of it.

- [`PeftArguments`], [`NoiseArguments`], [`NoisyTrainingArguments`]: for a command line; [`check_choices`],
  [`default_learning_rate`].
- [`run_arguments`], [`detect_last_checkpoint`]: goes on with the run in a folder if it is the same run.
- [`save_clean_probabilities`]: `clean_probabilities.parquet`, and how well it finds the wrong labels;
  [`save_predictions`].
- [`accuracy_over_epochs`], [`results_table`]: results of one run, and of several side by side.
"""

from .arguments import NoiseArguments, NoisyTrainingArguments, PeftArguments, check_choices, default_learning_rate
from .identity import OUTPUTS, RUN_ARGUMENTS, detect_last_checkpoint, run_arguments
from .results import accuracy_over_epochs, results_table, save_clean_probabilities, save_predictions

__all__ = [
    "OUTPUTS",
    "RUN_ARGUMENTS",
    "NoiseArguments",
    "NoisyTrainingArguments",
    "PeftArguments",
    "accuracy_over_epochs",
    "check_choices",
    "default_learning_rate",
    "detect_last_checkpoint",
    "results_table",
    "run_arguments",
    "save_clean_probabilities",
    "save_predictions",
]
