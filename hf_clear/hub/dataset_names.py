"""What data sets are called on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets

from .paths import is_repository_name


def dataset_names(dataset: Any) -> list[str]:
    """The name of a `datasets.Dataset` on the Hub, as far as its cache tells with the owner, `"org/name"`. Empty for
    local files, whatever their folder is called, and for what can be no name on the Hub."""
    name = dataset.info.dataset_name if isinstance(dataset, datasets.Dataset) else None
    if name is None or name == dataset.info.builder_name:  # "csv" for a csv file
        return []
    sources = dataset.info.download_checksums or {}
    if sources and not any("://" in source for source in sources):  # files of this machine
        return []
    folders = (Path(file["filename"]).parts for file in dataset.cache_files)
    with_owner = (part.replace("___", "/") for parts in folders for part in parts if part.endswith(f"___{name}"))
    name = next(with_owner, name)
    return [name] if is_repository_name(name) else []
