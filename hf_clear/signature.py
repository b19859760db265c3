"""The arguments of `Trainer`, written out for editors, documentation and `inspect.signature`."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import datasets
import torch
from peft import PeftConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback, TrainingArguments

from ._typing import AnyTrainer


class ExplicitArguments(AnyTrainer):
    """Comes first among the bases of a trainer: what it takes is what `Trainer` takes, and a `peft_config`."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if ExplicitArguments in cls.__bases__ and "__init__" not in vars(cls):
            stock: Any = ExplicitArguments.__init__
            own = FunctionType(stock.__code__, stock.__globals__, "__init__", stock.__defaults__, stock.__closure__)
            own.__annotations__, own.__module__ = stock.__annotations__, cls.__module__
            own.__qualname__ = f"{cls.__qualname__}.__init__"  # Python's message about an unknown argument says it
            cls.__init__ = own  # type: ignore[method-assign]

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Dataset | datasets.Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | datasets.Dataset | None = None,
        processing_class: Any = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        peft_config: PeftConfig | None = None,
    ):
        # All by name, so that the order of `Trainer`'s arguments is its own affair.
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            peft_config=peft_config,  # type: ignore[call-arg]  # of the next class, not of `Trainer`
        )
