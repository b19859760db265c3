"""From files to labelled texts, with label noise if you want it. What `run_glue_noisy.py` does before it trains.

- [`read_files`]: csv, json and parquet files to splits; [`check_file`] looks at one of them before.
- [`labelled_texts`]: any splits to checked texts in `text` (and `text_pair`) and class numbers in `label`.
- [`check_columns`], [`check_texts`], [`encode_labels`]: its parts. [`renumber`]: the classes in another order.
- [`read_folder`]: such files in a folder, with the splits that `datasets` finds there.
- [`add_noise`]: wrong labels, of a noise type or from a transition matrix; the truth stays in `true_label`.
- [`realized_noise`]: how many of the labels are wrong. [`text_features`]: what noise that depends on the text goes by.
- [`train_validation_split`], [`check_classes`]: a validation set taken from the training set, and classes lost to it.
- [`load_questions`]: a small data set that needs no network.

```python
>>> splits = read_files({"train": "train.csv", "test": "test.csv"})
>>> splits, label_names = labelled_texts(splits, label_column="category")
>>> train = add_noise(splits["train"], "symmetric", 0.4)
>>> realized_noise(train)
{'true_labels': 10003, 'noise_rate': 0.3972}
```
"""

from .classes import renumber
from .files import check_file, read_files
from .folders import read_folder
from .labels import encode_labels
from .noise import add_noise, realized_noise, text_features
from .questions import load_questions
from .splits import check_classes, train_validation_split
from .texts import check_columns, check_texts, labelled_texts

__all__ = [
    "add_noise",
    "check_classes",
    "check_columns",
    "check_file",
    "check_texts",
    "encode_labels",
    "labelled_texts",
    "load_questions",
    "read_files",
    "read_folder",
    "realized_noise",
    "renumber",
    "text_features",
    "train_validation_split",
]
