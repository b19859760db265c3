"""The code in a model card that loads a model and, if its task has a pipeline for texts, predicts with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pprint import pformat
from typing import Any, cast

import peft
import transformers
from peft import PeftModel, PeftType
from torch import nn
from transformers import AutoConfig, PreTrainedTokenizerBase
from transformers.modelcard import TASK_MAPPING

from .._unwrap import base_of
from ..labels.names import are_names, is_classifier, names_in
from .paths import is_on_hub

_FOR_TEXTS = ("text-classification", "token-classification")
_WIDTH = 110  # characters of a line


def task_of(model: nn.Module) -> str | None:
    """The Hub's name of a model's task, such as `"text-classification"`; None if its class is none of transformers'."""
    name = type(base_of(model)).__name__
    mappings: dict[str, Any] = TASK_MAPPING
    for task, mapping in mappings.items():
        if any(name == own or (isinstance(own, (tuple, list)) and name in own) for own in mapping.values()):
            return task
    return None


def loading_code(model: nn.Module, saved: str, processing_class: Any = None, is_pushed: bool = False) -> str | None:
    """Python code that loads what is saved, with the names of its classes.

    Stock peft and transformers read an adapter's base model with the base's own config: the number and the names of the
    classes have to be given (https://github.com/huggingface/peft/issues/1486).

    Args:
        model (`nn.Module`): as it was saved.
        saved (`str`): the folder or, if it was pushed, the repository.
        processing_class (`Any`, *optional*): saved beside it.
        is_pushed (`bool`, *optional*, defaults to `False`): the code is for others, who don't have folders of this
            machine, such as that of a base model.

    Returns:
        `str`: the code; None if transformers has no such model.
    """
    base, saved, code = base_of(model), _quoted(saved), _Code()
    architecture, task = type(base).__name__, task_of(model)
    is_known = hasattr(transformers, architecture)
    if isinstance(model, PeftModel):
        _load_adapter(code, model, saved, is_known, is_pushed)
    elif is_known:
        code.of_transformers.add(architecture)
        code.lines.append(f"model = {architecture}.from_pretrained({saved})")
    else:
        return None
    if processing_class is not None:
        is_tokenizer = isinstance(processing_class, PreTrainedTokenizerBase)
        kind = "tokenizer" if is_tokenizer else "processor"
        code.of_transformers.add(f"Auto{kind.capitalize()}")
        code.lines.append(f"{kind} = Auto{kind.capitalize()}.from_pretrained({saved})")
        if is_tokenizer and task in _FOR_TEXTS:
            code.of_transformers.add("pipeline")
            code.lines.append(f'classifier = pipeline("{task}", model=model, tokenizer=tokenizer)')
            code.lines.append('print(classifier("A text of yours."))')
    return str(code)


@dataclass
class _Code:
    imports: list[str] = field(default_factory=list)
    of_transformers: set[str] = field(default_factory=set)  # names to import from there
    lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        names = ", ".join(sorted(self.of_transformers))
        return "\n".join([*self.imports, *([f"from transformers import {names}"] if names else []), "", *self.lines])


def _load_adapter(code: _Code, model: PeftModel, saved: str, is_known: bool, is_pushed: bool) -> None:
    base: Any = model.get_base_model()
    adapter = model.active_adapter
    architecture, config = type(base).__name__, model.peft_config[adapter]
    if cast(PeftType, config.peft_type).value.startswith("CLEAR_"):  # not one of peft's own
        code.imports.append("import hf_clear  # pip install hf-clear\n")
    classes = []  # an argument, if there are any
    if is_classifier(base) and are_names(own := names_in(base.config)):
        code.lines.append(_assignment("names", own))
        classes = ["id2label=dict(enumerate(names))"]
    elif is_classifier(base):
        classes = [f"num_labels={base.config.num_labels}"]
    auto, origin = f"Auto{type(model).__name__}", config.base_model_name_or_path or ""
    if classes and _has_other_head(origin, base):
        classes.append("ignore_mismatched_sizes=True")
    is_found = is_known and origin != "" and (is_on_hub(origin) or not is_pushed)
    if is_found and adapter == "default" and hasattr(peft, auto):
        code.imports.append(f"from peft import {auto}")
        code.lines.append(f"model = {auto}.from_pretrained({', '.join([saved, *classes])})")
        return
    code.imports.append("from peft import PeftModel")
    if is_known and is_on_hub(origin):
        code.of_transformers.add(architecture)
        code.lines.append(f"model = {architecture}.from_pretrained({', '.join([_quoted(origin), *classes])})")
    else:
        given = ", with " * bool(classes) + ", ".join(classes)
        code.lines.append(f"# model: the {architecture} that the adapter was trained on{given}")
    folder = "" if adapter == "default" else f", subfolder={_quoted(adapter)}"
    code.lines.append(f"model = PeftModel.from_pretrained(model, {saved}{folder})")


def _has_other_head(origin: str, model: Any) -> bool:
    """Whether the base model that an adapter's config names is a classifier of another number of classes, as far as can
    be told without asking the Hub: its head doesn't fit, and isn't used."""
    try:
        stock: Any = AutoConfig.from_pretrained(origin, local_files_only=True)
    except (OSError, ValueError):
        return False
    heads = any("ForSequenceClassification" in name for name in stock.architectures or ())
    return heads and stock.num_labels != model.config.num_labels


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # Python has no surrogate pairs


def _assignment(name: str, values: list[str]) -> str:
    """A list as Python writes it, on more than one line if it has to be. Nothing in it ends a block of code."""
    line = f"{name} = {values!r}"
    if len(line) > _WIDTH:
        line = f"{name} = [\n {pformat(values, width=_WIDTH, compact=True)[1:-1]},\n]"
    return line.replace("```", r"\x60" * 3)
