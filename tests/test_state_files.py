"""The files that a run goes on from: complete, small, and refused by name where they are damaged or of another run."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from safetensors import safe_open
from safetensors.torch import save_file

from hf_clear import ClearLoraConfig, ClearTrainer, TurnTrainer, TurnTrainingArguments
from hf_clear.files import write_atomically
from hf_clear.files.checksums import CHECKSUM
from hf_clear.identity.fingerprint import Fingerprint
from hf_clear.sample_store import SAMPLE_TENSORS, SampleStore
from hf_clear.turn.state import TurnState


def filled() -> SampleStore:
    store = SampleStore.empty(5)
    store.losses, store.clean_probability = torch.rand(5), torch.rand(5)
    store.targets, store.fitted_epoch = torch.rand(5, 3), 4
    return store


def test_round_trip(tmp_path):
    for store in (filled(), SampleStore.empty(5)):
        store.save(tmp_path / "state")
        loaded = SampleStore.load(tmp_path / "state", 5)
        assert loaded.fitted_epoch == store.fitted_epoch and (loaded.targets is None) == (store.targets is None)
        assert_same_samples(loaded, store)


def assert_same_samples(loaded: SampleStore, store: SampleStore) -> None:
    for name in SAMPLE_TENSORS:
        value, expected = getattr(loaded, name), getattr(store, name)
        assert value.dtype == expected.dtype and torch.equal(value.nan_to_num(-1), expected.nan_to_num(-1)), name


@pytest.mark.parametrize(("largest", "num_bytes"), [(2**15 - 1, 14), (2**15, 16), (2**31 - 1, 16), (2**31, 20)])
def test_bytes_a_sample(tmp_path, largest, num_bytes):
    store = SampleStore.empty(5000)
    store.labels[7] = largest
    store.save(tmp_path / "state")
    assert 0 < os.path.getsize(tmp_path / "state") - 5000 * num_bytes < 1000, "what is not of samples"
    assert_same_samples(SampleStore.load(tmp_path / "state", 5000), store)


def test_damaged_missing_and_foreign_files_are_refused_by_name(tmp_path):
    path = tmp_path / "clear_state.safetensors"
    with pytest.raises(FileNotFoundError, match=f"{path} is missing.*start again"):
        SampleStore.load(path, 5)
    filled().save(path)
    with pytest.raises(ValueError, match="5 samples while the training set has 6"):
        SampleStore.load(path, 6)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        SampleStore.load(path, 5)
    save_file({"weight": torch.zeros(5)}, path)
    with pytest.raises(ValueError, match=f"{path} is not a state"):
        SampleStore.load(path, 5)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def turn_state() -> TurnState:
    probe = {"head.weight": torch.ones(3, 2)}
    identity = Fingerprint("Dataset", 5).as_json()
    identity = {"data": identity, "settings": {}, "weights": {"frozen": {}, "trained": {}}}
    return TurnState(identity, 1, probe, [2], {}, SampleStore.empty(5), np.array([0, 4]), {"a": 1.0}, [])


def tensors(**changed):
    """Replaces tensors by name ("_" for "."); None removes one."""

    def change(tensors: dict, metadata: dict) -> None:
        for name, tensor in changed.items():
            name = next(own for own in tensors if own.replace(".", "_") == name)
            tensors.pop(name)
            if tensor is not None:
                tensors[name] = tensor

    return change


def metadata(state):
    return lambda tensors, metadata: metadata.update(state=state if isinstance(state, str) else json.dumps(state))


def plain(**changed):
    return lambda tensors, metadata: metadata.update(state=json.dumps({**json.loads(metadata["state"]), **changed}))


def format_is(name: str):
    return lambda tensors, metadata: metadata.update(format=name)


HALF = torch.full((5,), 0.5).double()
BAD_STATES = {
    "clear: another format": (
        format_is("hf_clear.sample_store.v3"),
        "is not a state .*format hf_clear.sample_store.v5",
    ),
    "turn: another format": (format_is("hf_clear.turn.v2"), "is not a state .*format hf_clear.turn.v3"),
    "clear: no metadata": (lambda tensors, metadata: metadata.pop("state"), "damaged .its metadata are no valid JSON"),
    "clear: metadata": (metadata("{"), "damaged .its metadata are no valid JSON"),
    "clear: metadata are a list": (metadata([]), "damaged .its metadata are a list"),
    "clear: epoch": (plain(fitted_epoch="4"), "fitted_epoch is '4'"),
    "clear: epoch is a bool": (plain(fitted_epoch=True), "fitted_epoch is True"),
    "clear: probability above 1": (tensors(clean_probability=HALF * 3), "clean_probability holds what is no prob"),
    "clear: probability is NaN": (
        tensors(clean_probability=HALF * torch.nan),
        "clean_probability holds what is no prob",
    ),
    "clear: probabilities are integers": (
        tensors(clean_probability=torch.ones(5).long()),
        "clean_probability is a torch.int",
    ),
    "clear: labels below": (tensors(labels=torch.full((5,), -1)), "labels holds -1, which is no label"),
    "clear: labels above": (tensors(labels=torch.arange(5)), "labels holds 4, and the model has 3 classes"),
    "clear: float8": (
        tensors(clean_probability=HALF.to(torch.float8_e4m3fn)),
        "clean_probability is a torch.float8_e4m3fn",
    ),
    "clear: epoch of 400 digits": (plain(fitted_epoch=10**400), "fitted_epoch is inf, which is no epoch"),
    "clear: epoch of 5000 digits": (metadata('{"fitted_epoch": ' + "9" * 5000 + "}"), "fitted_epoch is inf"),
    "clear: a name twice": (metadata('{"fitted_epoch": 1, "fitted_epoch": 2}'), "'fitted_epoch' comes twice"),
    "turn: labels below": (tensors(store_labels=torch.full((5,), -7)), "labels holds -7, which is no label"),
    "turn: 400 digits": (plain(probe_epochs=10**400), "probe_epochs in its metadata is inf, not a int"),
    "clear: labels are floats": (tensors(labels=torch.ones(5)), "labels is a torch.float32 of shape .5."),
    "clear: losses of two dimensions": (tensors(losses=torch.ones(5, 1)), "losses is a .* of shape .5, 1."),
    "clear: a scalar": (tensors(losses=torch.tensor(1.0)), "losses is a .* of shape .."),
    "clear: one too short": (tensors(mean_losses=torch.ones(4)), "the state of 4 samples while the training set has 5"),
    "clear: targets of other classes": (tensors(targets=torch.ones(5, 2)), "for 2 classes while the model has 3"),
    "clear: targets without classes": (tensors(targets=torch.ones(5)), "targets is a torch.float32 of shape .5."),
    "clear: targets are NaN": (tensors(targets=torch.ones(5, 3) * torch.nan), "targets holds what is no probability"),
    "turn: identity": (plain(identity=[]), r"identity in its metadata is \[\], not a dict"),
    "turn: no identity": (plain(identity={}), "data of its identity is None"),
    "turn: no number of samples": (
        plain(identity={"data": {}, "settings": {}, "weights": {}}),
        "kind of its data is None",
    ),
    "turn: epochs": (plain(probe_epochs=1.5), "probe_epochs in its metadata is 1.5, not a int"),
    "turn: no metadata": (metadata("null"), "its metadata are a NoneType"),
    "turn: probability": (tensors(store_clean_probability=-HALF), "clean_probability holds what is no probability"),
    "turn: a store in part": (tensors(store_labels=None), "it holds clean_probability, losses, mean_losses of the"),
    "turn: samples that are not there": (tensors(fine_tuning_samples=torch.tensor([5])), "not all among the 5"),
    "turn: samples": (tensors(fine_tuning_samples=torch.ones(2)), "no list of rows"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_a_bad_state_is_refused(tmp_path, case):
    path = tmp_path / "state.safetensors"
    is_clear = case.startswith("clear")
    (filled() if is_clear else turn_state()).save(path)

    def load():
        return SampleStore.load(path, 5, num_labels=3) if is_clear else TurnState.load(path)

    load()
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    del metadata[CHECKSUM]  # another program wrote it
    change, message = BAD_STATES[case]
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=f"{path} .*{message}.*start again"):
        load()


def test_a_state_of_another_model_is_refused(training_arguments):
    def turn() -> TurnTrainer:
        arguments = training_arguments(TurnTrainingArguments, probe_epochs=1)
        return TurnTrainer(tiny_bert(), arguments, train_dataset=toy_dataset(), data_collator=collate)

    turn().linear_probe()
    path = Path(turn().args.output_dir) / "_turn_state.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    del metadata[CHECKSUM]  # another program wrote it
    name = next(name for name in tensors if name.startswith("probe.") and tensors[name].ndim == 2)
    save_file({**tensors, name: torch.zeros(9, 9)}, path, metadata)
    with pytest.raises(ValueError, match=f"{path} is damaged .its probe doesn't fit the model's head: "):
        turn().train(resume_from_checkpoint=True)

    def clear(num_labels: int, **kwargs) -> ClearTrainer:
        return ClearTrainer(
            tiny_bert(num_labels),
            training_arguments(clear_warmup_epochs=0, num_train_epochs=1, **kwargs),
            train_dataset=toy_dataset(),
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="FEATURE_EXTRACTION"),  # without the head, which tells otherwise
        )

    clear(4, save_strategy="epoch").train()
    with pytest.raises(ValueError, match="holds targets for 4 classes while the model has 5"):
        clear(5).train(resume_from_checkpoint=True)
