"""What the PEFT methods of ours share: config, layer with a gate, model, and the way out to stock peft."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from torch import nn

from ..adapters.checks import refuse_pickle
from ..adapters.config_checks import check_config_values, read_config
from ..adapters.tensors import first_not_finite
from ..files import write_atomically
from ..labels.names import is_classifier, names_in, write_label_names
from ..routing import AdapterChoice, Gate, apply_gate, register_choice, register_routable

_PREFIX = "base_model.model."  # of all names in a PeftModel
_LOADING_NOTE = """
## Loading

This adapter is of a type that comes with hf_clear, not with peft. Import hf_clear before you load it:

```python
import hf_clear  # pip install hf-clear
from peft import PeftModel

# base_model: the model that the adapter was trained on, with as many labels (`num_labels`)
model = PeftModel.from_pretrained(base_model, "path/of/this/folder")
```
"""


@dataclass
class RoutedLayerConfig(PeftConfig):
    """What the configs of PEFT methods with layers of our own ([`RoutedLayer`]) have: arguments as in peft.

    CleaR-LoRA uses layers of peft, so its config is none of these.

    Args:
        target_modules (`list[str]` or `str`, *optional*): names (their ends suffice) or a regular expression of the
            modules to adapt. By default those that the method names for the architecture.
        exclude_modules (`list[str]` or `str`, *optional*): modules to leave out.
        modules_to_save (`list[str]`, *optional*): modules that are trained as a whole and saved, such as the head.
            peft adds `classifier` and `score` for sequence and token classification.
    """

    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names or a regular expression of the modules to adapt."}
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names or a regular expression of modules to leave out."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules to train as a whole and save, such as the head."}
    )

    def __new__(cls, *args, **kwargs):
        # Here, since peft drops unknown settings of a file with a warning if `__init__` stumbles over them.
        check_config_values(cls, kwargs)
        return super().__new__(cls)

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]  # as in peft
        # peft appends the names of the head to this very list, which would grow in the hands of its owner.
        if isinstance(self.modules_to_save, list):
            self.modules_to_save = list(self.modules_to_save)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs
    ) -> RoutedLayerConfig:
        """As in peft; refuses what [`~hf_clear.adapters.checks.check_adapter`] does in the config, and pickled
        weights."""
        folder = Path(pretrained_model_name_or_path, subfolder or "")
        if (folder / CONFIG_NAME).is_file():
            read_config(folder)
            refuse_pickle(folder, WEIGHTS_NAME, SAFETENSORS_WEIGHTS_NAME)
        return super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)

    def save_pretrained(self, save_directory: str, **kwargs) -> None:
        """As in peft; a README beside the adapter says that it loads after `import hf_clear`."""
        super().save_pretrained(save_directory, **kwargs)
        note_loading(save_directory)


def note_loading(folder: str | os.PathLike) -> None:
    """Adds to the README in `folder`, once, how an adapter of ours is loaded."""
    readme = Path(folder) / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else "---\nlibrary_name: peft\n---\n\n# Adapter\n"
    if "import hf_clear" not in text:
        write_atomically(readme, (text.rstrip() + "\n" + _LOADING_NOTE).encode())


class RoutedLayer(nn.Module, BaseTunerLayer):
    """A layer of ours: the wrapped module in `base_layer`, one delta an adapter, and the gate while routed.

    Attributes:
        gate (`torch.BoolTensor` of shape `[batch]`, *optional*): True for the samples that the adapter acts on. None
            outside of [`hf_clear.route`]: it acts on all.
        choice (`AdapterChoice`, *optional*): which adapter acts on which sample, within
            [`~hf_clear.routing.choose_adapters`].
    """

    gate: Gate | None = None
    choice: AdapterChoice | None = None

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer = base_layer
        self.merged_adapters = []

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """Adds a fresh delta for `adapter_name`. `config` is of the method's own class."""
        raise NotImplementedError

    def acting_adapters(self) -> list[str]:
        """The active adapters that this layer has; none if adapters are disabled or merged."""
        if self.disable_adapters:
            self.unmerge()  # as peft does: disabled means the base model
            return []
        if self.merged:
            return []
        deltas = getattr(self, self.adapter_layer_names[0])
        return [name for name in self.active_adapters if name in deltas]

    def gated(self, routed: torch.Tensor, bypassed: torch.Tensor) -> torch.Tensor:
        return routed if self.gate is None else apply_gate(self.gate, routed, bypassed)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ValueError(
            f"A {type(self).__name__} can't be merged: it is no change of the base model's weights. Keep the adapter, "
            "or remove it with `unload()`."
        )

    def unmerge(self) -> None:
        """Nothing was merged."""


def _set_gate(layer: RoutedLayer, gate: Gate) -> Callable[[], None]:
    if layer.merged:
        raise ValueError("The adapter is merged into the base model, which can't be routed: unmerge it first.")
    stock, layer.gate = layer.gate, gate

    def undo() -> None:
        layer.gate = stock

    return undo


def _set_choice(layer: RoutedLayer, choice: AdapterChoice) -> Callable[[], None]:
    stock, layer.choice = layer.choice, choice

    def undo() -> None:
        layer.choice = stock

    return undo


register_routable(RoutedLayer, _set_gate)
register_choice(RoutedLayer, _set_choice)


class RoutedLayerModel(BaseTuner):
    """Places the layers of a method of ours in a model. A method sets `prefix` (the registered name and "_"),
    `tuner_layer_cls` (its [`RoutedLayer`]) and `target_module_mapping`."""

    tuner_layer_cls: type[RoutedLayer]

    def _create_and_replace(
        self, peft_config, adapter_name, target, target_name, parent, current_key, parameter_name=None, **kwargs
    ):
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config)
        else:
            try:
                layer = self.tuner_layer_cls(target)
            except TypeError as error:
                raise ValueError(f"{current_key}: {error}") from None
            layer.update_layer(adapter_name, peft_config)
            self._replace_module(parent, target_name, layer, target)

    def _prepare_adapter_config(self, peft_config, model_config):
        if peft_config.target_modules is None and model_config["model_type"] not in self.target_module_mapping:
            raise ValueError(
                f"{type(peft_config).__name__} has no default `target_modules` for the model type "
                f"{model_config['model_type']!r}: name them. There are defaults for "
                f"{', '.join(sorted(self.target_module_mapping))}."
            )
        return super()._prepare_adapter_config(peft_config, model_config)

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model, config, adapter_name, state_dict):
        wrong = first_not_finite(state_dict.items())
        if wrong is not None:
            raise ValueError(
                f"The adapter's tensor {wrong!r} holds NaN or infinite values, so the model would predict nothing but "
                "NaN. Use an adapter from before its training diverged."
            )
        mapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        # peft copies whatever else the model has. Only embeddings may be there: it saves those that were resized.
        embeddings = _names_of(model, "get_input_embeddings", "get_output_embeddings")
        parts = (cls.prefix, "modules_to_save.", *(f"{name}." for name in embeddings))
        own = {name.removeprefix(_PREFIX) for name in model.state_dict() if any(part in name for part in parts)}
        given = {name.removeprefix(_PREFIX) for name in mapped}
        missing = {name for name in own if cls.prefix in name and adapter_name in name.split(".")} - given
        for what, names in (("has no tensors", missing), ("has tensors that are not its own:", given - own)):
            if names:
                raise ValueError(
                    f"The adapter {what} {', '.join(sorted(names)[:5])}. Load it into the base model that it was "
                    "trained on, and leave its config as it is."
                )
        return mapped

    def _replace_module(self, parent, child_name, new_module, child) -> None:
        if isinstance(new_module, RoutedLayer):
            super()._replace_module(parent, child_name, new_module, child)
        else:  # unloading: peft would copy a `weight`, which the head of a model may not have
            setattr(parent, child_name, new_module)

    def _enable_peft_forward_hooks(self, *args, **kwargs):
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                f"`adapter_names` in the forward pass works with LoRA alone, not with {type(self).__name__}: run each "
                "adapter by itself (`set_adapter`)."
            )
        return contextlib.nullcontext()

    def export_to_peft(self, adapter_name: str) -> PeftModel:
        """This model with the adapter in a form of stock peft; see [`export_to_peft`]. Changes nothing here."""
        raise ValueError(f"Stock peft has no form for a {type(self.peft_config[adapter_name]).__name__}.")


def _names_of(model: nn.Module, *getters: str) -> list[str]:
    """The names in the model of the modules that it has getters for."""
    modules = [getattr(model, getter)() for getter in getters if hasattr(model, getter)]
    return [name for name, module in model.named_modules() if any(module is wanted for wanted in modules)]


def export_to_peft(model: PeftModel, output_dir: str | os.PathLike, adapter_name: str = "default") -> None:
    """Writes an adapter in a form that stock peft loads, without hf_clear, with the same logits, and the names of its
    classes (`label_names.json`).

    LoRA is saved as it is. BitFit becomes a `LoraConfig` that carries nothing but biases. A deep prompt becomes
    `PREFIX_TUNING` if peft's shift of positions can be undone: on decoder-only models with rotary positions. A
    bottleneck adapter has no counterpart in peft.

    Args:
        model (`PeftModel`): carries the adapter, and the trained head if there is one.
        output_dir (`str`): the folder to write to.
        adapter_name (`str`, *optional*, defaults to `"default"`): which adapter.

    Raises:
        ValueError: if stock peft has no form for the adapter; the message says why.
    """
    if not isinstance(model, PeftModel):
        raise ValueError(
            f"A {type(model).__name__} can't be exported, only a PeftModel: wrap the model with `get_peft_model`, or "
            "load the saved adapter with `PeftModel.from_pretrained`."
        )
    if adapter_name not in model.peft_config:
        raise ValueError(f"There is no adapter {adapter_name!r} to export, only {', '.join(model.peft_config)}.")
    own, exported, selected = model.peft_config[adapter_name], model, adapter_name
    if isinstance(model.base_model, RoutedLayerModel):
        exported, selected = model.base_model.export_to_peft(adapter_name), "default"
        config = exported.peft_config[selected]
        config.base_model_name_or_path, config.revision = own.base_model_name_or_path, own.revision
    elif not isinstance(own, LoraConfig):
        raise ValueError("This adapter is not of hf_clear: `save_pretrained` writes it for stock peft already.")
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir) as folder:  # complete, or not there
        exported.save_pretrained(folder, selected_adapters=[selected])
        named = Path(folder) / selected  # where peft puts all but "default"
        for file in [*Path(folder).iterdir(), *(named.iterdir() if named.is_dir() else ())]:
            if file.is_file():
                os.replace(file, output_dir / file.name)
    base = exported.get_base_model()
    if is_classifier(base) and (names := names_in(base.config)):
        write_label_names(output_dir, names)


def alone(tuner: RoutedLayerModel, adapter_name: str) -> RoutedLayerModel:
    """A copy of the model with one adapter active, nothing merged."""
    tuner = copy.deepcopy(tuner)
    tuner.unmerge_adapter()
    tuner.set_adapter(adapter_name)  # the heads follow
    return tuner
