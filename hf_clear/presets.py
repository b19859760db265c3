"""Settings of CleaR by name, whatever the defaults of its arguments are."""

from __future__ import annotations

from typing import Any

from .tuners import PEFT_METHODS
from .without_posterior import GATES

# `γ` of the official code, by PEFT method.
_OFFICIAL_GAMMA = {"lora": 0.85, "adapter": 0.7, "bitfit": 0.9, "prompt": 0.85}
_OFFICIAL_OPTIMIZER = {
    "per_device_train_batch_size": 32,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.01,
    "max_grad_norm": 0.0,  # gradients are not clipped
}


def recommended(peft_method: str) -> dict[str, Any]:
    """The posterior of a noise model in the given label's place; if a noise matrix doesn't explain the labels, CleaR
    with gates. The defaults of [`ClearTrainingArguments`]."""
    return {
        "clear_gamma": 0.9,
        "clear_warmup": "evidence",
        "clear_warmup_epochs": 3,  # of plain training if the evidence is too weak
        "clear_folds": 2,
        "clear_evidence": "mean_probe+head_probe",
        "clear_warmup_random_routing": False,
        "clear_routing": "none",
        "clear_estimator": "noise_model",
        "clear_min_explained": 0.5,  # otherwise gates
        # What training predicts anyway.
        "clear_loss_source": "online",
        "clear_min_clean_probability": 0.0,
        "clear_loss": "posterior",
        "clear_loss_kwargs": None,
        "clear_consistency_weight": 1.0,
        "clear_ensemble_size": 1,  # the predictions of the last epoch
        "clear_ensemble_source": None,
        "clear_ensemble_temperature": 1.0,
        "clear_dropout_after_warmup": True,
    }


def clear(peft_method: str) -> dict[str, Any]:
    """CleaR without forward passes of its own for the consistency target. γ is open in [0, 1]; 0.9 is our choice."""
    return {
        **recommended(peft_method),
        # Targets are of the running mean of the predictions that training makes anyway; "step" if tokens have labels.
        **GATES,
        "clear_warmup": "epochs",
    }


def paper(peft_method: str) -> dict[str, Any]:
    """CleaR as its paper writes it (arXiv 2411.00873). The paper's text has no values for k, N and λ: 3, 2 and 1 are
    ours, near those of the official code."""
    return {
        **clear(peft_method),
        "clear_ensemble_source": "step",  # the equation's N forward passes in each step
        "clear_estimator": "plain_gaussian_mixture",
    }


def official(peft_method: str) -> dict[str, Any]:
    """CleaR as its authors' code does it, as far as arguments go; it differs from the paper. What no argument says is
    listed in docs/fidelity.md."""
    if peft_method not in _OFFICIAL_GAMMA:
        raise ValueError(
            f"The official code of CleaR has no PEFT method {peft_method!r}, only {', '.join(_OFFICIAL_GAMMA)}: take "
            '`preset("paper")`, and choose `clear_gamma` yourself.'
        )
    settings = {
        **paper(peft_method),
        # One value for all methods in the paper.
        "clear_gamma": _OFFICIAL_GAMMA[peft_method],
        # Targets of the passes that also give the mixture its losses; the paper predicts anew in each step.
        "clear_ensemble_source": "epoch",
        # After the first refit the model stays in evaluation mode; the paper says nothing of it.
        "clear_dropout_after_warmup": False,
        # Gates from Bernoulli(γ) before there are clean probabilities; in the paper, plain PEFT.
        "clear_warmup_random_routing": True,
        "clear_ensemble_size": 2 if peft_method == "lora" else 1,
        **_OFFICIAL_OPTIMIZER,
    }
    if peft_method == "adapter":  # its solver alone
        settings |= {
            # The mixture sees the exponential mean of the losses (0.9 on the past); in the paper, the losses.
            "clear_estimator": "plain_ema_gaussian_mixture",
            # Targets f_ens^(1/T); in the paper, f_ens.
            "clear_ensemble_temperature": 0.5,
        }
    return settings


PRESETS = {"recommended": recommended, "clear": clear, "paper": paper, "official": official}


def preset(name: str, peft_method: str = "lora") -> dict[str, Any]:
    """Arguments for [`ClearTrainingArguments`], by name. Each preset sets every argument `clear_...`: none depends on a
    default.

    `"recommended"` is what the arguments stand for without a preset: training on the posterior of a noise model, from
    evidence from outside the sample. `"clear"` is CleaR with its gates, and with a running mean of the predictions that
    training makes anyway as its consistency target. `"paper"` is CleaR as the paper (arXiv 2411.00873) writes it,
    `"official"` as its authors' code does it; the source names each difference at its field, and docs/fidelity.md
    those that no argument has. The official code has LoRA of rank 4 with `lora_alpha` 1 and adapters of size 16, which
    are the PEFT config's to say. Its label noise is `"symmetric_including_true_class"` and `"asymmetric_previous"` of
    [`~hf_clear.noise.NOISE_TYPES`].

    Args:
        name (`str`): `"recommended"`, `"clear"`, `"paper"` or `"official"`.
        peft_method (`str`, *optional*, defaults to `"lora"`): a name among `PEFT_METHODS` (`hf_clear.tuners`). The
            official code's settings depend on it; it has `"lora"`, `"adapter"`, `"bitfit"` and `"prompt"`.

    Returns:
        `dict[str, Any]`: keyword arguments; to change one, `{**preset("paper"), "clear_gamma": 0.7}`.

    Raises:
        ValueError: if the name or the method is unknown, or the official code doesn't have the method.

    Example:

    ```python
    >>> args = ClearTrainingArguments(output_dir="out", **preset("official", "adapter"))
    ```
    """
    if name not in PRESETS:
        raise ValueError(f"The preset has to be one of {', '.join(PRESETS)}; got {name!r}.")
    PEFT_METHODS.find(peft_method, "peft_method")
    return PRESETS[name](peft_method)
