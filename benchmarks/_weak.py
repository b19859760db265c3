"""A model whose frozen features say little, and which learns all the same: what a default makes of weak evidence."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from hf_clear.demo import demo_backbone

WEAK = "weak-24"
_FOLDER = Path("outputs/models") / WEAK
_COPIES, _SHARE = 3, 0.05


def weak_folder() -> str:
    """The folder of all-MiniLM-L6-v2 with 24 layers, which is made if it isn't there: after each of its six come three
    copies that hardly change what they get, but for their layer norms."""
    if not _FOLDER.is_dir():
        source = demo_backbone("--model_name_or_path")
        model = AutoModel.from_pretrained(source)
        layers = torch.nn.ModuleList()
        for layer in model.encoder.layer:
            layers.append(layer)
            for _ in range(_COPIES):
                weak = copy.deepcopy(layer)
                with torch.no_grad():
                    for dense in (weak.attention.output.dense, weak.output.dense):
                        dense.weight.mul_(_SHARE)
                        dense.bias.zero_()
                layers.append(weak)
        model.encoder.layer, model.config.num_hidden_layers = layers, len(layers)
        _FOLDER.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_FOLDER.parent) as temporary:  # complete, or not there
            made = Path(temporary) / WEAK
            AutoTokenizer.from_pretrained(source).save_pretrained(made)
            model.save_pretrained(made)
            made.rename(_FOLDER)
    return str(_FOLDER)
