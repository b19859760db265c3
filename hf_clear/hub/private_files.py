"""What a push to the Hub uploads: what belongs to a model, and nothing that tells of single samples or of a machine."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from transformers.trainer import TRAINER_STATE_NAME

from .._names import CLEAN_PROBABILITIES, CLEAR_STATE, ISSUES_SHEET, ISSUES_TABLE, REPORT, TEST_PREDICTIONS
from .paths import without_local_paths

logger = logging.getLogger(__name__)

# Arguments of an upload that is like those of `Trainer`.
_OF_TRAINER = {
    *("repo_id", "repo_type", "folder_path", "path_in_repo", "commit_message", "commit_description", "token"),
    *("revision", "create_pr", "parent_commit", "ignore_patterns", "run_as_future"),
}
_LISTED = 10  # names in a message
_named: set[tuple[str, str]] = set()  # what a message has named already: there is a push after every checkpoint
# At the top of the folder: what Trainer, peft, tokenizers and run_glue_noisy.py write for those who use a model. Any
# other file may be an export of suspects: no name tells.
PUBLIC = (
    *("README.md", "LICENSE*", "NOTICE*", ".gitattributes", "requirements.txt", "*.py"),
    *("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json"),
    *("adapter_model*.safetensors", "adapter_model*.bin", "config.json", "*_config.json", "label_names.json"),
    *("tokenizer.json", "added_tokens.json", "special_tokens_map.json", "chat_template.*", "*.jinja"),
    *("vocab.txt", "vocab.json", "vocab-*.json", "vocab_*.json", "merges.txt", "normalizer.json", "bpe.codes"),
    *("*.model", "*.spm", "*.tiktoken", "dict.txt", "emoji.json", "entity_vocab.json", TRAINER_STATE_NAME),
    *(f"{split}_results.json" for split in ("all", "train", "eval", "test", "predict", "detection")),
)
# In folders: further adapters, and templates of a tokenizer.
_PUBLIC_BELOW = ("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json", "*.jinja")
# Of a checkpoint neither: a pickle that holds `hub_token` and the folders of the machine, which nothing reads to load a
# model or to resume.
NEVER = "training_args.bin"
# Not worth a warning: they are kept at home by design.
_OWN = (
    *("_*", "checkpoint-*", "*/checkpoint-*", "*/_*", CLEAR_STATE, CLEAN_PROBABILITIES),
    *(ISSUES_TABLE, ISSUES_SHEET, REPORT, TEST_PREDICTIONS, NEVER),
)


@contextlib.contextmanager
def samples_left_out() -> Iterator[None]:
    """Within this context, a folder is uploaded to a model's repository without what is not [`PUBLIC`], with one
    warning that names it, and without the paths of this machine in configs and card.

    `Trainer` uploads its whole `output_dir`, has no argument for patterns, and its own ones leave out checkpoints at
    the top of it, but not those in folders (`run-0/checkpoint-3`). A checkpoint that is uploaded by itself, as
    `hub_strategy="checkpoint"` asks for, is complete but for `training_args.bin`.
    """
    stock = HfApi.upload_folder

    def upload_folder(self: HfApi, **kwargs: Any) -> Any:
        is_trainers = kwargs.keys() <= _OF_TRAINER and kwargs.get("repo_type") in (None, "model")
        return _upload(self, **kwargs) if is_trainers else stock(self, **kwargs)

    HfApi.upload_folder = upload_folder  # type: ignore[method-assign]
    try:
        yield
    finally:
        HfApi.upload_folder = stock  # type: ignore[method-assign]


def _upload(
    api: HfApi,
    *,
    folder_path: str | os.PathLike,
    path_in_repo: str | None = None,
    ignore_patterns: Sequence[str] | str | None = None,
    run_as_future: bool = False,
    **kwargs: Any,
) -> Any:
    """Takes the place of `HfApi.upload_folder`."""
    folder = Path(folder_path)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.glob("**/*") if path.is_file())
    files = [file for file in files if PurePosixPath(file).name != NEVER]
    if not path_in_repo:
        ignored = [ignore_patterns] if isinstance(ignore_patterns, str) else list(ignore_patterns or ())
        files = [file for file in files if not _fits(file, (*ignored, *_OWN))]
        private = [file for file in files if not is_public(file)]
        files = [file for file in files if is_public(file)]
        _warn(folder, private)

    def commit() -> Any:
        operations = [
            CommitOperationAdd("/".join(filter(None, [path_in_repo, file])), without_local_paths(folder / file))
            for file in files
        ]
        return api.create_commit(operations=operations, **{"commit_message": "Upload a model", **kwargs})

    return api.run_as_future(commit) if run_as_future else commit()


def is_public(file: str) -> bool:
    """Whether a file, by its path in `output_dir`, belongs to a model."""
    path = PurePosixPath(file)
    return _fits(path.name, PUBLIC if len(path.parts) == 1 else _PUBLIC_BELOW if len(path.parts) == 2 else ())


def _fits(file: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(file, pattern) for pattern in patterns)


def _warn(folder: Path, private: list[str]) -> None:
    new = [file for file in private if (str(folder), file) not in _named]
    _named.update((str(folder), file) for file in new)
    if new:
        logger.warning(
            f"Not uploaded to the Hub, since they may tell of single samples: {', '.join(new[:_LISTED])}"
            f"{f' and {len(new) - _LISTED} more' * (len(new) > _LISTED)} of {folder}. To upload one all the same: "
            "`huggingface_hub.upload_file(...)`."
        )
