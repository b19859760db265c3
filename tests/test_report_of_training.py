"""The report of a trainer and of a run's folder, and its pictures in TensorBoard and Weights & Biases."""

import base64
import gzip
import json
import logging
import re
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel
from helpers.report import issues
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.trainers import assert_same_weights, lora_model, lora_trainer, weights
from safetensors.numpy import save_file
from transformers import Trainer

from hf_clear import ClearTrainer, TurnTrainer, preset
from hf_clear.fit_checks import FitFindings
from hf_clear.report import ReportCallback, save_run_report
from hf_clear.runs import label_evidence, save_label_issues


def of_labels(items):
    return collate([{("labels" if name == "label" else name): own for name, own in item.items()} for item in items])


def unpacked(path) -> dict:
    content = re.search(r'id="data">([^<]*)<', path.read_text(encoding="utf-8")).group(1)
    return json.loads(gzip.decompress(base64.b64decode(content)))


def pictures_in(path) -> list[str]:
    return re.findall(r'<figure id="picture-(\w+)"', path.read_text(encoding="utf-8"))


def test_the_report_of_a_trainer(training_arguments, tmp_path):
    trainer = lora_trainer(training_arguments)
    with pytest.raises(RuntimeError, match="There are no clean probabilities"):
        trainer.save_report()
    trainer.train()

    path = trainer.save_report()

    assert path == tmp_path / "out" / "report.html"
    suspects = trainer.label_issues()
    data = unpacked(path)
    assert data["sample_index"] == suspects["sample_index"][:] and len(suspects) > 0
    assert [data["classes"][label] for label in data["given_label"]] == [str(own) for own in suspects["given_label"]]
    assert pictures_in(path)[:3] == ["losses", "losses_by_epoch", "clean_probabilities"]
    page = path.read_text(encoding="utf-8")
    assert all(text[:40] in page for text in trainer.fit_findings.warnings.values()) and trainer.fit_findings.warnings
    fits = [entry["loss_histogram"] for entry in trainer.state.log_history if "clean_fraction" in entry]
    assert len(fits) == 2 and all(sum(fit["counts"]) in (23, 24) and len(fit["edges"]) == 51 for fit in fits)
    json.dumps(trainer.state.log_history)

    path.write_text("somebody's own")
    with pytest.raises(FileExistsError, match="is no report of hf_clear"):
        trainer.save_report()
    assert path.read_text() == "somebody's own"


def test_the_report_of_turn(turn):
    trainer = turn()
    trainer.train()
    path = trainer.save_report()
    page = path.read_text(encoding="utf-8")
    assert "losses" in pictures_in(path) and "of the last fit" in page
    assert isinstance(trainer, TurnTrainer) and f" of {len(trainer.train_dataset)} labels" in page


def test_the_report_of_a_run(tmp_path):
    table, log_history = issues()
    kinds = {"fit_no_two_groups": 1, "fit_lost_classes": 1}
    log_history[-2] |= kinds
    folder = tmp_path / "a run"
    last = folder / "checkpoint-30"
    last.mkdir(parents=True)
    truth = table.pop("true_label")
    with pytest.raises(FileNotFoundError, match="a run has no label_issues.parquet"):
        save_run_report(folder)
    table.to_parquet(folder / "label_issues.parquet")
    pd.DataFrame({"sample_index": table.sample_index, "true_label": truth})[::-1].to_parquet(
        folder / "clean_probabilities.parquet"
    )
    (last / "trainer_state.json").write_text(json.dumps({"log_history": log_history}))
    told = FitFindings({"no_two_groups": "<i>As the checkpoint tells it.</i>", "non_finite_losses": "of another fit"})
    state = {"state": json.dumps({"findings": told.as_dict()})}
    save_file({"losses": np.zeros(1)}, last / "clear_state.safetensors", state)

    path = save_run_report(folder)

    page = path.read_text(encoding="utf-8")
    assert path == folder / "report.html" and "<h1>Labels of a run</h1>" in page
    assert "&lt;i&gt;As the checkpoint tells it." in page and "Nearly all labels of some classes" in page
    assert "of another fit" not in page
    assert set(pictures_in(path)) == {
        *("losses", "losses_by_epoch", "clean_probabilities", "labels", "detection", "memorization"),
        *("curves_loss", "curves_accuracy"),
    }
    assert "precision, by the truth" in page
    (last / "trainer_state.json").write_text("{ damaged")
    (last / "clear_state.safetensors").write_text("damaged")
    assert set(pictures_in(save_run_report(folder, tmp_path / "less.html"))) == {
        *("losses", "clean_probabilities", "labels", "detection"),
    }


@pytest.mark.parametrize("routed", [False, True])
def test_a_run_without_a_fit_of_its_own_claims_no_more_than_it_knows(training_arguments, tmp_path, caplog, routed):
    """A mixture splits the losses of a model that has learned nothing, too."""
    data = toy_dataset(80).cast_column("labels", ClassLabel(4)).rename_column("labels", "label")
    data = data.add_column("text", [f"text {i}" for i in range(80)])
    model = lora_model() if routed else tiny_bert()
    arguments = {"num_train_epochs": 1, "learning_rate": 1e-6, "clear_warmup_epochs": 3}
    arguments = training_arguments(**{**preset("clear"), **arguments})
    trainer = (ClearTrainer if routed else Trainer)(model, arguments, train_dataset=data, data_collator=of_labels)
    trainer.train()
    with caplog.at_level(logging.WARNING):
        evidence = label_evidence(trainer)
    assert "no better" in caplog.text or "a model that tells anything would get" in caplog.text
    save_label_issues(trainer, evidence, data)
    page = save_run_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "Before you trust this" in page and "be told from this fit" in page
    assert "in 100 of them are expected" not in page and "the expected share of wrong labels" not in page
    if routed:
        trainer.create_model_card()
        card = (tmp_path / "out" / "README.md").read_text()
        assert "but plainly: training ended before clean probabilities" in card and "a mixture of two" not in card
        assert "no clean probabilities were fitted" in card and "| After epoch" not in card


def test_pictures_in_tensorboard(training_arguments, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    quiet = lora_trainer(training_arguments, num_train_epochs=2)
    quiet.remove_callback(ReportCallback)
    quiet.train()
    trainer = lora_trainer(training_arguments, report_to="tensorboard", num_train_epochs=2)
    trainer.train()
    assert_same_weights(weights(quiet.model), weights(trainer.model))  # pictures change nothing

    events = EventAccumulator(str(tmp_path / "logs"), size_guidance={"images": 0}).Reload()
    images = {name: events.Images(name) for name in events.Tags()["images"]}
    assert {"report/losses", "report/clean_probabilities", "report/labels", "report/memorization"} <= images.keys()
    assert [image.step for image in images["report/losses"]] == [6]
    assert all(image.encoded_image_string.startswith(b"\x89PNG") for image in images["report/losses"])


def test_pictures_in_wandb(training_arguments, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name in ("WANDB_SILENT", "WANDB_DISABLE_GIT", "WANDB_DISABLE_CODE", "WANDB__DISABLE_STATS"):
        monkeypatch.setenv(name, "true")
    trainer = lora_trainer(training_arguments, report_to="wandb", run_name="toy", num_train_epochs=2)
    try:
        trainer.train()
    finally:
        wandb.finish()
    names = Counter(path.name.rsplit("_", 2)[0] for path in tmp_path.glob("wandb/offline-run-*/files/media/**/*.png"))
    assert names["losses"] == names["labels"] == 1


def test_without_matplotlib_a_training_goes_on(training_arguments, monkeypatch, caplog):
    pytest.importorskip("tensorboard")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    trainer = lora_trainer(training_arguments, report_to="tensorboard")
    trainer.train()
    told = [record.message for record in caplog.records if "No pictures" in record.message]
    assert len(told) == 1 and 'pip install "hf-clear[report]"' in told[0]
