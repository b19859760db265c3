"""What a trainer saves for inference: the names of the classes beside an adapter, and merged models."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from peft import PeftModel, PeftType
from torch import nn
from transformers import PreTrainedModel

from ._processes import run_on_main
from ._trainer_types import OwnTrainer
from ._unwrap import base_of
from .checksums import file_checksum
from .files import write_atomically, write_folder
from .hub.dataset_names import dataset_names
from .hub.model_card import complete_model_card
from .label_names import are_names, is_classifier, name_classes, names_in, write_label_names
from .report.shown_columns import class_names
from .sample_index import label_names
from .tuners import can_be_merged

MERGED_FILES = "merged_files.json"  # what `save_merged` has written, with checksums


class SavedModelsMixin(OwnTrainer):
    """For a [`~transformers.Trainer`] whose models are loaded elsewhere, by the names of their classes."""

    def save_merged(self, output_dir: str | os.PathLike) -> None:
        """Writes the model with its adapter merged into the weights: a plain model of transformers with tokenizer (or
        other processing class) and model card, for `pipeline` and `from_pretrained` without peft and hf_clear. The
        trainer's model stays as it is, and training can go on.

        The folder is complete or not there. For the merge, there is a second copy of the model in memory. On several
        processes, call it on every one; the main process writes.

        Args:
            output_dir (`str` or `os.PathLike`): a new or empty folder, or one that `save_merged` has written, which is
                replaced.

        Raises:
            ValueError: if the PEFT method can't be merged, the model is sharded (FSDP, DeepSpeed ZeRO-3), or is no
                model of transformers; the message says what to do.
            FileExistsError: if the folder holds anything else. Nothing is changed.

        Example:

        ```python
        >>> trainer.train()
        >>> trainer.save_merged("merged")
        >>> pipeline("text-classification", model="merged")("a text")
        ```
        """
        model = self.accelerator.unwrap_model(self.model)
        self._check_mergeable(model)
        run_on_main(self.accelerator, "`save_merged`", self._write_merged, model, Path(output_dir))

    def _check_mergeable(self, model: nn.Module) -> None:
        zero3 = getattr(getattr(self.accelerator.state, "deepspeed_plugin", None), "zero_stage", 0) == 3
        if self.is_fsdp_enabled or zero3:
            raise ValueError(
                "No process has the whole model (FSDP, DeepSpeed ZeRO-3), so it can't be merged here. Save it with "
                "`save_model`, load the adapter in a single process, and call `merge_and_unload()`."
            )
        if not isinstance(base_of(model), PreTrainedModel):
            raise ValueError(
                f"`save_merged` writes models of transformers, and a {type(base_of(model)).__name__} is none."
            )
        if isinstance(model, PeftModel) and not can_be_merged(model):
            method = cast(PeftType, model.peft_config[model.active_adapter].peft_type).value
            raise ValueError(
                f"An adapter of the type {method} can't be merged: it is no change of the model's weights. Save it "
                "with `save_model`: the model card's code loads it with the names of its classes. For a plain model, "
                "train with ClearLoraConfig or ClearBitFitConfig."
            )

    def _write_merged(self, model: nn.Module, path: Path) -> None:
        _check_replaceable(path)
        self._name_classes(model)
        with write_folder(path) as folder:
            if isinstance(model, PeftModel):
                model = copy.deepcopy(model).merge_and_unload(safe_merge=True)
            cast(PreTrainedModel, model).save_pretrained(folder)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
            with self._writing_to(folder):
                tags = dataset_names(self.train_dataset)
                super().create_model_card(model_name=path.name, dataset_tags=None if self._is_stock else tags)
                if not self._is_stock:
                    complete_model_card(self, model=model, saved=path.name if path.is_absolute() else str(path))
            files = {file.relative_to(folder).as_posix(): file_checksum(file) for file in _files_in(folder)}
            write_atomically(folder / MERGED_FILES, (json.dumps(files, indent=2) + "\n").encode())

    @contextlib.contextmanager
    def _writing_to(self, folder: Path) -> Iterator[None]:
        stock, self.args.output_dir = self.args.output_dir, str(folder)
        try:
            yield
        finally:
            self.args.output_dir = stock

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self._is_stock:
            return super()._save(output_dir, state_dict)
        model = self.accelerator.unwrap_model(self.model)
        self._name_classes(model)
        super()._save(output_dir, state_dict)
        names = names_in(base_of(model).config) if is_classifier(base_of(model)) else []
        if names and isinstance(model, PeftModel) and self.args.should_save:
            write_label_names(self.args.output_dir if output_dir is None else output_dir, names)

    def _name_classes(self, model: nn.Module) -> None:
        """Names the classes in the model's config as the training set does, if the config has no names for them."""
        base: Any = base_of(model)
        if self._is_stock or not is_classifier(base):
            return
        names = names_in(base.config)
        if not are_names(names):
            names = class_names(self.train_dataset, label_names(self)) or []
        if len(names) == base.config.num_labels:
            name_classes(base.config, names)


def _check_replaceable(path: Path) -> None:
    """
    Raises:
        FileExistsError: if there is something that `save_merged` has not written, or not as it is now.
    """
    if not os.path.lexists(path) or (path.is_dir() and not path.is_symlink() and not any(path.iterdir())):
        return
    if path.is_symlink() or not path.is_dir():
        raise FileExistsError(f"{path} is no folder. Choose another one for the merged model.")
    try:
        written = json.loads((path / MERGED_FILES).read_text(encoding="utf-8"))
        own = {MERGED_FILES, *(name for name, checksum in written.items() if file_checksum(path / name) == checksum)}
    except (OSError, ValueError, AttributeError):
        own = set()
    foreign = [name for file in _files_in(path) if (name := file.relative_to(path).as_posix()) not in own]
    if foreign or not own:
        raise FileExistsError(
            f"{path} holds {foreign[0] if foreign else 'folders'}, which `save_merged` has not written as it is now. "
            "It would be lost: move it away, or choose another folder. Nothing was changed."
        )


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
