"""What a push to the Hub leaves out: everything that tells of single training samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from huggingface_hub import HfApi

# The states of both trainers, TURN's features, and what run_glue_noisy.py writes; in whatever folder.
PRIVATE = ("*clear_state.safetensors", "*_turn_state.safetensors", "*_features.*", "*clean_probabilities.parquet")


@contextlib.contextmanager
def samples_left_out() -> Iterator[None]:
    """Within this context, a folder is uploaded without [`PRIVATE`] files.

    `Trainer` uploads its whole `output_dir`, has no argument for patterns, and its own ones leave out checkpoints at
    the top of it, but not those in folders (`run-0/checkpoint-3`). A checkpoint that is uploaded by itself, as
    `hub_strategy="checkpoint"` asks for, is complete.
    """
    stock = HfApi.upload_folder

    def upload_folder(self: HfApi, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("path_in_repo") is None:
            kwargs["ignore_patterns"] = [*(kwargs.get("ignore_patterns") or ()), *PRIVATE]
        return stock(self, *args, **kwargs)

    HfApi.upload_folder = upload_folder
    try:
        yield
    finally:
        HfApi.upload_folder = stock
