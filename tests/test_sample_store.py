import os

import pytest
import torch
from safetensors.torch import save_file

from hf_clear.files import write_atomically
from hf_clear.sample_store import SampleStore


def filled() -> SampleStore:
    store = SampleStore.empty(5)
    store.losses, store.clean_probability = torch.rand(5), torch.rand(5).double()
    store.targets, store.fitted_epoch = torch.rand(5, 3), 4
    return store


def test_round_trip(tmp_path):
    for store in (filled(), SampleStore.empty(5)):
        store.save(tmp_path / "state")
        loaded = SampleStore.load(tmp_path / "state", 5)
        assert loaded.fitted_epoch == store.fitted_epoch and (loaded.targets is None) == (store.targets is None)
        for name in ("losses", "clean_probability", "labels"):
            assert torch.equal(getattr(loaded, name).nan_to_num(-1), getattr(store, name).nan_to_num(-1))


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
