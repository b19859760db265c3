"""docs/logged_names.md is what is logged."""

import re
from pathlib import Path

import pytest
from helpers.toy import collate, tiny_bert
from helpers.trainers import noisy_toy

from hf_clear import ClearLoraConfig, ClearTrainer, ClearTrainingArguments, TurnTrainer, TurnTrainingArguments, preset
from hf_clear.losses import TRAINING_LOSSES

# What `Trainer` logs, with and without hf_clear.
STOCK = re.compile("epoch|step|grad_norm|learning_rate|total_flos|(train|eval)_.*")
DOCUMENTED = re.findall(
    r"`([a-z_.]+)`(?=[^|\n]*\|[^|\n]*\|$)", (Path(__file__).parents[1] / "docs/logged_names.md").read_text(), re.M
)


def logged(cls, arguments, **kwargs) -> set[str]:
    data = noisy_toy()
    trainer = cls(tiny_bert(), arguments, train_dataset=data, eval_dataset=data, data_collator=collate, **kwargs)
    trainer.train()
    return {name for entry in trainer.state.log_history for name in entry if not STOCK.fullmatch(name)}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> set[str]:
    shared = {
        "output_dir": str(tmp_path_factory.mktemp("out")),
        **{"use_cpu": True, "save_strategy": "no", "logging_steps": 1, "num_train_epochs": 2, "disable_tqdm": True},
    }
    peft_config = ClearLoraConfig(task_type="SEQ_CLS", r=2)
    names = set()
    for loss in TRAINING_LOSSES:
        clear = preset("clear") | {"clear_warmup_epochs": 1, "clear_loss": loss, "clear_min_clean_probability": 0.01}
        if TRAINING_LOSSES[loss].uses_posterior:
            clear |= {"clear_estimator": "noise_model", "clear_warmup": "evidence"}
        names |= logged(ClearTrainer, ClearTrainingArguments(**shared, **clear), peft_config=peft_config)
    folds = preset("recommended") | {"clear_warmup": "cross_fit", "clear_warmup_epochs": 1, "probe_epochs": 2}
    names |= logged(ClearTrainer, ClearTrainingArguments(**shared, **folds), peft_config=peft_config)
    both = preset("clear") | {
        "clear_warmup": "evidence",
        "clear_warmup_epochs": 1,
        "clear_estimator": "evidence_mixture",
    }
    names |= logged(ClearTrainer, ClearTrainingArguments(**shared, **both), peft_config=peft_config)
    turn = {"turn_threshold": 0.1, "probe_epochs": 2, "eval_strategy": "epoch"}
    return names | logged(TurnTrainer, TurnTrainingArguments(**shared, **turn))


def test_every_logged_name_is_documented(found):
    prefixes = tuple(name.removesuffix("...") for name in DOCUMENTED if name.endswith("..."))
    unknown = {name for name in found if not name.startswith(prefixes)}
    assert {name for name in unknown if name.removeprefix("cleanse_") not in DOCUMENTED} - set(DOCUMENTED) == set()


def test_every_documented_name_is_logged(found):
    elsewhere = {"task_loss", "compute_loss_func"}  # tests/test_task_loss.py
    elsewhere |= {f"estimated_noise_rate{end}" for end in ("", "_low", "_high")}  # tests/test_fit_checks.py
    elsewhere |= {"fit_no_better_than_chance", "fit_lost_classes", "fit_no_two_groups", "fit_non_finite_losses"}
    elsewhere |= {"fit_unexplained_classes"}  # tests/test_fit_checks.py, too
    elsewhere |= {"gates_open"}  # tests/test_back_to_the_posterior.py
    for name in set(DOCUMENTED) - elsewhere:
        assert any(n.startswith(name.removesuffix("...")) for n in found) if name.endswith("...") else name in found, (
            name
        )
