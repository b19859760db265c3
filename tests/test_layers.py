"""Which layer a module belongs to: rows of gates are counted right, however the model is packed."""

import functools

import pytest
import torch
from helpers.architectures import ROWS, batch_of, config_of, model_of
from helpers.toy import tiny_bert
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AlbertConfig,
    AlbertModel,
    HieraConfig,
    HieraModel,
    MixtralConfig,
    MixtralForSequenceClassification,
    SwinConfig,
    SwinModel,
    T5Config,
    T5ForSequenceClassification,
    ZambaConfig,
    ZambaModel,
)

from hf_clear import ClearBitFitConfig, num_routed_layers, route
from hf_clear.routing import layer_paths


class Attention(nn.Module):
    def __init__(self, heads: int = 0):
        super().__init__()
        self.q, self.v = nn.Linear(8, 8), nn.Linear(8, 8)
        self.heads = nn.ModuleList(Expert() for _ in range(heads))

    def forward(self, x):
        return self.v(self.q(x).tanh())


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 8)


class Block(nn.Module):
    """Of a transformer that is not of transformers: an MLP by numbers, a list of one, heads, experts."""

    def __init__(self, heads: int = 3, experts: int = 2):
        super().__init__()
        self.attention, self.norm = Attention(heads), nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.extra = nn.ModuleList([Expert()])
        self.experts = nn.ModuleList(Expert() for _ in range(experts))

    def forward(self, x):
        x = self.norm(x + self.attention(x))
        return x + self.mlp(x)


class OtherBlock(Block):
    pass


class FlatBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.v = nn.Linear(8, 8), nn.Linear(8, 8)


class Transformer(nn.Module):
    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.embed, self.blocks, self.pooler = nn.Embedding(9, 8), nn.ModuleList(blocks), nn.Linear(8, 8)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.pooler(x)


class Stage(nn.Module):
    def __init__(self, depth: int):
        super().__init__()
        self.blocks, self.downsample = nn.ModuleList(Block() for _ in range(depth)), nn.Linear(8, 8)


SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}


def mixtral() -> nn.Module:
    config = MixtralConfig(**SMALL, num_hidden_layers=3, num_key_value_heads=2, num_local_experts=4, pad_token_id=0)
    return MixtralForSequenceClassification(config)


def t5() -> nn.Module:
    sizes = {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2}
    return T5ForSequenceClassification(T5Config(**sizes, num_layers=2, num_decoder_layers=3))


def swin() -> nn.Module:
    return SwinModel(
        SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[2, 3], num_heads=[2, 2], window_size=2)
    )


def hiera() -> nn.Module:
    return HieraModel(
        HieraConfig(
            image_size=[32, 32],
            embed_dim=8,
            depths=[2, 3],
            num_heads=[1, 2],
            query_stride=[2, 2],
            masked_unit_size=[2, 2],
            num_query_pool=1,
        )
    )


def numbered(prefix: str, *sizes: int) -> list[str]:
    return [f"{prefix}.{number}" for number in range(sum(sizes))]


WHERE = {
    "a model in a list": (
        lambda: nn.ModuleList([tiny_bert()]),
        ["query", "pooler.dense"],
        [*numbered("0.bert.encoder.layer", 3), "0.bert.pooler.dense"],
    ),
    "a model in a sequence": (
        lambda: nn.Sequential(tiny_bert(), nn.Linear(4, 4)),
        ["query"],
        numbered("0.bert.encoder.layer", 3),
    ),
    "two models in a list": (
        lambda: nn.ModuleList([tiny_bert(), tiny_bert(num_hidden_layers=2)]),
        ["query"],
        [*numbered("0.bert.encoder.layer", 3), *numbered("1.bert.encoder.layer", 2)],
    ),
    "the head of a model in a list": (
        lambda: nn.ModuleList([tiny_bert(), tiny_bert()]),
        ["classifier"],
        ["0.classifier", "1.classifier"],
    ),
    "Swin": (
        swin,
        ["q_proj", "query", "reduction"],
        [
            *numbered("encoder.layers.0.blocks", 2),
            "encoder.layers.0",  # what halves the image after the blocks
            *numbered("encoder.layers.1.blocks", 3),
        ],
    ),
    "Hiera": (hiera, ["fc1"], [*numbered("encoder.stages.0.layers", 2), *numbered("encoder.stages.1.layers", 3)]),
    "T5": (
        t5,
        ["q", "wi"],
        [*numbered("transformer.encoder.block", 2), *numbered("transformer.decoder.block", 3)],
    ),
    "a mixture of experts": (mixtral, ["q_proj", "gate"], numbered("model.layers", 3)),
    "MPNet in a list": (lambda: nn.ModuleList([model_of("mpnet")]), ["attn.q"], numbered("0.mpnet.encoder.layer", 2)),
    "foreign blocks": (
        lambda: Transformer(Block(), Block(), Block()),
        ["q", "mlp.0", "mlp.2", "fc1", "pooler"],
        [*numbered("blocks", 3), "pooler"],
    ),
    "one foreign block": (lambda: Transformer(Block()), ["q", "mlp.0", "fc1"], ["blocks.0"]),
    "foreign blocks of two classes": (
        lambda: Transformer(Block(), OtherBlock()),
        ["q", "mlp.0"],
        numbered("blocks", 2),
    ),
    "foreign models in a list": (
        lambda: nn.ModuleList([Transformer(Block(), Block()), Transformer(Block(), Block())]),
        ["q", "mlp.0", "fc2", "pooler"],
        [*numbered("0.blocks", 2), "0.pooler", *numbered("1.blocks", 2), "1.pooler"],
    ),
    "a model of flat foreign blocks in a list": (
        lambda: nn.ModuleList([Transformer(FlatBlock(), nn.Identity(), FlatBlock())]),
        ["q"],
        ["0.blocks.0", "0.blocks.2"],
    ),
    "foreign stages": (
        lambda: nn.ModuleList([Stage(2), Stage(2)]),
        ["q", "mlp.2", "downsample"],
        [*numbered("0.blocks", 2), "0.downsample", *numbered("1.blocks", 2), "1.downsample"],
    ),
    "blocks in a sequence": (
        lambda: nn.Sequential(nn.Embedding(9, 8), Block(), Block(), nn.LayerNorm(8), nn.Linear(8, 3)),
        ["q", "mlp.0", "fc1", "4"],
        ["1", "2", "4"],
    ),
    "pairs of attention and feed-forward": (
        lambda: nn.ModuleList(nn.ModuleList([Attention(), Expert()]) for _ in range(3)),
        ["q", "fc1"],
        ["0", "1", "2"],
    ),
    "linear layers by numbers": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)),
        ["0", "2"],
        ["0", "2"],
    ),
}


def rows(model: nn.Module, targets: list[str]) -> list[str]:
    """The layers of the modules that LoRA finds, in order."""
    model = get_peft_model(model, LoraConfig(target_modules=targets))
    paths = layer_paths(model)
    found = dict.fromkeys(paths[path] for path, module in model.named_modules() if hasattr(module, "lora_A"))
    assert len(found) == num_routed_layers(model)
    return [path.removeprefix("base_model.model.") for path in found]


@pytest.mark.parametrize("case", WHERE)
def test_a_row_is_a_layer(case):
    build, targets, expected = WHERE[case]
    assert rows(build(), targets) == expected


@pytest.mark.parametrize("name", ["vit", "gpt2", "bart", "deberta-v2", "modernbert"])
def test_packing_adds_no_row_and_takes_none(name):
    model = get_peft_model(model_of(name), config_of("lora", name))
    assert num_routed_layers(nn.ModuleList([model])) == num_routed_layers(nn.Sequential(model)) == ROWS[name]


def test_bitfit_finds_the_layers_of_a_model_in_a_list():
    def targets(model: nn.Module) -> set[str]:
        return set(get_peft_model(model, ClearBitFitConfig()).targeted_module_names)

    alone = targets(tiny_bert())
    assert targets(nn.ModuleList([tiny_bert()])) == {f"0.{path}" for path in alone}
    assert not any("pooler" in path or "classifier" in path for path in alone)
    in_swin = targets(swin())
    assert any(path.startswith("encoder.layers.1.blocks.2.") for path in in_swin)
    assert "encoder.layers.0.downsample.norm" in in_swin, "a stage of transformers counts as a layer for the rest of it"
    assert not any(path.startswith(("embeddings", "layernorm")) for path in in_swin)


def test_a_module_that_holds_its_parent_and_one_with_two_names():
    model = tiny_bert()
    model.encoder = model.bert.encoder  # another name for the same layers, which are passed once
    assert rows(model, ["query"]) == numbered("bert.encoder.layer", 3)
    model = Transformer(Block(), Block())
    model.blocks[0].owner = model
    assert rows(model, ["attention.q"]) == numbered("blocks", 2)


# ---- Layers that a forward pass goes through several times ----


def shared_albert(**config) -> nn.Module:
    torch.manual_seed(0)
    return AlbertModel(AlbertConfig(**SMALL, embedding_size=8, initializer_range=0.2, **config)).eval()


def zamba() -> nn.Module:
    torch.manual_seed(0)
    layers = ["mamba", "hybrid", "mamba", "hybrid", "hybrid"]
    config = ZambaConfig(
        **SMALL,
        **{"num_hidden_layers": 5, "layers_block_type": layers, "num_key_value_heads": 2, "mamba_d_state": 4},
        **{"use_mamba_kernels": False, "mamba_dt_rank": 4, "initializer_range": 0.2},
    )
    return ZambaModel(config).eval()


def adapted(model: nn.Module, targets: list[str]) -> nn.Module:
    model = get_peft_model(model, LoraConfig(target_modules=targets, r=2))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.5, generator=generator)
    return model.eval()


def states(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return model(**batch, output_hidden_states=True).hidden_states


@pytest.mark.parametrize(
    "config,expected",
    [
        ({"num_hidden_layers": 4}, 4),
        ({"num_hidden_layers": 3, "inner_group_num": 2}, 6),
        ({"num_hidden_layers": 5, "num_hidden_groups": 2}, 5),
        ({"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2}, 8),
    ],
)
@torch.no_grad()
def test_each_pass_through_a_layer_of_albert_has_a_gate(config, expected):
    """Row l acts in pass l alone: the same as a model without sharing, whose layer l alone has an adapter."""
    model, batch = adapted(shared_albert(**config), ["query", "ffn"]), batch_of("albert")
    batch = {"input_ids": batch["input_ids"] % 20, "attention_mask": batch["attention_mask"]}
    assert num_routed_layers(model) == expected
    plain = states(model, batch)
    with model.disable_adapter():
        base = states(model, batch)
    encoder = model.base_model.model.encoder
    order = [
        layer
        for number in range(config["num_hidden_layers"])
        for layer in encoder.albert_layer_groups[
            int(number / (config["num_hidden_layers"] / config.get("num_hidden_groups", 1)))
        ].albert_layers
    ]
    calls = []
    hooks = [layer.register_forward_pre_hook(lambda layer, args: calls.append(layer)) for layer in {*order}]
    states(model, batch)
    assert calls == order, "transformers goes through ALBERT's layers in another order than ours"
    for hook in hooks:
        hook.remove()

    def by_hand(gates: torch.Tensor) -> torch.Tensor:
        """The layers one by one, each called with the adapter and without."""
        hidden = model.base_model.model.embeddings(input_ids=batch["input_ids"])
        hidden = encoder.embedding_hidden_mapping_in(hidden)
        mask = batch["attention_mask"].bool()[:, None, None].expand(-1, 1, hidden.shape[1], -1)
        for gate, layer in zip(gates, order, strict=True):
            routed = layer(hidden, mask)
            with model.disable_adapter():
                hidden = torch.where(gate[:, None, None], routed, layer(hidden, mask))
        return hidden

    generator = torch.Generator().manual_seed(0)
    for gates in (
        *torch.eye(expected, dtype=torch.bool)[:, :, None].expand(-1, -1, 4),
        torch.rand(expected, 4, generator=generator) < 0.5,
    ):
        with route(model, gates):
            first, second = states(model, batch), states(model, batch)
        assert torch.equal(first[-1], second[-1]), "a second forward pass in one context begins anew"
        assert torch.allclose(first[-1], by_hand(gates), rtol=0, atol=1e-6)
    for gates, whole in ((torch.zeros(expected, 4), base), (torch.ones(expected, 4), plain)):
        with route(model, gates.bool()):
            assert all(torch.equal(a, b) for a, b in zip(states(model, batch), whole, strict=True))
    assert torch.equal(states(model, batch)[-1], plain[-1]), "gates outlived their context"


@torch.no_grad()
def test_a_context_in_a_context_has_passes_of_its_own():
    model, ids = adapted(shared_albert(num_hidden_layers=3), ["query"]), torch.tensor([[3, 4, 5]])
    gates = torch.tensor([[True], [False], [True]])
    with route(model, gates):
        before = model(ids).last_hidden_state
        with route(model, ~gates):
            inner = model(ids).last_hidden_state
        assert torch.equal(model(ids).last_hidden_state, before)
    assert not torch.equal(inner, before)


@torch.no_grad()
def test_a_layer_at_several_places_of_a_list_has_a_gate_at_each():
    block = Block(0, 0)
    model = adapted(Transformer(block, Block(0, 0), block, block), ["attention.q", "mlp.0"])
    assert num_routed_layers(model) == 4
    ids, inner = torch.tensor([[1, 2], [3, 4]]), model.base_model.model

    def by_hand(gates: torch.Tensor) -> torch.Tensor:
        hidden = inner.embed(ids)
        for gate, layer in zip(gates, inner.blocks):
            routed = layer(hidden)
            with model.disable_adapter():
                hidden = torch.where(gate[:, None, None], routed, layer(hidden))
        return inner.pooler(hidden)

    for gates in torch.eye(4, dtype=torch.bool)[:, :, None].expand(-1, -1, 2):
        with route(model, gates):
            routed = model(ids)
        assert torch.allclose(routed, by_hand(gates), rtol=0, atol=1e-6)


@torch.no_grad()
def test_zambas_shared_block_has_a_gate_in_each_layer():
    model, ids = adapted(zamba(), ["q_proj", "v_proj"]), torch.tensor([[3, 4, 5], [6, 7, 8]])
    assert num_routed_layers(model) == 3
    batch = {"input_ids": ids, "use_cache": False}
    with model.disable_adapter():
        base = states(model, batch)
    for row, layer in enumerate((1, 3, 4)):
        gates = torch.zeros(3, 2, dtype=torch.bool)
        gates[row] = True
        with route(model, gates):
            routed = states(model, batch)
        assert torch.equal(routed[layer], base[layer]) and not torch.equal(routed[layer + 1], base[layer + 1])


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputing_passes_in_backward_is_refused(reentrant):
    model = adapted(shared_albert(num_hidden_layers=3), ["query"])
    for layer in model.base_model.model.encoder.albert_layer_groups[0].albert_layers:

        def forward(*args, stock=layer.forward, **kwargs):
            return checkpoint(functools.partial(stock, **kwargs), *args, use_reentrant=reentrant)

        layer.forward = forward
    model.enable_input_require_grads()
    with pytest.raises(RuntimeError, match="goes through 3 times was called during.*gradient_checkpointing=False"):
        with route(model, torch.ones(3, 1, dtype=torch.bool)):
            model(torch.tensor([[3, 4, 5]])).last_hidden_state.sum().backward()
