"""What people see while it runs: messages, progress bars, signatures."""

import inspect
import logging

import pytest
import transformers
from helpers.toy import toy_dataset
from helpers.trainers import lora_trainer
from transformers import Trainer

from hf_clear import ClearTrainer, TurnTrainer


@pytest.fixture
def verbosity():
    before = transformers.logging.get_verbosity()
    logging.getLogger("hf_clear").setLevel(logging.NOTSET)  # `caplog.at_level` leaves the one that it has found
    yield
    transformers.logging.set_verbosity(before)


def test_messages_obey_the_verbosity_of_transformers(verbosity, caplog):
    ours = logging.getLogger("hf_clear.refit")
    transformers.logging.set_verbosity_error()
    ours.warning("kept to itself")
    transformers.logging.set_verbosity_info()
    ours.info("shown")
    logging.getLogger("hf_clear").setLevel(logging.ERROR)  # a level of its own comes first
    ours.info("kept to itself")
    logging.getLogger("hf_clear").setLevel(logging.NOTSET)
    assert [record.message for record in caplog.records] == ["shown"]


def test_a_refit_shows_its_progress(training_arguments, capsys):
    trainer = lora_trainer(training_arguments, num_train_epochs=2, disable_tqdm=False)
    trainer.train()
    assert "Refit: 100%" in capsys.readouterr().err
    transformers.logging.disable_progress_bar()
    try:
        trainer.train()
    finally:
        transformers.logging.enable_progress_bar()
    assert "Refit" not in capsys.readouterr().err


@pytest.mark.parametrize("cls", [ClearTrainer, TurnTrainer])
def test_signatures_are_those_of_trainer_and_a_peft_config(cls):
    stock, own = inspect.signature(Trainer.__init__).parameters, inspect.signature(cls.__init__).parameters
    assert list(own) == [*stock, "peft_config"]
    assert all(own[name].default == stock[name].default for name in stock)
    assert own["peft_config"].default is None


def test_arguments_by_position_are_those_of_trainer(training_arguments):
    stock = lora_trainer(training_arguments)
    data = toy_dataset(8)
    trainer = ClearTrainer(stock.model, stock.args, stock.data_collator, data)
    assert trainer.train_dataset is data and trainer.data_collator is stock.data_collator
