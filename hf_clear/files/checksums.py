"""Checksums of files: whole ones, and safetensors files that carry their own."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Any

import xxhash

from .atomic import write_atomically

# Against accidents, not against people, who could write another one. Of what is in Python's reach it is the fastest by
# an order of magnitude, and checkpoints have gigabytes.
ALGORITHM = "xxh3_128"
CHECKSUM = "hf_clear.checksum"  # in the metadata of a safetensors file
_BLOCK = 2**20


def file_checksum(path: str | os.PathLike) -> str:
    """The checksum of a file's content, in hexadecimal digits."""
    checksum = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
    return checksum.hexdigest()


def content_checksum(content: bytes) -> str:
    return xxhash.xxh3_128(content).hexdigest()


def sealed(content: bytes | memoryview) -> tuple[bytes, memoryview]:
    """What safetensors has serialized, with a checksum of names, types, shapes, values and metadata among its metadata,
    in two parts for [`~hf_clear.files.write_atomically`]. Others read it as before."""
    header, data = _parts(memoryview(content))
    metadata = header.setdefault("__metadata__", {})
    metadata.pop(CHECKSUM, None)
    metadata[CHECKSUM] = _checksum(header, data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8 bytes
    return len(text).to_bytes(8, "little") + text, data


def seal_file(path: Path) -> None:
    """Adds the checksum of [`sealed`] to a safetensors file."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        header, data = sealed(memoryview(content))
        try:
            write_atomically(path, header, data)
        finally:
            data.release()


def is_intact(path: str | os.PathLike) -> bool:
    """Whether a safetensors file is what its checksum was made of; so is one without a checksum."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        header, data = _parts(memoryview(content))
        with data:
            noted = header.get("__metadata__", {}).pop(CHECKSUM, None)
            return noted is None or noted == _checksum(header, data)


def _parts(content: memoryview) -> tuple[dict[str, Any], memoryview]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(bytes(content[8:end])), content[end:]


def _checksum(header: dict[str, Any], data: memoryview) -> str:
    checksum = xxhash.xxh3_128(json.dumps(header, sort_keys=True).encode())
    checksum.update(data)
    return f"{ALGORITHM}:{checksum.hexdigest()}"
