"""Linear probing: a head trained on the features of a frozen model, which are computed once (TURN, phase 1)."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate.utils import broadcast, broadcast_object_list
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers.utils.logging import tqdm

from .._typing import AnyTrainer, MapDataset
from .._unwrap import base_of
from ..features import FrozenFeatures, predict_features
from ..files import make_temporary
from ..losses import consistency_loss, cross_entropy, generalized_cross_entropy
from ..passes import SamplePredictions, sample_dataloader
from ..probe_args import ProbeArguments

logger = logging.getLogger(__name__)

HEADS = ("classifier", "score", "classification_head")


def find_head(model: nn.Module, name: str | None = None) -> nn.Module:
    """The module that turns a model's features into class scores.

    Args:
        model (`nn.Module`): of transformers, or a `PeftModel` of one.
        name (`str`, *optional*): where it is; by default, one of `HEADS`.

    Raises:
        ValueError: if there is no such module (the message lists the candidates), it is frozen, or the
            model has a prompt-learning method of peft's own.
    """
    base = base_of(model)
    children = {child: module for child, module in base.named_children() if any(True for _ in module.parameters())}
    names = [child for child in HEADS if child in children] if name is None else [name]
    try:  # `probe_head` may be a path
        head = base.get_submodule(names[0]) if names else None
    except AttributeError:
        head = None
    if head is None:
        prefix = getattr(base, "base_model_prefix", "")
        candidates = [child for child in children if child != prefix] or ["none besides the encoder"]
        missing = f"no module {name!r}" if name else f"no head called {', '.join(HEADS[:-1])} or {HEADS[-1]}"
        raise ValueError(
            f"{type(base).__name__} has {missing}, so there is nothing to probe with. Name the module that turns "
            f"features into class scores in `probe_head`. Candidates: {', '.join(candidates)}."
        )
    if not all(parameter.requires_grad for parameter in trained_part(head).parameters()):
        way_out = "Call `requires_grad_()` on it."
        if isinstance(model, PeftModel):
            way_out = (
                f"Add `modules_to_save=[{names[0]!r}]` to the PEFT config (`task_type='SEQ_CLS'` does so for heads "
                "called 'classifier' or 'score'), and don't adapt it."
            )
        raise ValueError(f"The head {names[0]!r} of {type(base).__name__} is frozen: probing can't train it. {way_out}")
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        raise ValueError(
            f"peft's {model.active_peft_config.peft_type.value} can't be left out of a forward pass, so there are no "
            "features of the base model to probe. For prompts, use `ClearPromptConfig`."
        )
    return head


def trained_part(head: nn.Module) -> nn.Module:
    """The head itself; of peft's copies, the one that is trained."""
    return head.modules_to_save[cast(str, head.active_adapter)] if isinstance(head, ModulesToSaveWrapper) else head


class Probe(nn.Module):
    """The model's head and, for `probe_features="mean"`, a linear layer of its own that starts from zero, on frozen
    features. In float32, without dropout.

    Args:
        head (`nn.Module`): copied.
        head_shape (`Sequence[int]`): of what the head takes in for one sample, `FrozenFeatures.head_shape`.
        mean_size (`int`, *optional*): the number of mean features; None for no layer on them.
    """

    def __init__(self, head: nn.Module, head_shape: Sequence[int], mean_size: int | None = None):
        super().__init__()
        self.head = copy.deepcopy(trained_part(head)).float().requires_grad_().eval()
        self.head_shape = tuple(head_shape)
        self.mean: nn.Linear | None = None
        if mean_size is not None:
            device = next(self.head.parameters()).device
            with torch.no_grad():
                num_labels = self.head(torch.zeros(1, *self.head_shape, device=device)).shape[1]
            self.mean = torch.nn.utils.skip_init(nn.Linear, mean_size, num_labels, device=device)
            for parameter in self.mean.parameters():
                nn.init.zeros_(parameter)

    @property
    def uses_mean(self) -> bool:
        return self.mean is not None

    def forward(self, features: FrozenFeatures, rows: torch.Tensor | slice) -> list[torch.Tensor]:
        """Class scores of some samples, `[batch, num_labels]` each: of the head, and of the layer on mean features."""
        device = next(self.head.parameters()).device
        logits = [self.head(cast(torch.Tensor, features.head)[rows].to(device).view(-1, *self.head_shape))]
        if self.mean is not None:
            logits.append(self.mean(cast(torch.Tensor, features.mean)[rows].to(device)))
        return logits

    def predict(self, features: FrozenFeatures, batch_size: int = 8192) -> torch.Tensor:
        """Class scores for every sample, from the features that the probe is asked for: `[num_samples, num_labels]`, on
        CPU."""
        with torch.no_grad():
            starts = range(0, len(features.labels), batch_size)
            return torch.cat([self(features, slice(start, start + batch_size))[-1].cpu() for start in starts])


def train_probe(
    probe: Probe,
    features: FrozenFeatures,
    args: ProbeArguments,
    seed: int,
    optimizer: torch.optim.Optimizer | None = None,
    first_epoch: int = 0,
    on_epoch_end: Callable[[int, float], None] = lambda epoch, loss: None,
    show_progress: bool = False,
    targets: torch.Tensor | None = None,
) -> None:
    """Minimizes the generalized cross entropy of the probe, in place; all processes end with the main one's.

    The order of the samples is a function of seed and epoch: with probe and optimizer as they were after `first_epoch`
    epochs, the result is that of a run that was never stopped.

    Args:
        optimizer (`torch.optim.Optimizer`, *optional*): from [`probe_optimizer`].
        on_epoch_end (`Callable`, *optional*): called with the number of epochs that are done and the mean loss.
        targets (`torch.Tensor` of shape `[num_samples, num_labels]`, *optional*): in place of the labels; the loss is
            then cross entropy with them. A sample with a row of zeros, or without finite features, is left out.

    Raises:
        ValueError: if a feature is not finite.
    """
    finite = _finite(features)
    if targets is None and not finite.all():
        raise ValueError(
            f"The features of training sample {int((~finite).nonzero()[0])} are not finite: probing can't learn from "
            "them. Train in float32 or bf16 instead of fp16, or drop the sample."
        )
    optimizer = probe_optimizer(probe, features, args) if optimizer is None else optimizer
    takes_part = finite if targets is None else (targets.sum(dim=1) > 0).cpu() & finite
    if not (num_samples := len(samples := takes_part.nonzero().squeeze(1))):
        return
    features = features.with_head_on(next(probe.parameters()).device)  # a step is shorter than the way there
    steps_per_epoch = -(-num_samples // args.probe_batch_size)
    step, num_steps = first_epoch * steps_per_epoch, args.probe_epochs * steps_per_epoch
    epochs = range(first_epoch, args.probe_epochs)
    for epoch in tqdm(epochs, desc="Linear probing", unit="epoch", disable=not show_progress):
        order = samples[np.random.default_rng((seed, epoch)).permutation(num_samples)]
        total: float | torch.Tensor = 0.0  # a step waits for no device
        for rows in order.split(args.probe_batch_size):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * (1 + np.cos(np.pi * step / num_steps)) / 2
            rows = rows.sort().values  # neighbors in the file, if there is one
            scores = probe(features, rows)
            if targets is None:
                labels = features.labels[rows].to(scores[0].device)
                losses = [generalized_cross_entropy(logits, labels, args.probe_gce_q).mean() for logits in scores]
            else:
                target = targets[rows.to(targets.device)].to(scores[0])
                losses = [consistency_loss(logits, target).mean() for logits in scores]
            optimizer.zero_grad()
            torch.autograd.backward(losses)  # they share no parameter
            optimizer.step()
            total = total + losses[-1].detach() * len(rows)
            step += 1
        mean_loss = float(total) / num_samples
        on_epoch_end(epoch + 1, mean_loss)
    for parameter in probe.parameters():  # on GPUs, the processes may have come to differ by rounding
        parameter.data = broadcast(parameter.data)
    if targets is None and epochs and mean_loss >= _loss_of_guessing(scores[-1].shape[1], args.probe_gce_q):
        logger.warning(
            f"After {args.probe_epochs} epochs of probing, the loss ({mean_loss:.3f}) is not below that of guessing: "
            "the frozen features say little about the labels, or `probe_learning_rate` doesn't suit them. Don't expect "
            "much of the clean probabilities."
        )


def _loss_of_guessing(num_labels: int, q: float) -> float:
    """The generalized cross entropy of a uniform prediction."""
    return float(generalized_cross_entropy(torch.zeros(1, num_labels), torch.zeros(1, dtype=torch.long), q))


def probe_optimizer(probe: Probe, features: FrozenFeatures, args: ProbeArguments) -> torch.optim.Optimizer:
    """The optimizer of a probe: for a linear layer, its learning rate is larger if the features are smaller, so
    that one default suits the head's and the mean ones."""
    parts = [(probe.head, features.head)] + [(probe.mean, features.mean)] * probe.uses_mean
    groups = []
    for module, of_module in cast(list[tuple[nn.Module, torch.Tensor]], parts):
        rate = args.probe_learning_rate / (_scale(of_module) if isinstance(module, nn.Linear) else 1.0)
        groups.append({"params": list(module.parameters()), "initial_lr": rate})
    return torch.optim.AdamW(
        groups, lr=args.probe_learning_rate, weight_decay=0.0, fused=next(probe.parameters()).is_cuda
    )


def _scale(features: torch.Tensor, rows: int = 8192) -> float:
    """The standard deviation of the features around their means, from some of the samples. Not below 0.01: features
    that hardly differ tell nothing, and no learning rate changes that."""
    some = features[:: -(-len(features) // rows)]
    some = some[some.isfinite().all(dim=1)]
    return max((some - some.mean(dim=0)).square().mean().sqrt().item(), 0.01)


def probe_predictions(probe: Probe, features: FrozenFeatures) -> SamplePredictions:
    """What the probe makes of the training set: losses are cross entropies with the given labels."""
    logits = probe.predict(features)
    return SamplePredictions(
        losses=cross_entropy(logits, features.labels), labels=features.labels, probabilities=logits.softmax(dim=-1)
    )


@contextlib.contextmanager
def features_for_probe(
    trainer: AnyTrainer,
    dataset: MapDataset,
    args: ProbeArguments,
    mean: bool,
    batch_context: Callable[[torch.Tensor], contextlib.AbstractContextManager] | None = None,
    needs_labels: bool = True,
    needs_all: bool = True,
) -> Iterator[FrozenFeatures]:
    """The features that a probe is trained on or asked about. Above `probe_feature_memory`, they are in a file in
    `output_dir` that is deleted at the end of the context.

    Raises:
        ValueError: if the model has no head to probe with.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    head = find_head(model, args.probe_head)
    dataloader = sample_dataloader(trainer, dataset, needs_labels=needs_labels)
    width = _width(head) + (getattr(getattr(model, "config", None), "hidden_size", None) or 1024) * mean
    size = len(dataset) * width * 4 / 2**30
    with contextlib.ExitStack() as stack:
        storage = None
        if size > args.probe_feature_memory:
            storage = stack.enter_context(_shared_file(trainer))
            logger.info(f"The features take {size:.1f} GiB: they are mapped from {storage}.")
        yield predict_features(trainer, dataloader, batch_context, mean, head, storage, "Features", needs_all)


def set_head(trainer: AnyTrainer, name: str | None, probe: Probe) -> None:
    """Gives the model the head that was probed."""
    head = trained_part(find_head(trainer.accelerator.unwrap_model(trainer.model), name))
    with torch.no_grad():
        for own, probed in zip(head.parameters(), probe.head.parameters()):
            own.copy_(probed)


def base_model_context(trainer: AnyTrainer) -> Callable[[torch.Tensor], contextlib.AbstractContextManager]:
    """For [`predict_features`]: the model without its adapter."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return lambda index: model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext()


def _width(head: nn.Module) -> int:
    """How many numbers the head takes in, about."""
    return next((parameter.shape[-1] for parameter in head.parameters() if parameter.ndim > 1), 1)


def _finite(features: FrozenFeatures, block: int = 8192) -> torch.Tensor:
    """Which samples have finite features: `[num_samples]`."""
    tables = [part for part in (features.head, features.mean) if part is not None]
    starts = range(0, len(features.labels), block)
    parts = [[part[start : start + block].isfinite().all(dim=1) for part in tables] for start in starts]
    return torch.cat([torch.stack(of_block).all(dim=0) for of_block in parts])


@contextlib.contextmanager
def _shared_file(trainer: AnyTrainer) -> Iterator[Path]:
    """A file of all processes, deleted at the end."""
    folder = Path(trainer.args.output_dir)
    name = None
    if trainer.accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = make_temporary(folder, "features")
        os.close(handle)
    if trainer.accelerator.num_processes > 1:
        name = broadcast_object_list([name])[0]
    try:
        yield Path(cast(str, name))
        trainer.accelerator.wait_for_everyone()  # not after a failure, which the others may not share
    finally:
        if trainer.accelerator.is_main_process:
            Path(cast(str, name)).unlink(missing_ok=True)
