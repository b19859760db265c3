"""Loads adapters that come from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError
from peft import PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from torch import nn

from .checks import vetted
from .rehearsal import rehearse


def load_adapter(
    model: nn.Module,
    path: str | os.PathLike,
    adapter_name: str = "default",
    is_trainable: bool = False,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    **kwargs: Any,
) -> PeftModel:
    """[`~peft.PeftModel.from_pretrained`] for adapters that come from elsewhere: of any type that peft or hf_clear
    knows, from safetensors alone, and after [`check_adapter`] has found nothing wrong. It is first loaded into a copy
    of the model that shares its weights, and has to predict finite values there. A refused adapter leaves the model as
    it was. In the settings of the loaded one, patterns are replaced by the names of modules that they match.

    Args:
        model (`nn.Module`): the base model. As in peft, it is changed in place.
        path (`str`): a local folder, or the id of a repository on the Hub, from which `adapter_config.json` and
            `adapter_model.safetensors` are downloaded and nothing else.
        adapter_name (`str`, *optional*, defaults to `"default"`), is_trainable (`bool`, *optional*, defaults to
            `False`), subfolder, revision, token, cache_dir: as in peft.
        kwargs: for [`~peft.PeftModel.from_pretrained`], such as `torch_device` and `low_cpu_mem_usage`.

    Raises:
        ValueError: what [`check_adapter`] raises; if `model` carries adapters already; if it predicts NaN or infinite
            values with the adapter, and doesn't without; if the files change meanwhile.

    Example:

    ```python
    >>> base = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=77)
    >>> model = hf_clear.load_adapter(base, "path/or/repository")
    ```
    """
    if isinstance(model, PeftModel):
        raise ValueError(
            "`load_adapter` takes the base model, and this one is a PeftModel already. For one more adapter, call "
            "`hf_clear.adapters.checks.check_adapter(folder)` and then `model.load_adapter(folder, adapter_name)`."
        )
    folder = Path(path)
    if not folder.is_dir():
        hub_args: dict[str, Any] = {
            "subfolder": subfolder,
            "revision": revision,
            "token": token,
            "cache_dir": cache_dir,
        }
        for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
            try:
                folder = Path(cast(str, hf_hub_download(str(path), name, **hub_args))).parent
            except (EntryNotFoundError, RepositoryNotFoundError, HFValidationError) as error:
                raise ValueError(
                    f"{path} is no folder, and there is no {name} in a repository of this name on the Hub, or in its "
                    f"cache if that is offline ({error}). Pickled weights are not loaded."
                ) from error
    elif subfolder is not None:
        folder = folder / subfolder
    files = [folder / CONFIG_NAME, folder / SAFETENSORS_WEIGHTS_NAME]
    as_found = _versions(files)
    config = vetted(folder, model)
    rehearse(model, folder, config, adapter_name)
    loaded = PeftModel.from_pretrained(model, folder, adapter_name, is_trainable, config=config, **kwargs)
    if _versions(files) != as_found:
        raise ValueError(f"{folder} was changed while it was loaded: load the base model and the adapter again.")
    return loaded


def _versions(files: list[Path]) -> list[tuple[int, ...] | None]:
    """What tells whether a file was replaced or written to."""
    stats = [file.stat() if file.is_file() else None for file in files]
    return [stat and (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]
