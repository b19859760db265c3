"""The picture of README and docs."""

from pathlib import Path

import numpy as np
from _summary import Table

_COLUMNS = 4
PICTURED = {"plain": "plain LoRA", "recommended": "ClearTrainer", "oracle_head_start": "true labels known"}
PANELS = [  # of each kind of noise and of data, wins, ties and losses
    "20 intents, symmetric 60%",
    "20 intents, asymmetric 40%",
    "20 intents, instance-dependent 40%",
    "20 intents, no wrong labels",
    "news, errors of people",
    "questions, symmetric 50%",
    "SST-5, symmetric 40%",
    "SST-5, asymmetric 40%",
]


def draw(tables: dict[str, Table], path: Path, description: str) -> None:
    """Test accuracy by epoch: a panel for each setting; a line is the mean over seeds, its band their range.

    Args:
        tables (`dict[str, Table]`): by the name of their setting.
        description (`str`): kept in the file.
    """
    import matplotlib.pyplot as plt

    shown = {name: tables[name] for name in PANELS if name in tables} or tables
    if not shown:
        raise ValueError("No setting has lines of plain and of recommended: there is nothing to draw.")
    columns = min(len(shown), _COLUMNS)
    size = -(-len(shown) // columns), columns
    figure, axes = plt.subplots(*size, figsize=(2.9 * size[1], 2.5 * size[0]), squeeze=False, layout="constrained")
    colors = dict(zip(PICTURED, ("#888888", "#d6541b", "#2b6cb0")))
    for axis in axes.flat[len(shown) :]:
        axis.remove()
    for axis, (setting, table) in zip(axes.flat, shown.items()):
        for method, title in PICTURED.items():
            curves = np.array([line["accuracies"] for line in table.get(method, {}).values()])
            if len(curves):
                epochs = np.arange(1, curves.shape[1] + 1)
                style = ":" if method == "oracle_head_start" else "-"
                axis.plot(epochs, curves.mean(axis=0), style, color=colors[method], label=title, linewidth=2)
                axis.fill_between(epochs, curves.min(axis=0), curves.max(axis=0), color=colors[method], alpha=0.2)
        axis.set_title(setting, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("test accuracy", fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Description": description})
    plt.close(figure)
