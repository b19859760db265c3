"""Whether a run can go on from its checkpoints, and whether its best model can be loaded: what `Trainer` finds out too
late, or not at all."""

from __future__ import annotations

import logging

from peft import PeftModel

from .._typing import AnyTrainer

logger = logging.getLogger(__name__)
_DEFAULT = "default"  # the adapter whose files `Trainer` looks for


def check_ways_back(trainer: AnyTrainer) -> None:
    """Says if no run can go on from the checkpoints of the one that begins.

    Raises:
        ValueError: if `load_best_model_at_end=True` could not load the best model in the end.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    has_peft_inside = not isinstance(model, PeftModel) and getattr(model, "_hf_peft_config_loaded", False)
    adapters = model.active_adapters if isinstance(model, PeftModel) else [_DEFAULT]
    if args.load_best_model_at_end and not trainer.is_deepspeed_enabled:  # which restores all there is
        if has_peft_inside:
            raise ValueError(
                "`load_best_model_at_end=True` can't load the best model of one with adapters by `model.add_adapter`: "
                "transformers looks for whole weights, and finds none. Give `peft_config` to the trainer, or a model "
                "by `get_peft_model`."
            )
        if adapters != [_DEFAULT]:
            raise ValueError(
                f"`load_best_model_at_end=True` loads the adapter {_DEFAULT!r} alone, and {adapters} is trained: the "
                f"last model would stay. Train one adapter of the name {_DEFAULT!r}."
            )
    if args.save_strategy == "no":
        return
    why = ""
    if args.save_only_model:
        why = "with `save_only_model=True` they hold weights alone. Leave it out"
    elif has_peft_inside:
        why = (
            "of a model with adapters by `model.add_adapter` they hold these alone, and transformers looks for whole "
            "weights. Give `peft_config` to the trainer, or a model by `get_peft_model`,"
        )
    if why:
        logger.warning(
            f"No run can go on from the checkpoints of this one (`resume_from_checkpoint`): {why} if this run may be "
            "interrupted."
        )
