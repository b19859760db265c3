import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hf_clear.files import write_atomically
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


def test_files_of_the_former_format(tmp_path):
    """Clean probabilities in float64, labels in int64."""
    path, store = tmp_path / "state", filled()
    turn = TurnState({"num_samples": 5}, 1, {"weight": torch.ones(3, 2)}, [2], {}, store, None, {}, [])
    for written, former, load in [
        (store, "hf_clear.sample_store.v2", lambda: SampleStore.load(path, 5)),
        (turn, "hf_clear.turn.v1", lambda: TurnState.load(path).sample_store),
    ]:
        written.save(path)
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        assert metadata["format"] != former
        for name, value in tensors.items():
            tensors[name] = value.long() if "labels" in name else value.double() if "clean" in name else value
        save_file(tensors, path, metadata | {"format": former})
        assert_same_samples(load(), store)
        save_file(tensors, path, metadata | {"format": "hf_clear.another.v1"})
        with pytest.raises(ValueError, match="is not a state of"):
            load()


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
