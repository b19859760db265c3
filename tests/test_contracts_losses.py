"""Every training loss keeps the contract, and the contract finds what breaks it."""

import pytest
import torch

from hf_clear.losses import TRAINING_LOSSES, LossPart, TrainingLoss, cross_entropy, get_training_loss
from hf_clear.testing import check_training_loss


@pytest.mark.parametrize("name", TRAINING_LOSSES)
def test_ours_keep_the_contract(name):
    check_training_loss(name)


def plain(evidence):
    return cross_entropy(evidence.logits, evidence.labels)


def changes_the_evidence(evidence):
    loss = plain(evidence)
    evidence.labels.zero_()
    return {"part": loss}


BROKEN = {
    "has to be of shape": lambda evidence: {"part": plain(evidence).mean()},
    "returned a Tensor": plain,
    "draws random numbers": lambda evidence: {"part": plain(evidence) * torch.rand(1)},
    "changes the evidence's labels": changes_the_evidence,
    "no gradient reaches": lambda evidence: {"part": plain(evidence).detach()},
    "is not finite": lambda evidence: {"part": evidence.logits.softmax(-1).amin(-1).log()},
    "depends on the others": lambda evidence: {"part": plain(evidence) - plain(evidence).mean()},
    "there would be no loss": lambda evidence: {},
    "stands for something else in the log": lambda evidence: {"loss": plain(evidence)},
    "TypeError: unsupported operand": lambda evidence: {"part": evidence.clean_probability * plain(evidence)},
    "flows into the target": lambda evidence: {
        "part": plain(evidence) if evidence.target is None else plain(evidence) + evidence.target.square().sum(-1)
    },
}


@pytest.mark.parametrize("message", BROKEN)
def test_the_contract_finds_what_breaks_it(message):
    loss = TrainingLoss("broken", BROKEN[message], needs_target=True, needs_clean_probability=True)
    with pytest.raises((AssertionError, ValueError), match=message):
        check_training_loss(loss)


def test_a_loss_that_adds_may_be_silent_but_not_always():
    with pytest.raises(AssertionError, match="no part in any case"):
        check_training_loss(TrainingLoss("silent", lambda evidence: {}, adds_to_task_loss=True))
    check_training_loss(get_training_loss("clear", {"consistency_weight": 0.0}))


def test_parts_may_carry_a_weight():
    check_training_loss(TrainingLoss("half", lambda evidence: {"half": LossPart(plain(evidence), 0.5)}))
