"""The model card of a model trained on noisy labels: that of `Trainer`, and what was done about the labels."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, cast

from huggingface_hub import ModelCard, ModelCardData
from peft import PeftModel, PeftType
from torch import nn

from .._trainer_types import OwnTrainer
from .._unwrap import base_of, processing_class_of
from .._version import __version__
from ..files import write_atomically
from ..fit_checks import FitFindings
from ..probe_args import MEMORY_SETTINGS
from .dataset_names import dataset_names
from .escaping import code, escaped, without_html
from .evaluation import Evaluation, evaluations, title
from .loading import loading_code, task_of
from .methods import CITATIONS, DESCRIPTIONS
from .paths import is_on_hub

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
_HEADINGS = ("\n## Model description\n", "\n## Training procedure\n")  # of `Trainer`'s card, with blanks in between
_RESULTS = "\nIt achieves the following results on the evaluation set:\n"


def complete_model_card(
    trainer: OwnTrainer,
    tags: str | list[str] | None = None,
    model: nn.Module | None = None,
    saved: str | None = None,
) -> None:
    """Adds to the README.md that `Trainer.create_model_card` wrote to `output_dir`: the method with its citation and
    settings, how to load the model, what it was found to be worth, what each fit found, the estimated noise rate, and
    tags, `tags` among them.

    Args:
        trainer (`Trainer`): of hf_clear.
        tags (`str` or `list[str]`, *optional*): more of them.
        model (`nn.Module`, *optional*): what is saved; the trainer's model by default.
        saved (`str`, *optional*): what the folder is called in code; by default the name of the repository if it is
            pushed to one, or of `output_dir`.
    """
    path = Path(trainer.args.output_dir) / "README.md"
    is_pushed, folder = saved is None and trainer.hub_model_id is not None, trainer.args.output_dir
    saved = saved or trainer.hub_model_id or (Path(folder).name if os.path.isabs(folder) else folder)
    model = trainer.accelerator.unwrap_model(trainer.model) if model is None else model
    card, task = ModelCard.load(path), task_of(model)
    measured = evaluations(trainer, trainer.evaluated)
    _complete_metadata(card, tags, isinstance(model, PeftModel), task, measured)

    text = _own_text(without_html(card.text), type(base_of(model)).__name__)
    introduction, blanks, rest = text.partition(_HEADINGS[0])
    training = rest.partition(_HEADINGS[1])[2]
    if blanks and not training:  # of another kind of trainer: nothing of its card is left out
        introduction, blanks = text, ""
    fits = _fits(trainer)
    columns = [name for name in _FIT if any(_rounded(fit.get(name)) for fit in fits)]
    card = ModelCard.from_template(
        card.data,
        template_str=resources.files(__package__).joinpath("assets/model_card.md.jinja").read_text(encoding="utf-8"),
        introduction=(introduction.partition(_RESULTS)[0] if measured else introduction).rstrip(),
        has_blanks=bool(blanks),
        description=_description(trainer, model),
        code=loading_code(model, saved, processing_class_of(trainer), is_pushed),
        data=_data(trainer, fits),
        evaluations=list(_rows(measured)),
        training=training.strip(),
        method=trainer.method,
        version=__version__,
        settings=[
            (f"`{name}` ({_SYMBOLS[name]})" if name in _SYMBOLS else code(name), code(value))
            for name, value in _settings(trainer).items()
        ],
        columns=[_FIT[name] for name in columns],
        fits=[[_rounded(fit.get(name)) for name in columns] for fit in fits],
        warnings=[(code(kind), escaped(text, _TEXT)) for kind, text in _findings(trainer).warnings.items()],
        phases=[
            (escaped(name), _rounded(value))
            for name, value in getattr(trainer, "phase_metrics", {}).items()
            if name.removeprefix("cleanse_") not in _FIT
        ],
        citation=CITATIONS[trainer.method],
    )
    write_atomically(path, str(card).encode())


def _complete_metadata(
    card: ModelCard, tags: str | list[str] | None, is_adapter: bool, task: str | None, measured: list[Evaluation]
) -> None:
    data = cast(ModelCardData, card.data)
    tags = [tags] if isinstance(tags, str) else tags or []
    tags = [*(data.tags or []), *tags, "hf-clear", "noisy-labels"]
    if is_adapter:
        data.library_name = "peft"
        tags.append("peft")
    if data.base_model is not None and not is_on_hub(cast(str, data.base_model)):  # which refuses such a card
        tags = [tag for tag in tags if not tag.startswith("base_model:")]
        data.base_model = None
    data.tags = list(dict.fromkeys(tags))
    if task is not None:
        data.pipeline_tag = data.pipeline_tag or task
        data.eval_results = [result for evaluation in measured for result in evaluation.results(task)] or None
    if not data.eval_results:
        data.eval_results = data.model_name = None


def _rows(measured: list[Evaluation]) -> Iterator[tuple[str, str, str]]:
    for evaluation in measured:
        for metric, value in evaluation.metrics.items():
            yield escaped(evaluation.described()), escaped(title(metric)), _rounded(value)


def _description(trainer: OwnTrainer, model: nn.Module) -> str:
    has_posterior = getattr(trainer.sample_store, "posterior", None) is not None
    settings = trainer.method_settings()
    loss, uses_it = settings.get("clear_loss"), settings.get("clear_loss") == "posterior"
    was_fitted = trainer.sample_store is not None and trainer.sample_store.is_fitted
    name = "posterior" if has_posterior and uses_it else trainer.method if was_fitted else "plain"
    is_open = settings.get("clear_routing") == "none" or getattr(trainer.sample_store, "gates_open", False)
    if name == "CleaR" and not uses_it and is_open:
        name = "loss"
    text = DESCRIPTIONS[name].format(loss=loss)
    is_merged = isinstance(trainer.accelerator.unwrap_model(trainer.model), PeftModel) > isinstance(model, PeftModel)
    merged = f" The adapter is merged into the weights: this is a plain {type(model).__name__}."
    return text + merged if is_merged else text


def _own_text(text: str, model_type: str) -> str:
    """What `Trainer` says, with a title that is one, and without a base model that is none of the Hub."""
    title, _, rest = text.lstrip().partition("\n\nThis model ")
    comment, _, name = title.rpartition("# ")
    text = f"\n{comment}# {escaped(name)}\n\nThis model {rest}" if rest else text

    def link(found: re.Match) -> str:
        return found.group() if is_on_hub(found.group(1)) else f"a fine-tuned {model_type}"

    return re.sub(r"a fine-tuned version of \[([^\]\n]*)\]\(https://huggingface\.co/[^)\n]*\)", link, text, count=1)


def _data(trainer: OwnTrainer, fits: list[dict[str, float]]) -> str:
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


def _findings(trainer: OwnTrainer) -> FitFindings:
    store = trainer.sample_store
    return store.findings if store is not None and store.is_fitted else FitFindings()


def _settings(trainer: OwnTrainer) -> dict[str, Any]:
    """The arguments of the method as they were in force, by name."""
    settings = {name: value for name, value in trainer.method_settings().items() if name not in MEMORY_SETTINGS}
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        settings["peft_type"] = cast(PeftType, model.peft_config[model.active_adapter].peft_type).value
    return {name: value for name, value in settings.items() if value is not None}


def _fits(trainer: OwnTrainer) -> list[dict[str, float]]:
    """What each fit of the clean probabilities logged; in TURN, the last."""
    logs = [{name.removeprefix("cleanse_"): value for name, value in log.items()} for log in trainer.state.log_history]
    fits = [log for log in logs if "non_finite_losses" in log]
    if trainer.sample_store is None or not trainer.sample_store.is_fitted:  # one of after the training
        return []
    return fits if trainer.method == "CleaR" else fits[-1:]


def _rounded(value: float | None) -> str:
    return "" if value is None or value != value else re.sub(r"\.0$", "", f"{value:.4g}")
