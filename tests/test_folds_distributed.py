"""A cross-fitting warm-up on two processes is that on one with batches of twice the size."""

from pathlib import Path

import pytest
import torch
from helpers import folds_runs as runs
from test_distributed import TESTS, TORCHRUN, launch


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("folds")
    launch(TORCHRUN, TESTS / "helpers" / "folds_runs.py", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def assert_close(first: dict, second: dict, **tolerance) -> None:
    assert first.keys() == second.keys() and first
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", runs.SETTINGS)
def test_two_processes_are_one_with_larger_batches(ranks, tmp_path, name):
    first, second = (results[name] for results in ranks)
    alone = runs.run(tmp_path, name, 8)
    assert first["world_size"] == second["world_size"] == 2 and alone["world_size"] == 1
    assert len(first["weights"]) == len(alone["weights"]) == 18
    for step in range(18):
        assert_close(first["weights"][step], second["weights"][step], rtol=0, atol=0)
        if step <= 12:  # sums of another order, and Adam: later they may drift apart
            assert_close(first["weights"][step], alone["weights"][step], rtol=1e-2, atol=2e-3)
    assert any(".clear_fold_1." in name for name in first["weights"][11])
    assert not any("clear_fold" in name for name in first["weights"][12])
    assert torch.equal(first["scores"], second["scores"])
    torch.testing.assert_close(first["scores"], alone["scores"], rtol=1e-2, atol=1e-2)
    assert_close(first["last"], second["last"], rtol=0, atol=0)


def test_two_processes_go_on_in_the_warm_up(ranks):
    for results in ranks:
        assert_close(results["resumed"]["last"], results["lora"]["last"], rtol=0, atol=0)
        assert torch.equal(results["resumed"]["scores"], results["lora"]["scores"])
