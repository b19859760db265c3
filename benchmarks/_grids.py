"""Grids by name: what `--grid` of accuracy.py stands for. Settings and methods in the order of their value."""

from pathlib import Path
from typing import Any

from _ablations import ABLATIONS

COMPARED = [
    *("plain", "recommended", "oracle_head_start"),
    *("cleanlab", "probe", "clear", "cleanlab_plain", "elr", "gce", "paper"),
]

GRIDS: dict[str, dict[str, Any]] = {
    # All kinds of noise, and none.
    "main": {
        "settings": [
            "banking77-20:symmetric:0.6",
            "noisyagnews@2000:real",
            "banking77-20:asymmetric:0.4",
            "sst5@4000:symmetric:0.6",
            "banking77-20:none",
            "banking77-20:instance_dependent:0.4",
            "sst5@4000:asymmetric:0.4",
            "noisyagnews@2000:none",
            "banking77-20:symmetric:0.4",
            "sst5@4000:symmetric:0.4",
            "sst5@4000:none",
            "banking77-20:asymmetric:0.2",
            "banking77-20:symmetric:0.2",
            "questions:symmetric:0.5",
            "questions:asymmetric:0.4",
            "questions:none",
            "banking77-20:instance_dependent:0.6",
        ],
        "methods": COMPARED,
    },
    "peft": {
        "settings": [f"banking77-20:symmetric:0.6:{name}" for name in ("adapter", "bitfit", "prompt")],
        "methods": COMPARED,
    },
    # The lines go to results/peft_methods.jsonl.
    "peft_noise": {
        "settings": [
            f"banking77-20:{noise}:{name}"
            for noise in ("asymmetric:0.4", "symmetric:0.4", "none", "asymmetric:0.2", "symmetric:0.2")
            for name in ("adapter", "bitfit", "prompt")
        ],
        "methods": ["plain", "recommended"],
        "seeds": [42],
    },
    "full": {"settings": ["banking77:symmetric:0.6"], "methods": COMPARED, "seeds": [42]},
    "peers": {
        "settings": ["banking77-20:symmetric:0.6"],
        "methods": ["small_loss", "sce", "label_smoothing", "turn", "dual_lora"],
        "seeds": [42],
    },
    "full_fine_tuning": {
        "settings": ["banking77-20:symmetric:0.6:none"],
        "methods": ["plain", "turn", "oracle_head_start"],
        "seeds": [42],
    },
    # What each part of the recommended settings is worth.
    "ablations": {
        "settings": ["banking77-20:asymmetric:0.4", "noisyagnews@2000:real", "banking77-20:symmetric:0.6"],
        "methods": ["recommended", *ABLATIONS],
    },
    # The lines go to results/noise_rates.jsonl.
    "noise_rates": {
        "settings": [f"banking77-20:symmetric:{rate}" for rate in (0.8, 0.9, 0.7, 0.5, 0.3, 0.1)],
        "methods": ["plain", "recommended", "oracle_head_start"],
        "seeds": [42],
    },
    # Data that nothing was chosen by (held_out.py writes them: --data outputs/held_out). The lines go to
    # results/held_out.jsonl.
    "held_out": {
        "settings": [
            "debian@4000:symmetric:0.4",
            "banking77-last20:symmetric:0.6",
            "debian@4000:none",
            "sst2@3000:symmetric:0.3",
            "banking77-last20:asymmetric:0.4",
            "debian@4000:asymmetric:0.3",
            "sst2@3000:none",
            "banking77-last20:none",
            "debian@4000:instance_dependent:0.4",
            "sst2@3000:instance_dependent:0.3",
        ],
        "methods": ["plain", "recommended", "oracle_head_start"],
    },
    # The same, of two more data sets. The lines go to results/held_out_texts.jsonl.
    "held_out_texts": {
        "settings": [
            f"{data}:{noise}"
            for noise in ("symmetric:0.4", "none", "asymmetric:0.3", "instance_dependent:0.4")
            for data in ("glosses@4000", "fortunes@3000")
        ],
        "methods": ["plain", "recommended", "oracle_head_start"],
    },
    # In minutes.
    "quick": {
        "data_sets": ["banking77-20"],
        "noise_rates": [0.6],
        "methods": ["plain", "recommended", "oracle", "logistic_regression", "cleanlab", "probe"],
        "seeds": [42],
        "epochs": 2,
        "jobs": 2,
        "output": Path("outputs/accuracy_quick"),
    },
}
