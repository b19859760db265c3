"""The model card of a model trained on noisy labels: that of `Trainer`, and what was done about the labels."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, cast

import datasets
import transformers
from huggingface_hub import ModelCard
from peft import PeftModel, PeftType

from .._trainer_types import OwnTrainer as Trainer
from .._unwrap import base_of
from .._version import __version__
from ..files import write_atomically
from ..fit_checks import FitFindings
from ..probe_args import MEMORY_SETTINGS
from .escaping import code, escaped, without_html
from .paths import is_on_hub, is_repository_name

_DESCRIPTIONS = {
    "CleaR": (
        "Trained on noisy labels with [CleaR](https://arxiv.org/abs/2411.00873): after a warm-up, a mixture of two "
        "Gaussians over the losses gives each training sample a clean probability, and the PEFT modules are bypassed "
        "the more often, the less likely its label is correct. In inference all modules act."
    ),
    "posterior": (
        "Trained on noisy labels with hf_clear, on the posterior over the true class: a noise model weighs what is "
        "predicted for a training sample against the label that it was given, and the outcome is its target. In "
        "inference all modules act."
    ),
    "TURN": (
        "Trained on noisy labels with [TURN](https://arxiv.org/abs/2310.17668): a linear probe on the features of the "
        "pretrained model came first, and fine-tuning left out the samples whose label looked wrong by its losses."
    ),
}
_CITATIONS = {
    "CleaR": """@inproceedings{kim2024clear,
  title = {{CleaR}: Towards Robust and Generalized Parameter-Efficient Fine-Tuning for Noisy Label Learning},
  author = {Kim, Yeachan and Kim, Junho and Lee, SangKeun},
  booktitle = {Proceedings of the 62nd Annual Meeting of the Association for Computational Linguistics},
  year = {2024},
  url = {https://arxiv.org/abs/2411.00873}
}""",
    "TURN": """@inproceedings{ahn2024turn,
  title = {Fine-tuning Pre-trained Models for Robustness under Noisy Labels},
  author = {Ahn, Sumyeong and Kim, Sihyeon and Ko, Jongwoo and Yun, Se-Young},
  booktitle = {Proceedings of the Thirty-Third International Joint Conference on Artificial Intelligence},
  year = {2024},
  url = {https://arxiv.org/abs/2310.17668}
}""",
}
_TEXT = 2000  # characters of a warning
_SYMBOLS = {
    **{"clear_gamma": "γ", "clear_warmup_epochs": "k", "clear_ensemble_size": "N", "clear_consistency_weight": "λ"},
    **{"clear_ensemble_temperature": "T", "probe_gce_q": "q", "turn_threshold": "τ"},
}
_FIT = {
    "epoch": "After epoch",
    "mixture_mean_clean": "Mean, clean",
    "mixture_std_clean": "Std, clean",
    "mixture_mean_noisy": "Mean, noisy",
    "mixture_std_noisy": "Std, noisy",
    "mixture_weight_noisy": "Weight, noisy",
    "mixture_separation": "Separation",
    "noise_model_rate": "Noise rate of the noise model",
    "noise_model_diagonal": "Diagonal of T",
    "noise_model_gain": "Gain",
    "clean_fraction": "p > 0.5",
    "estimated_noise_rate": "Estimated noise rate",
    "fit_warnings": "Warnings",
    "detection_auroc": "Wrong labels: AUROC",
    "detection_precision": "Precision",
    "detection_recall": "Recall",
}


def dataset_names(dataset: Any) -> list[str]:
    """The name of a `datasets.Dataset` on the Hub, as far as its cache tells with the owner, `"org/name"`. Empty for
    local files, whatever their folder is called, and for what can be no name on the Hub."""
    name = dataset.info.dataset_name if isinstance(dataset, datasets.Dataset) else None
    if name is None or name == dataset.info.builder_name:  # "csv" for a csv file
        return []
    sources = dataset.info.download_checksums or {}
    if sources and not any("://" in source for source in sources):  # files of this machine
        return []
    folders = (Path(file["filename"]).parts for file in dataset.cache_files)
    with_owner = (part.replace("___", "/") for parts in folders for part in parts if part.endswith(f"___{name}"))
    name = next(with_owner, name)
    return [name] if is_repository_name(name) else []


def complete_model_card(trainer: Trainer, tags: str | list[str] | None = None) -> None:
    """Adds to the README.md that `Trainer.create_model_card` wrote to `output_dir`: the method with its citation and
    settings, how to load the model, what each fit found, the estimated noise rate, and tags, `tags` among them."""
    path = Path(trainer.args.output_dir) / "README.md"
    model = trainer.accelerator.unwrap_model(trainer.model)
    card = ModelCard.load(path)
    tags = [tags] if isinstance(tags, str) else tags or []
    tags = [*(card.data.tags or []), *tags, "hf-clear", "noisy-labels"]
    if isinstance(model, PeftModel):
        card.data.library_name = "peft"
        tags.append("peft")
    if card.data.base_model is not None and not is_on_hub(card.data.base_model):  # which refuses such a card
        tags = [tag for tag in tags if not tag.startswith("base_model:")]
        card.data.base_model = None
    card.data.tags = list(dict.fromkeys(tags))

    fits = _fits(trainer)
    text = _own_text(without_html(card.text), type(base_of(model)).__name__)
    text = _with_section(text, "Model description", f"{_description(trainer)}\n\n{_loading(trainer)}")
    text = _with_section(text, "Training and evaluation data", _data(trainer, fits))
    text = _with_section(text, trainer.method, _procedure(trainer, fits))
    card.text = _with_section(text, "Citation", f"```bibtex\n{_CITATIONS[trainer.method]}\n```")
    write_atomically(path, str(card).encode())


def _description(trainer: Trainer) -> str:
    has_posterior = getattr(trainer.sample_store, "posterior", None) is not None
    uses_it = trainer.method_settings().get("clear_loss") == "posterior"
    return _DESCRIPTIONS["posterior" if has_posterior and uses_it else trainer.method]


def _own_text(text: str, model_type: str) -> str:
    """What `Trainer` says, with a title that is one, and without a base model that is none of the Hub."""
    title, _, rest = text.lstrip().partition("\n\nThis model ")
    comment, _, name = title.rpartition("# ")
    text = f"\n{comment}# {escaped(name)}\n\nThis model {rest}" if rest else text

    def link(found: re.Match) -> str:
        return found.group() if is_on_hub(found.group(1)) else f"a fine-tuned {model_type}"

    return re.sub(r"a fine-tuned version of \[([^\]\n]*)\]\(https://huggingface\.co/[^)\n]*\)", link, text, count=1)


def _with_section(text: str, title: str, body: str) -> str:
    """In the place that `Trainer` leaves for it, or at the end."""
    body = f"## {title}\n\n{body.strip()}\n"
    blank = f"## {title}\n\nMore information needed\n"
    return text.replace(blank, body) if blank in text else f"{text.rstrip()}\n\n{body}"


def _loading(trainer: Trainer) -> str:
    """Code that loads what is saved, from the Hub if it was pushed; nothing where transformers can't."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    folder = trainer.args.output_dir
    saved = json.dumps(trainer.hub_model_id or (Path(folder).name if os.path.isabs(folder) else folder))
    base: Any = model
    base_name, labels = saved, ""
    imports, loads = [], []
    if isinstance(model, PeftModel):
        base, name = base_of(model), model.active_adapter
        base_name = getattr(base, "name_or_path", "")  # others don't have a folder of the author's
        base_name = json.dumps(base_name) if is_on_hub(base_name) else ""
        if "Classification" in type(base).__name__:
            labels = f", num_labels={base.config.num_labels}"
        if cast(PeftType, model.peft_config[name].peft_type).value.startswith("CLEAR_"):  # not one of peft's own
            imports.append("import hf_clear  # pip install hf-clear")
        imports.append("from peft import PeftModel")
        folder = "" if name == "default" else f", subfolder={json.dumps(name)}"
        loads.append(f"model = PeftModel.from_pretrained(model, {saved}{folder})")
    names = [type(base).__name__]
    if base_name and hasattr(transformers, names[0]):
        loads.insert(0, f"model = {names[0]}.from_pretrained({base_name}{labels})")
    elif loads:
        names, loads[:0] = [], [f"# model: the {names[0]} that the adapter was trained on"]
    else:
        return ""
    if trainer.processing_class is not None:
        is_tokenizer = isinstance(trainer.processing_class, transformers.PreTrainedTokenizerBase)
        names.insert(0, "AutoTokenizer" if is_tokenizer else "AutoProcessor")
        loads.append(f"{'tokenizer' if is_tokenizer else 'processor'} = {names[0]}.from_pretrained({saved})")
    if names:
        imports.append(f"from transformers import {', '.join(sorted(names))}")
    return "\n".join(["To load it:", "", "```python", *imports, "", *loads, "```"])


def _data(trainer: Trainer, fits: list[dict[str, float]]) -> str:
    samples = "The training samples"
    if trainer.sample_store is not None:
        samples = f"{len(trainer.sample_store.losses):,} training samples"
    samples = " of ".join([samples, *dataset_names(trainer.train_dataset)])
    if not fits:
        return f"{samples}, with labels that may be wrong; no clean probabilities were fitted."
    findings, missing = _findings(trainer), ""
    if findings.missing:
        missing = f" {findings.missing:,} of them had no finite loss at the last fit: nothing is known of their labels."
    if findings.noise_rate is None or findings.noise_rate_interval is None:
        why = escaped(findings.unsupported, _TEXT)
        return f"{samples}, with labels that may be wrong.{missing} How many are wrong was not estimated: {why}."
    low, high = findings.noise_rate_interval
    return (
        f"{samples}, with an estimated {findings.noise_rate:.1%} of wrong labels (1 - mean clean probability at the "
        f"last fit; between {low:.1%} and {high:.1%}, if its two groups of losses are right and wrong labels).{missing}"
    )


def _procedure(trainer: Trainer, fits: list[dict[str, float]]) -> str:
    rows = [
        [f"`{name}` ({_SYMBOLS[name]})" if name in _SYMBOLS else code(name), code(value)]
        for name, value in _settings(trainer).items()
    ]
    parts = [f"Settings of hf_clear {__version__}:", _table(["Setting", "Value"], rows)]
    if fits:
        columns = [name for name in _FIT if any(_rounded(fit.get(name)) for fit in fits)]
        rows = [[_rounded(fit.get(name)) for name in columns] for fit in fits]
        parts += [
            "What each fit of the clean probabilities `p` found; means and standard deviations are in the unit of what "
            "the mixture was fitted to (losses: nats):",
            _table([_FIT[name] for name in columns], rows),
        ]
        said = [f"- {code(kind)}: {escaped(text, _TEXT)}" for kind, text in _findings(trainer).warnings.items()]
        if said:
            parts += ["**Warnings of the last fit:**", "\n".join(said)]
    phases = [
        f"- {escaped(name)}: {_rounded(value)}"
        for name, value in getattr(trainer, "phase_metrics", {}).items()
        if name.removeprefix("cleanse_") not in _FIT
    ]
    if phases:
        parts += ["What the phases before fine-tuning found:", "\n".join(phases)]
    return "\n\n".join(parts)


def _findings(trainer: Trainer) -> FitFindings:
    store = trainer.sample_store
    return store.findings if store is not None and store.is_fitted else FitFindings()


def _settings(trainer: Trainer) -> dict[str, Any]:
    """The arguments of the method as they were in force, by name."""
    settings = {name: value for name, value in trainer.method_settings().items() if name not in MEMORY_SETTINGS}
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        settings["peft_type"] = cast(PeftType, model.peft_config[model.active_adapter].peft_type).value
    return {name: value for name, value in settings.items() if value is not None}


def _fits(trainer: Trainer) -> list[dict[str, float]]:
    """What each fit of the clean probabilities logged; in TURN, the last."""
    logs = [{name.removeprefix("cleanse_"): value for name, value in log.items()} for log in trainer.state.log_history]
    fits = [log for log in logs if "non_finite_losses" in log]
    return fits if trainer.method == "CleaR" else fits[-1:]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rounded(value: float | None) -> str:
    return "" if value is None or value != value else re.sub(r"\.0$", "", f"{value:.4g}")
