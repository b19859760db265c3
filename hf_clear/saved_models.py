"""What a trainer saves for inference: the names of the classes beside an adapter, and merged models."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from peft import PeftModel, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from ._processes import run_on_main
from ._trainer_types import OwnTrainer
from ._unwrap import base_of, processing_class_of
from .files import write_atomically, write_folder
from .files.checksums import file_checksum
from .hub.dataset_names import dataset_names
from .hub.model_card import complete_model_card
from .labels.names import (
    LABEL_NAMES_FILE,
    agreed_names,
    are_names,
    is_classifier,
    name_classes,
    names_in,
    read_label_names,
    write_label_names,
)
from .report.shown_columns import class_names
from .sample_index import label_names
from .tuners import can_be_merged

logger = logging.getLogger(__name__)

MERGED_FILES = "merged_files.json"  # what `save_merged` has written, with checksums


class SavedModelsMixin(OwnTrainer):
    """For a [`~transformers.Trainer`] whose models are loaded elsewhere, by the names of their classes."""

    _said: set[str]  # warnings; made by [`BaseTrainerMixin`]
    _has_trained = False

    def save_merged(self, output_dir: str | os.PathLike) -> None:
        """Writes the model with its adapter merged into the weights: a plain model of transformers with tokenizer (or
        other processing class) and model card, for `pipeline` and `from_pretrained` without peft and hf_clear. The
        trainer's model keeps its adapter, and training can go on. Names of classes are in its config afterwards.

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
        if isinstance(model, PeftModel):
            if not can_be_merged(model):
                raise ValueError(_not_mergeable(model))
        elif any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            raise ValueError(
                "The model carries an adapter and is no `PeftModel` (`add_adapter`, `inject_adapter_in_model`): "
                "`save_merged` can't merge it. Give the trainer the model without it and `peft_config=...`, or wrap it "
                "by `get_peft_model`."
            )

    def _write_merged(self, model: nn.Module, path: Path) -> None:
        _check_replaceable(path)
        self.name_classes()
        processing_class = processing_class_of(self)
        if processing_class is None:
            logger.warning(
                f"{path} gets no tokenizer or other processing class, since the trainer has none: `pipeline` would "
                "make an empty one, and predict nonsense. Save yours there, too."
            )
        with write_folder(path) as folder:
            if isinstance(model, PeftModel):
                try:
                    merged = copy.deepcopy(model).merge_and_unload(safe_merge=True)
                except NotImplementedError as error:
                    raise ValueError(_not_mergeable(model)) from error
                model = merged
            cast(PreTrainedModel, model).save_pretrained(folder)
            if processing_class is not None:
                processing_class.save_pretrained(folder)
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
        self.name_classes()
        super()._save(output_dir, state_dict)
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model, PeftModel) and is_classifier(base_of(model)) and self.args.should_save:
            folder = Path(self.args.output_dir if output_dir is None else output_dir)
            if names := names_in(base_of(model).config):
                write_label_names(folder, names)
            else:  # those of an earlier adapter would be taken for its own
                with contextlib.suppress(OSError, ValueError):
                    read_label_names(folder / LABEL_NAMES_FILE)
                    (folder / LABEL_NAMES_FILE).unlink()

    def name_classes(self, begins: bool = False) -> None:
        """Writes the names of the classes into the model's config, as [`agreed_names`] has it; before any training only
        if it has none. Called when training begins, and before anything is saved."""
        base: Any = base_of(self.accelerator.unwrap_model(self.model))
        if self._is_stock or not is_classifier(base):
            return
        of_data = class_names(self.train_dataset, label_names(self), may_be_blank=True) or []
        own = names_in(base.config)
        self._has_trained = self._has_trained or begins or self.state.global_step > 0
        if are_names(own) and not self._has_trained:
            return
        names, said = agreed_names(own, of_data, base.config.num_labels)
        if said and said not in self._said and self.is_world_process_zero():
            logger.warning(said)
        self._said.add(said)
        if names:
            name_classes(base.config, names)


def _not_mergeable(model: PeftModel) -> str:
    method = cast(PeftType, model.peft_config[model.active_adapter].peft_type).value
    return (
        f"An adapter of the type {method} (with its settings) can't be merged into the model's weights. Save it with "
        "`save_model`: the model card's code loads it with the names of its classes. For a plain model, train with "
        "ClearLoraConfig or ClearBitFitConfig."
    )


def _check_replaceable(path: Path) -> None:
    """Refuses to replace a folder that holds anything but what `save_merged` has written.

    Raises:
        FileExistsError: if there is something that `save_merged` has not written, or not as it is now, or this process
            works there.
    """
    if path.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise FileExistsError(f"{path} is where this process works, and can't be replaced. Name another folder.")
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
