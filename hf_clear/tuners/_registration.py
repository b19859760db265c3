"""Makes a PEFT type of ours known to peft; [`~hf_clear.register_peft_method`] makes a method known to hf_clear."""

from __future__ import annotations

import peft.utils
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING


def register_with_peft(name: str, config_cls: type[PeftConfig], model_cls: type, prefix: str | None = None) -> PeftType:
    """Adds the method to peft's registry and returns its `PeftType`; safe to call again.

    peft has no plugin mechanism: `register_peft_method` wants a member of the `PeftType` enum, and a plain string in
    its place breaks the loading of adapters by transformers. So the member is added by hand.
    """
    value = name.upper()
    if value not in PeftType.__members__:
        member = str.__new__(PeftType, value)
        member._name_ = member._value_ = value
        member.__objclass__ = PeftType  # type: ignore[attr-defined]
        member._sort_order_ = len(PeftType._member_names_)  # type: ignore[attr-defined]
        PeftType._member_names_.append(value)
        PeftType._member_map_[value] = member
        PeftType._value2member_map_[value] = member
        type.__setattr__(PeftType, value, member)  # around EnumType.__setattr__, which refuses
    if PeftType[value] not in PEFT_TYPE_TO_CONFIG_MAPPING:
        peft.utils.register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls, prefix=prefix)
    return PeftType[value]
