"""Names that several modules agree on. It imports nothing, so that none of them needs another for a name."""

TRUE_LABEL = "true_label"  # the column of a data set that holds the labels before noise was injected, or -100
IGNORED_LABEL = -100  # marks samples and tokens without a label, as everywhere in transformers
SAMPLE_INDEX = "_clear_sample_index"  # the key of an item's, and a batch's, sample index: no column of a user's data
LABEL_COLUMNS = ("labels", "label", "label_ids")  # as `Trainer` finds them, and its collators call them "labels"
# Files of a run. Those that show texts or labels are kept off the Hub (`hub/private_files.py`).
ISSUES_TABLE, ISSUES_SHEET = "label_issues.parquet", "label_issues.csv"
CLEAN_PROBABILITIES, REPORT = "clean_probabilities.parquet", "report.html"
CLEAR_STATE = "clear_state.safetensors"  # in a checkpoint
TEST_PREDICTIONS = "test_predictions.parquet"  # the file with what a run predicted for each test sample
NO_NOISE = "none"  # on a command line, in the place of a noise type
