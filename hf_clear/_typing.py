"""Types that say more than those of transformers and torch. At run time they are nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from accelerate.utils import AcceleratorConfig
    from torch import nn
    from transformers import Trainer, TrainingArguments


class MapDataset(Protocol):
    """A map-style data set: of `torch`, of `datasets`, or a list. `torch.utils.data.Dataset` promises no length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


if TYPE_CHECKING:

    class ReadyArguments(TrainingArguments):
        """`TrainingArguments` after `__post_init__`."""

        output_dir: str
        accelerator_config: AcceleratorConfig

    class AnyTrainer(Trainer):
        """A `Trainer`, ours or not, after `__init__`, that has a training set. Also the base of our mixins."""

        args: ReadyArguments
        model: nn.Module
        train_dataset: MapDataset

    class RoutingTrainer(AnyTrainer):
        """What the mixins that [`~hf_clear.ClearMixin`] is made of know of it."""

        @property
        def is_routed(self) -> bool: ...

else:
    ReadyArguments = AnyTrainer = RoutingTrainer = object
