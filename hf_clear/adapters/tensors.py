"""The tensors of an adapter: what its file says they are, whether the model has a place for them, and their values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open

from ..files import check_inside
from ..files.strict_json import open_file

_MAX_NAMES = 5  # in a message
_LONGEST_HEADER = 2**25  # bytes; an adapter of 100,000 tensors needs 20 MB
_FLOATS = ("F64", "F32", "F16", "BF16")
_OTHERS = ("I64", "I32", "I16", "I8", "U8", "BOOL")  # of buffers: counters, indices, permutations
# Above it, squares overflow as soon as a few millions are summed up, as every normalization layer does: the model would
# predict NaN. Weights that training has found are far below.
_LARGEST = 1e15


class TensorInfo(NamedTuple):
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]


def first_not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor with a NaN or infinite value."""
    for name, tensor in tensors:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        tensor = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # float8 can't be asked
        if not tensor.isfinite().all():
            return name
    return None


def read_header(path: Path) -> dict[str, TensorInfo]:
    """What the file says of its tensors, by name; their values are not read.

    Raises:
        ValueError: if there is no such file, or it is damaged, leads out of its folder, or holds tensors of types
            that no weights of adapters have.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path.name} in {path.parent}: give the folder that `save_pretrained` wrote to.")
    check_inside(path)
    try:
        with open_file(path) as file:
            length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            raise SafetensorError(f"its header is said to have {length:,} bytes")
        with safe_open(path, framework="pt", device="cpu") as file:
            slices = ((name, file.get_slice(name)) for name in file.keys())
            found = {name: TensorInfo(part.get_dtype(), tuple(part.get_shape())) for name, part in slices}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    for name, tensor in found.items():
        if tensor.dtype not in (*_FLOATS, *_OTHERS):
            raise ValueError(
                f"{path}: the tensor {name!r} is of the type {tensor.dtype}; adapters hold floating-point numbers of "
                "16 bits or more. Convert it with `tensor.float()` where it was written."
            )
    return found


def num_values(tensors: Mapping[str, TensorInfo]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def check_fit(path: Path, tensors: Mapping[str, TensorInfo], model: PeftModel, adapter_name: str) -> dict[str, float]:
    """Compares names, shapes and kinds of the tensors in the file with those of the model's adapter.

    Returns:
        `dict[str, float]`: by the tensors' names, the largest value that the model's own types hold.

    Raises:
        ValueError: names the file and what doesn't fit.
    """

    def of_model(with_embeddings: bool) -> dict[str, torch.Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=with_embeddings)

    expected = of_model(False)
    missing = expected.keys() - tensors.keys()
    allowed = expected if tensors.keys() <= expected.keys() else expected | of_model(True)
    unexpected = tensors.keys() - allowed.keys()
    shared = sorted(tensors.keys() & allowed.keys())
    wrong = [
        f"{name} is {list(tensors[name].shape)}, the model's {list(allowed[name].shape)}"
        for name in shared
        if tensors[name].shape != tuple(allowed[name].shape)
    ]
    other = [
        f"{name} is {tensors[name].dtype}, the model's {str(allowed[name].dtype).removeprefix('torch.')}"
        for name in shared
        if allowed[name].is_floating_point() != (tensors[name].dtype in _FLOATS)
    ]
    for what, names in (
        ("tensors are missing", sorted(missing)),
        ("there are tensors that the model has no place for", sorted(unexpected)),
        ("tensors have other shapes than the model's", wrong),
        ("tensors are of other types than the model's", other),
    ):
        if names:
            named = ", ".join(names[:_MAX_NAMES]) + f", and {len(names) - _MAX_NAMES} more" * (len(names) > _MAX_NAMES)
            raise ValueError(
                f"{path}: {what}: {named[:2000]}. Load it into the base model that it was trained on (with as many "
                "labels), and leave its config as it is."
            )
    return {name: torch.finfo(tensor.dtype).max for name, tensor in allowed.items() if tensor.is_floating_point()}


def check_values(path: Path, tensors: Mapping[str, TensorInfo], largest: Mapping[str, float]) -> None:
    """Looks at the values, one tensor at a time.

    Args:
        largest (`Mapping`): what [`check_fit`] returned; may lack names.

    Raises:
        ValueError: if one is NaN, infinite, or so large that a model can't compute with it.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name, (dtype, shape) in tensors.items():
                if dtype not in _FLOATS or math.prod(shape) == 0:
                    continue
                low, high = (float(end) for end in file.get_tensor(name).aminmax())
                if not (math.isfinite(low) and math.isfinite(high)):
                    raise ValueError(
                        f"{path}: the tensor {name!r} holds NaN or infinite values, so the model would predict nothing "
                        "but NaN. Use an adapter from before its training diverged."
                    )
                extreme = max(-low, high)
                if extreme > min(_LARGEST, largest.get(name, _LARGEST)):
                    raise ValueError(
                        f"{path}: the tensor {name!r} holds a value of {extreme:.0e}, with which the model would "
                        "predict NaN. Use an adapter from before its training diverged."
                    )
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged or no safetensors file ({error}). Get it again from where it came from.")
