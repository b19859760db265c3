import pytest
import torch
from helpers.toy import NUM_LAYERS, collate, randomize_adapters, tiny_bert, toy_dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from hf_clear import ClearLoraConfig, num_routed_layers, route
from hf_clear.routing import apply_gate, sample_gates

CONFIGS = {
    "clear_lora": lambda: ClearLoraConfig(task_type="SEQ_CLS", r=4),
    "lora": lambda: LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear"),
    "rslora": lambda: LoraConfig(task_type="SEQ_CLS", r=4, use_rslora=True, lora_dropout=0.1),
    "dora": lambda: LoraConfig(task_type="SEQ_CLS", r=4, use_dora=True),
}


def batch_of(size: int) -> dict[str, torch.Tensor]:
    return {key: value for key, value in collate(list(toy_dataset(size))).items() if key != "labels"}


def hidden_states(model, batch, train=False) -> torch.Tensor:
    model.train(train)
    torch.manual_seed(5)  # the same dropout everywhere
    return torch.stack(model(**batch, output_hidden_states=True).hidden_states)


@pytest.fixture(params=CONFIGS)
def model(request):
    model = get_peft_model(tiny_bert(), CONFIGS[request.param]())
    randomize_adapters(model)
    return model


@torch.no_grad()
@pytest.mark.parametrize("train", [False, True])
def test_closed_gates_are_the_frozen_base_and_open_gates_the_plain_adapter(model, train):
    """In training mode too, with dropout."""
    batch, rows = batch_of(5), num_routed_layers(model)
    with model.disable_adapter():
        base = hidden_states(model, batch)
    plain = hidden_states(model, batch, train)
    with route(model, torch.zeros(rows, 5, dtype=torch.bool)):
        assert torch.equal(hidden_states(model, batch), base)
    with route(model, torch.ones(rows, 5, dtype=torch.bool)):
        assert torch.equal(hidden_states(model, batch, train), plain)
    assert not torch.equal(hidden_states(model, batch), base)
    assert torch.equal(hidden_states(model, batch, train), plain), "gates outlived their context"


@torch.no_grad()
def test_each_gate_row_is_one_layer():
    model = get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS"))
    randomize_adapters(model)
    batch = batch_of(3)
    with model.disable_adapter():
        base = hidden_states(model, batch)
    for layer in range(NUM_LAYERS):
        gates = torch.zeros(NUM_LAYERS, 3, dtype=torch.bool)
        gates[layer] = True
        with route(model, gates):
            routed = hidden_states(model, batch)
        first_changed = next(i for i in range(NUM_LAYERS + 1) if not torch.equal(routed[i], base[i]))
        assert first_changed == layer + 1  # hidden state 0 is the embedding


def test_number_of_rows():
    def rows(base, **config) -> int:
        return num_routed_layers(get_peft_model(base, LoraConfig(task_type="SEQ_CLS", **config)))

    small = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 37, "vocab_size": 60, "num_labels": 3}
    t5 = T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_decoder_layers=3, num_heads=4)
    assert num_routed_layers(tiny_bert()) == 0
    assert rows(tiny_bert()) == NUM_LAYERS
    assert rows(tiny_bert(), target_modules="all-linear") == NUM_LAYERS + 1, "the pooler has a row of its own"
    assert rows(tiny_bert(), layers_to_transform=[1]) == 1
    albert = AlbertConfig(**small, embedding_size=16, num_hidden_layers=4)
    assert rows(AlbertForSequenceClassification(albert), target_modules=["query"]) == 4, "passes of one shared layer"
    llama = LlamaConfig(**small, num_hidden_layers=2, num_key_value_heads=2)
    assert rows(LlamaForSequenceClassification(llama)) == 2
    assert rows(T5ForSequenceClassification(t5), target_modules=["q"]) == 2 + 3, "encoder and decoder count apart"


def test_refusals():
    model = get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS"))
    for gates in [torch.ones(NUM_LAYERS, 2), torch.ones(NUM_LAYERS + 1, 2, dtype=torch.bool)]:
        with pytest.raises(ValueError, match=rf"\[{NUM_LAYERS}, batch\]"), route(model, gates):
            pass
    with pytest.raises(ValueError, match="input with 5 rows"):
        with route(model, torch.ones(NUM_LAYERS, 2, dtype=torch.bool)):
            model(**batch_of(5))
    model.merge_adapter()
    with pytest.raises(ValueError, match="merged"), route(model, torch.ones(NUM_LAYERS, 2, dtype=torch.bool)):
        pass
    embeddings = get_peft_model(tiny_bert(), LoraConfig(target_modules=["word_embeddings"]))
    with pytest.raises(ValueError, match="target_modules"), route(embeddings, torch.ones(1, 2, dtype=torch.bool)):
        pass


def test_apply_gate_covers_several_rows_of_a_sample():
    gate = torch.tensor([True, False])
    routed = apply_gate(gate, torch.ones(4, 3), torch.full((4, 3), torch.nan))
    assert torch.equal(routed.isnan().any(dim=1), torch.tensor([False, False, True, True]))


def test_gate_rate_fits_the_binomial_and_layers_and_steps_are_independent():
    probability = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    layers, steps = 40, 1000
    draws = torch.stack(
        [sample_gates(probability, layers, torch.arange(5) * 1000, (42, step)) for step in range(steps)]
    ).double()
    count, trials = draws.sum(dim=(0, 1)), layers * steps
    sigma = (trials * probability * (1 - probability)).sqrt()
    assert ((count - trials * probability).abs() <= 4 * sigma).all()  # exactly 0 and all for probabilities 0 and 1
    half = draws[:, :, 2]
    assert half.T.corrcoef().fill_diagonal_(0).abs().max() < 5 / steps**0.5, "layers"
    assert half.corrcoef().fill_diagonal_(0).abs().max() < 6.5 / layers**0.5, "steps"
    assert abs(torch.corrcoef(draws[:, :, [1, 3]].reshape(-1, 2).T)[0, 1]) < 5 / trials**0.5, "samples"


def test_gates_depend_on_key_and_sample_alone():
    probability, index = torch.full((6,), 0.5), torch.tensor([3, 9, 4, 70, 8, 2])
    torch.manual_seed(0)
    state = torch.get_rng_state()
    gates = sample_gates(probability, 12, index, (42, 7))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    order = torch.tensor([5, 0, 3])
    assert torch.equal(sample_gates(probability[order], 12, index[order], (42, 7)), gates[:, order])
    assert not torch.equal(sample_gates(probability, 12, index, (42, 8)), gates)
    assert not torch.equal(sample_gates(probability, 12, index, (43, 7)), gates)
    assert torch.equal(sample_gates(probability, 5, index, (42, 7)), gates[:5])
