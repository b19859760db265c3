"""The contract of routing strategies: ours keep it, and broken ones don't."""

import contextlib

import pytest
import torch
from transformers import HfArgumentParser

from hf_clear import ClearTrainingArguments, register_routing_strategy
from hf_clear.routing import ROUTING_STRATEGIES, RoutingStrategy
from hf_clear.testing import check_routing_strategy


@pytest.mark.parametrize("name", ROUTING_STRATEGIES)
def test_ours_keep_it(name):
    check_routing_strategy(name)


@pytest.mark.parametrize(
    "function,message",
    [
        (lambda p, gamma, is_clean: 2 * p, "outside of \\[0, 1\\]"),
        (lambda p, gamma, is_clean: p / p, "outside of \\[0, 1\\]: from nan"),
        (lambda p, gamma, is_clean: gamma * p.mean(), "returned the shape \\[\\] for \\[50\\]"),
        (lambda p, gamma, is_clean: p > 0.5, "returned torch.bool for torch.float32"),
        (lambda p, gamma, is_clean: (gamma * p).tolist(), "returned a list"),
        (lambda p, gamma, is_clean: p.mul_(gamma), "changed the clean probabilities"),
        (lambda p, gamma, is_clean: torch.rand_like(p), "something else when it was called again"),
        (lambda p, gamma, is_clean: p + 0 * torch.rand(()), "used random numbers"),
        (lambda p, gamma, is_clean: gamma * p * torch.arange(len(p)) / len(p), "in another order"),
        (lambda p, gamma, is_clean: is_clean.nan_to_num(0.5), "raised AttributeError.*Without `needs_truth`"),
        (lambda p, gamma, is_clean: gamma * p / p.std(), "'broken', given clean probabilities .*outside"),
    ],
)
def test_a_broken_one_fails(function, message):
    with pytest.raises(AssertionError, match=message):
        check_routing_strategy(RoutingStrategy("broken", function))


@pytest.mark.parametrize(
    "function,message",
    [
        (lambda p, gamma, is_clean: gamma * p, "called with five arguments"),
        (lambda p, gamma, truth, labels, losses: gamma * p * labels.clamp_(0, 1), "changed the labels"),
        (lambda p, gamma, truth, labels, losses: gamma * p * losses.zero_(), "changed the losses"),
        (lambda p, gamma, truth, labels, losses: gamma * p[labels >= 0].mean() * torch.ones_like(p), "from nan to nan"),
        (lambda p, gamma, truth, labels, losses: gamma * losses.sigmoid(), None),
    ],
    ids=["arguments", "labels", "losses", "nothing labelled", "works"],
)
def test_one_that_needs_labels(function, message):
    with pytest.raises(AssertionError, match=message) if message else contextlib.nullcontext():
        check_routing_strategy(RoutingStrategy("of labels", function, needs_labels=True))
    with pytest.raises(AssertionError, match="With `needs_labels=False`, it is called with three arguments"):
        check_routing_strategy(RoutingStrategy("of labels", lambda p, gamma, is_clean, labels, losses: gamma * p))


def test_one_that_needs_the_truth_has_to_take_what_is_unknown():
    with pytest.raises(AssertionError, match="from nan to nan"):
        check_routing_strategy(RoutingStrategy("broken", lambda p, gamma, is_clean: is_clean, needs_truth=True))
    with pytest.raises(ValueError, match="no routing strategy 'nothing'. There are: 'class_balanced', 'clean'"):
        check_routing_strategy("nothing")


def test_one_that_is_registered_at_run_time_is_an_argument(tmp_path, capsys):
    register_routing_strategy("squared", lambda p, gamma, is_clean: gamma * p**2)
    try:
        check_routing_strategy("squared")
        with pytest.raises(SystemExit):
            HfArgumentParser(ClearTrainingArguments).parse_args_into_dataclasses(["--help"])
        assert "none,oracle,random,squared}" in capsys.readouterr().out
        arguments = ["--output_dir", str(tmp_path), "--clear_routing", "squared"]
        (parsed,) = HfArgumentParser(ClearTrainingArguments).parse_args_into_dataclasses(arguments)
        assert parsed.clear_routing == "squared"
        with pytest.raises(ValueError, match="'cleen'. There are: .*'squared'. `register_routing_strategy` adds one"):
            ClearTrainingArguments(output_dir=str(tmp_path), clear_routing="cleen")
    finally:
        del ROUTING_STRATEGIES["squared"]
