"""Paths of the machine that trained, which mean nothing to others: what an uploaded file holds in their place."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.trainer import TRAINER_STATE_NAME

_BASE = ("base_model_name_or_path", "_name_or_path", "name_or_path")
_OF_PATHS = ("/", "./", "../", "~")  # how no name on the Hub begins
_METADATA = re.compile(r"\A(\ufeff?---\r?\n)(.*?)(^---\r?$)", re.S | re.M)


def is_repository_name(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name != ""


def check_model_name(name: str, option: str) -> None:
    """Looks whether a local folder is there, if a model's name can be nothing else.

    Raises:
        ValueError: if it is not.
    """
    if is_path(name) and not os.path.isdir(name):
        raise ValueError(f"{option} {name}: there is no such folder.")


def is_path(name: str) -> bool:
    """Whether it can't be a name on the Hub."""
    return name.startswith(_OF_PATHS) or name.count("/") > 1


def is_on_hub(name: str) -> bool:
    """Whether a base model's name is that of a repository, as far as can be told without asking: it could be one, and
    there is no such folder here."""
    return is_repository_name(name) and not os.path.isdir(name)


def without_local_paths(path: Path) -> Path | bytes:
    """What to upload of a file: the file, or its content without the paths of this machine.

    The config of an adapter names the folder that its base model came from, which `AutoPeftModel` needs here and nobody
    has elsewhere: then it names none, rather than a last part that may be somebody else's repository. So it is in the
    card that peft writes, and in other configs.
    """
    if path.name == "README.md":
        return _card(path)
    if path.name != TRAINER_STATE_NAME and not path.name.endswith(("config.json", "_results.json")):
        return path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return path
    cleaned = _cleaned(values)
    return path if cleaned == values else (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()


def _cleaned(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _cleaned(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if not isinstance(value, str) or key == "content":  # of a token
        return value
    is_local = key in _BASE and value != "" and not is_on_hub(value)
    return None if is_local or is_path_here(value) else value


def is_path_here(value: str) -> bool:
    """Whether a text is an absolute path (of two parts or more) to something on this machine."""
    try:
        return os.path.isabs(value) and len(Path(value).parts) > 2 and os.path.exists(value)
    except ValueError:  # a zero in it
        return False


def _card(path: Path) -> Path | bytes:
    text = path.read_bytes().decode("utf-8", errors="surrogateescape")
    found = _METADATA.match(text)
    try:
        metadata = yaml.safe_load(found.group(2)) if found else None
    except yaml.YAMLError:
        return path
    base = metadata.get("base_model") if isinstance(metadata, dict) else None
    if found is None or metadata is None or not isinstance(base, str) or is_on_hub(base):
        return path
    metadata.pop("base_model")
    tags = metadata.get("tags")
    if isinstance(tags, list):
        metadata["tags"] = [tag for tag in tags if not str(tag).startswith("base_model:")]
    rest = text[found.end() :].replace(base, "a local model") if os.path.isabs(base) else text[found.end() :]
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"{found.group(1)}{head}{found.group(3)}{rest}".encode("utf-8", errors="surrogateescape")
