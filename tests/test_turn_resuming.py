"""Every phase of TURN goes on where it was stopped, or says why it can't."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy import tiny_bert
from helpers.trainers import Dictionaries
from helpers.turn import assert_same, noisy_dataset, state_of
from peft import LoraConfig
from transformers import TrainerCallback

from hf_clear import CleanProbabilityEstimate
from hf_clear.estimators import ESTIMATORS, NamedEstimator
from hf_clear.losses import generalized_cross_entropy
from hf_clear.turn.state import STATE_NAME


class Killed(Exception):
    pass


class KillAt(TrainerCallback):
    """Ends the run when something is logged, before it is saved."""

    def __init__(self, when):
        self.when = when

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.when(logs, state):
            raise Killed


@pytest.fixture(scope="module")
def whole_runs() -> dict:
    """Runs that nothing stopped, with and without PEFT."""
    return {}


@pytest.mark.parametrize(
    "when",
    [
        pytest.param(lambda logs, state: logs.get("probe_epoch") == 1, id="before the first probing epoch is saved"),
        pytest.param(lambda logs, state: logs.get("probe_epoch") == 4, id="probing"),
        pytest.param(lambda logs, state: "probe_runtime" in logs, id="after probing"),
        pytest.param(lambda logs, state: "cleanse_kept" in logs, id="cleansing"),
        pytest.param(lambda logs, state: state.global_step == 3, id="fine-tuning, before its first checkpoint"),
        pytest.param(lambda logs, state: state.global_step == 16, id="fine-tuning, in mid-epoch"),
    ],
)
@pytest.mark.parametrize("peft", [False, True])
def test_every_phase_resumes_to_the_same_result(turn, whole_runs, tmp_path, when, peft):
    kwargs = {"save_strategy": "steps", "save_steps": 7, "probe_features": "mean", "turn_balance": "min"}
    if peft:
        kwargs["peft_config"] = LoraConfig(task_type="SEQ_CLS", lora_dropout=0.1)
    if peft not in whole_runs:
        trainer = turn(**kwargs)
        whole_runs[peft] = trainer, trainer.train()
        shutil.rmtree(tmp_path / "out")
    straight, expected = whole_runs[peft]

    killed = turn(callbacks=[KillAt(when)], **kwargs)
    with pytest.raises(Killed):
        killed.train()
    is_there = (tmp_path / "out" / STATE_NAME).is_file()
    resumed = turn(**kwargs)
    output = resumed.train(resume_from_checkpoint=is_there)
    assert_same(state_of(straight), state_of(resumed))
    assert_same(straight.probe.state_dict(), resumed.probe.state_dict())
    assert straight.clean_probabilities()[:] == resumed.clean_probabilities()[:]
    assert output.global_step == expected.global_step > 20

    def of_phases(trainer):
        return [
            {name: value for name, value in entry.items() if not name.endswith("runtime")}
            for entry in trainer.state.log_history
            if any(name.startswith(("probe_", "cleanse_")) for name in entry)
        ]

    assert of_phases(straight) == of_phases(resumed)
    assert set(output.metrics) == set(expected.metrics) > {"probe_loss", "cleanse_purity", "finetune_loss"}


def test_a_probe_that_was_interrupted_in_mid_epoch_begins_again(turn, monkeypatch):
    straight, trainer = turn(), turn()
    straight.linear_probe()
    with monkeypatch.context() as patch:
        steps = iter(range(8))  # five an epoch

        def loss(*args):
            next(steps)
            return generalized_cross_entropy(*args)

        patch.setattr("hf_clear.probing.probe.generalized_cross_entropy", loss)
        with pytest.raises((StopIteration, RuntimeError)):
            trainer.linear_probe()
    trainer.model.load_state_dict(turn().model.state_dict())
    trainer.linear_probe()
    assert_same(straight.probe.state_dict(), trainer.probe.state_dict())


def test_all_samples_called_noisy_and_the_probe_is_kept(turn, monkeypatch):
    dataset = noisy_dataset()
    hopeless = NamedEstimator("hopeless", lambda e: CleanProbabilityEstimate(np.full(len(e.losses), 0.2)))
    monkeypatch.setitem(ESTIMATORS, "hopeless", hopeless)
    trainer = turn(dataset, turn_estimator="hopeless")
    with pytest.raises(ValueError, match="above 0.6: all 160 are called noisy.*is 0.2.*Lower `turn_threshold`"):
        trainer.train()
    trainer.args.turn_threshold = 0.1  # in the same process
    assert trainer.cleanse()["cleanse_kept"] == 160
    # In another, where nothing is probed again.
    resumed = turn(dataset)
    monkeypatch.setattr(resumed, "linear_probe", None)
    resumed.train(resume_from_checkpoint=True)
    straight = turn(dataset)
    straight.train()
    assert_same(state_of(straight), state_of(resumed))


def test_resuming_from_checkpoints_without_optimizer(turn):
    """They hold no state of TURN either; the one in `output_dir` stands in."""
    arguments = {"save_strategy": "epoch", "save_only_model": True}
    turn(**arguments).train()
    again = turn(**arguments)
    again.train(resume_from_checkpoint=True)
    assert again.fine_tuning_samples is not None and again.clean_probabilities()


def test_cleansing_again(turn):
    """With other arguments, after a fine-tuning that was resumed, and where features would be needed that are gone."""
    trainer = turn(save_strategy="epoch")
    trainer.linear_probe()
    trainer.args.turn_estimator = "knn"  # needs features that the probe didn't
    trainer.cleanse()
    trainer.args.turn_estimator = "per_class_gaussian_mixture"
    trainer.train()
    probability = trainer.sample_store.clean_probability.clone()
    trainer.cleanse()
    assert torch.equal(probability, trainer.sample_store.clean_probability)
    resumed = turn(save_strategy="epoch")
    resumed.finetune(True)
    assert torch.equal(probability, resumed.sample_store.clean_probability)
    with pytest.raises(RuntimeError, match="Fine-tuning has changed the features"):
        resumed.cleanse()
    for name, value, message in (
        ("turn_threshold", 1.5, "strictly between 0 and 1; got 1.5"),
        ("turn_balance", "bogus", "'min', 'none' or a number"),
    ):
        other = turn()
        other.linear_probe()
        setattr(other.args, name, value)
        with pytest.raises(ValueError, match=message):
            other.cleanse()


def test_states_that_do_not_fit(turn, tmp_path):
    path = tmp_path / "out" / STATE_NAME
    with pytest.raises(ValueError, match="No checkpoint and no _turn_state.safetensors in the output directory"):
        turn().train(resume_from_checkpoint=True)
    turn(save_strategy="epoch").train()
    checkpoint = str(next((tmp_path / "out").glob("checkpoint-*")))
    with pytest.raises(ValueError, match=r"of a run with other settings \(probe_epochs: 6 -> 7, seed: 7 -> 8\)"):
        turn(probe_epochs=7, seed=8).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"other settings \(turn_threshold: 0.6 -> 0.7\)"):  # has been fine-tuned on
        turn(turn_threshold=0.7).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"other data: the number of samples \(160 -> 120\)"):
        turn(noisy_dataset(120)).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(
        ValueError, match=r"labels of \d+ of 160 samples \(sample \d+: \d -> \d,.*from_pretrained"
    ):  # as many samples
        turn(noisy_dataset(rate=0.2)).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"other settings \(num_parameters: \d+ -> \d+\)"):
        turn(model=tiny_bert(num_hidden_layers=2)).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        turn().train(resume_from_checkpoint=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="is a file: name the folder"):
        turn().train(resume_from_checkpoint=str(path))
    with pytest.raises(FileNotFoundError, match="is missing.*TurnTrainer"):
        turn().train(resume_from_checkpoint=str(tmp_path))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="_turn_state.safetensors is damaged.*start again"):
        turn().train(resume_from_checkpoint=str(tmp_path / "out"))


def test_an_interrupted_write_leaves_the_state_as_it_was(turn, tmp_path, monkeypatch):
    trainer = turn()
    trainer.linear_probe()
    content = (tmp_path / "out" / STATE_NAME).read_bytes()

    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        trainer.cleanse()
    assert (tmp_path / "out" / STATE_NAME).read_bytes() == content
    assert [file.name for file in Path(tmp_path / "out").iterdir()] == [STATE_NAME]


def test_until_fine_tuning_begins_data_and_model_are_those_of_the_probe(turn, tmp_path, monkeypatch):
    """Those of a torch Dataset too; the settings of fine-tuning may change."""
    data = noisy_dataset(40)
    turn(Dictionaries(data), probe_epochs=1, turn_threshold=0.01).linear_probe()
    relabelled, other_model = Dictionaries(data), tiny_bert(initializer_range=0.2)
    relabelled.data[3] = {**relabelled.data[3], "labels": (relabelled.data[3]["labels"] + 1) % 4}
    other_model.bert.encoder.layer[0].output.dense.weight.data += 1
    for message, dataset, arguments in (
        (r"the labels of 1 of 40 samples \(sample 3: \d -> \d\) changed", relabelled, {}),
        ("the order of the samples", Dictionaries(data.select(range(39, -1, -1))), {}),
        (r"another base model \(weights bert.encoder.layer.0.output.dense.weight;", Dictionaries(data), other_model),
        (r"other settings \(seed: 7 -> 8\)", Dictionaries(data), {"seed": 8}),
    ):
        arguments = {"model": arguments} if arguments is other_model else arguments
        with pytest.raises(ValueError, match=f"out is of a run with .*{message}"):
            turn(dataset, probe_epochs=1, turn_threshold=0.01, **arguments).train(resume_from_checkpoint=True)
    resumed = turn(Dictionaries(data), probe_epochs=1, turn_threshold=0.02, learning_rate=5e-4, num_train_epochs=1)
    monkeypatch.setattr(resumed, "linear_probe", None)
    resumed.train(resume_from_checkpoint=True)
    resumed.train_dataset = relabelled
    with pytest.raises(ValueError, match=r"was replaced since the probe was trained: the labels of 1 of 40"):
        resumed.cleanse()
