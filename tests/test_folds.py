"""A cross-fitting warm-up: each fold's adapter is what a training on that fold alone would give, and what it says of
the other folds depends on no label of theirs."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.trainers import assert_same_weights, weights
from helpers.turn import noisy_dataset
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from hf_clear import ClearAdapterConfig, ClearBitFitConfig, ClearLoraConfig, ClearPromptConfig, ClearTrainer
from hf_clear.estimators import fit_noise_model
from hf_clear.features import FrozenFeatures, predict_features
from hf_clear.fold_assignment import assign_folds
from hf_clear.folds.adapters import STATE_NAME, FoldAdapters
from hf_clear.losses import generalized_cross_entropy
from hf_clear.probing import Probe, find_head, train_probe
from hf_clear.routing import AdapterChoice, choose_adapters
from hf_clear.sample_index import SAMPLE_INDEX

METHODS = {
    "lora": ClearLoraConfig(task_type="SEQ_CLS", r=4),
    "stock lora": LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear", lora_bias=True),
    "dora": LoraConfig(task_type="SEQ_CLS", r=4, use_dora=True),
    "adapter": ClearAdapterConfig(task_type="SEQ_CLS", bottleneck_size=8),
    "bitfit": ClearBitFitConfig(task_type="SEQ_CLS"),
    "prompt": ClearPromptConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
    "any layer of peft": IA3Config(task_type="SEQ_CLS"),
}
FOUR = ("lora", "adapter", "bitfit", "prompt")


def first(size: int) -> dict[str, torch.Tensor]:
    return collate(list(toy_dataset(size)))


def collate_inputs(rows: torch.Tensor) -> dict[str, torch.Tensor]:
    return collate([item for item in toy_dataset(24).select(rows.tolist()).remove_columns("labels")])


def folded(config, num_folds: int, **kwargs) -> tuple[nn.Module, FoldAdapters]:
    """A model in double precision without dropout, each fold's adapter with other values."""
    model = get_peft_model(tiny_bert(**kwargs), copy.deepcopy(config)).double().eval()
    adapters = FoldAdapters(model, num_folds)
    generator = torch.Generator().manual_seed(1)
    for fold in range(num_folds):
        for parameter in adapters.parameters(fold):
            parameter.data.normal_(std=0.2, generator=generator)
    return model, adapters


def alone(model: nn.Module, adapters: FoldAdapters, fold: int, folds: int) -> tuple[nn.Module, FoldAdapters]:
    """A copy of the model whose only adapter is that of a fold."""
    copied = copy.deepcopy(model)
    own = FoldAdapters.__new__(FoldAdapters)
    own._model, own.names, own._hooks = copied, adapters.names, []
    with torch.no_grad():
        for name, tensor in own.tensors(0).items():
            tensor.copy_(own.tensors(fold)[name])
    own.drop()
    return copied, own


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_each_fold_has_the_gradient_of_a_training_on_its_rows_alone(method, checkpointing):
    model, adapters = folded(METHODS[method], 3)
    assert len(adapters.parameters(0)) == len(adapters.parameters(2)) > 3
    batch = first(8)
    labels, which = batch.pop("labels"), torch.tensor([0, 1, 0, 0, 1, 0, 1, 1])  # nothing of fold 2
    if checkpointing:
        model.train()  # no checkpoints in evaluation; the toy has dropout
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with choose_adapters(model, AdapterChoice(adapters.names, which)):
        logits = model(**batch).logits
        loss = sum(nn.functional.cross_entropy(logits[which == fold], labels[which == fold]) for fold in (0, 1))
        loss.backward()
    for fold in (0, 1):
        single, own = alone(model, adapters, fold, 3)
        single.zero_grad()
        rows = which == fold
        expected = single(**{name: value[rows] for name, value in batch.items()}).logits
        torch.testing.assert_close(logits[rows], expected, rtol=1e-10, atol=1e-10)
        nn.functional.cross_entropy(expected, labels[rows]).backward()
        for name, tensor in own.tensors(0).items():
            if tensor.requires_grad:
                torch.testing.assert_close(adapters.tensors(fold)[name].grad, tensor.grad, rtol=1e-9, atol=1e-12)
    assert all(not parameter.grad.any() for parameter in adapters.parameters(2))  # zeros, not None


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_the_folds_shows_outside_of_a_choice(method):
    plain = get_peft_model(tiny_bert(), copy.deepcopy(METHODS[method])).eval()
    with torch.no_grad():
        batch = first(4)
        expected, names = plain(**batch).logits, [*plain.state_dict()]
        adapters = FoldAdapters(plain, 2)
        for parameter in adapters.parameters(1):
            parameter.add_(1.0)
        with choose_adapters(plain, AdapterChoice(adapters.names, torch.tensor([0, 1, 1, 0]))):
            mixed = plain(**batch).logits
        assert torch.equal(plain(**batch).logits, expected)
        torch.testing.assert_close(mixed[[0, 3]], expected[[0, 3]])
        assert not torch.isclose(mixed[[1, 2]], expected[[1, 2]]).all(dim=1).any()
        adapters.drop()
        assert [*plain.state_dict()] == names and torch.equal(plain(**batch).logits, expected)


def test_folds_are_a_function_of_seed_sample_and_label():
    labels = np.random.default_rng(0).integers(0, 7, 200)
    for number in (2, 3):
        folds = assign_folds(200, number, seed=1, labels=labels)
        assert np.array_equal(folds, assign_folds(200, number, 1, list(labels)))
        shares = np.array([[(folds[labels == label] == fold).sum() for fold in range(number)] for label in range(7)])
        assert (shares.max(axis=1) - shares.min(axis=1)).max() <= 1  # stratified
        assert np.ptp(shares.sum(axis=0)) <= 1
        assert (folds != assign_folds(200, number, 2, labels)).any()
    assert sorted(assign_folds(30, 30, 0, labels[:30])) == [*range(30)]  # leave one out
    assert sorted(np.bincount(assign_folds(11, 2, 0))) == [5, 6]  # labels unknown
    assert set(assign_folds(40, 2, 0, ["a"] * 20 + ["b"] * 20)[:20]) == {0, 1}


# ---- Trainings ----

LORA = METHODS["lora"]


class Watch(TrainerCallback):
    """What the optimizer is given in each step, and the scores in the end of the warm-up."""

    def __init__(self, stop_at: int | None = None):
        self.gradients, self.rates, self.scores, self.stop_at = [], [], None, stop_at

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.stop_at:
            control.should_save = control.should_training_stop = True


@pytest.fixture
def build(training_arguments):
    def build(config=LORA, dataset=None, watch=None, dropout=0.0, bert=None, evaluated=None, **arguments):
        watch = watch or Watch()
        trainer = ClearTrainer(
            tiny_bert(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **(bert or {})),
            training_arguments(
                **{
                    "clear_warmup": "cross_fit",
                    "clear_warmup_epochs": 2,
                    "num_train_epochs": 3,
                    "lr_scheduler_type": "constant",
                    "max_grad_norm": 0.05,
                    **arguments,
                }
            ),
            train_dataset=toy_dataset(24) if dataset is None else dataset,
            eval_dataset=evaluated,
            data_collator=collate,
            peft_config=copy.deepcopy(config),
            callbacks=[watch],
        )
        trainer.watch = watch
        stock = trainer.end_cross_fitting

        def end_cross_fitting(dataloader):
            trainer.last_adapters = trainer._cross_fitting.adapters
            trainer.folds = trainer._cross_fitting.folds.clone()
            trainer.fold_weights = [
                {name: tensor.clone() for name, tensor in trainer.last_adapters.tensors(fold).items()}
                for fold in range(len(trainer.last_adapters.names))
            ]
            watch.scores = stock(dataloader)
            return watch.scores

        trainer.end_cross_fitting = end_cross_fitting
        return trainer

    return build


def test_a_training_gives_each_fold_its_own_clipped_mean_gradient(build):
    """Against a computation by hand, batches accumulated or not; the log has the mean of the folds."""
    trainers = [
        build(
            **{"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size},
            **{"optim": "sgd", "learning_rate": 1.0, "clear_evidence": "none"},
        )
        for size in (8, 4)
    ]
    for trainer in trainers:
        trainer.train()
    whole, parts = (trainer.watch.gradients for trainer in trainers)
    assert len(whole) == len(parts) == 9
    for first, second in zip(whole, parts):
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)

    # The first step, by hand.
    trainer = build(optim="sgd")
    index = next(iter(trainer.get_train_dataloader()))[SAMPLE_INDEX]
    labels = torch.tensor(toy_dataset(24)["labels"])
    folds = torch.from_numpy(assign_folds(24, 2, trainer.args.seed, labels.numpy()))
    for fold in range(2):
        rows = index[folds[index] == fold]
        model = copy.deepcopy(trainer.model)
        batch = collate([toy_dataset(24)[i] for i in rows.tolist()])
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        generalized_cross_entropy(logits, batch["labels"], 0.7 / 6).mean().backward()
        expected = {name: p for name, p in model.named_parameters() if p.requires_grad}
        norm = nn.utils.clip_grad_norm_(expected.values(), 0.05)
        assert norm > 0.05
        for name, parameter in expected.items():
            own = name if fold == 0 else name.replace(".default", ".clear_fold_1")
            torch.testing.assert_close(whole[0][own], parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", FOUR)
@pytest.mark.parametrize("fold", [0, 1])
def test_scores_depend_on_no_label_of_the_own_fold(build, monkeypatch, method, fold):
    """Bit by bit, dropout and clipping on: what the adapter of the other fold has become is the same."""
    folds = assign_folds(24, 2, 7, toy_dataset(24)["labels"])
    monkeypatch.setattr("hf_clear.folds.cross_fitting.assign_folds", lambda *args: folds)
    changed = toy_dataset(24)
    sample = int(np.flatnonzero(folds == fold)[2])
    other = (changed["labels"][sample] + 1) % 4
    labels = [other if i == sample else label for i, label in enumerate(changed["labels"])]
    changed = changed.remove_columns("labels").add_column("labels", labels)
    found = []
    for dataset in (toy_dataset(24), changed):
        trainer = build(METHODS[method], dataset, dropout=0.1)
        trainer.train()
        found.append(trainer.watch.scores)
    same = (found[0].scores == found[1].scores).all(dim=1).numpy()
    assert same[folds == fold].all() and not same[folds != fold].any()
    assert (found[0].labels != found[1].labels).nonzero().flatten().tolist() == [sample]


@pytest.mark.parametrize("num_folds", [2, 3])
def test_scores_are_the_mean_of_the_adapters_that_have_not_seen_the_label(build, num_folds):
    trainer = build(clear_folds=num_folds, clear_evidence="none")
    trainer.train()
    model, held_out = trainer.model.eval(), trainer.watch.scores
    batch = first(24)
    logits = []
    for fold in range(num_folds):
        own = trainer.last_adapters.tensors(0)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(trainer.fold_weights[fold][name])
            logits.append(model(**batch).logits)
    for sample, fold in enumerate(trainer.folds.tolist()):
        others = [logits[other][sample] for other in range(num_folds) if other != fold]
        torch.testing.assert_close(held_out.scores[sample], torch.stack(others).mean(dim=0), rtol=1e-4, atol=1e-5)
    assert held_out.labels.tolist() == toy_dataset(24)["labels"]
    assert held_out.scores.dtype == torch.float32
    prediction = fit_noise_model(held_out.scores.numpy(), held_out.labels.numpy()).prediction
    expected = -np.log(prediction[np.arange(24), held_out.labels.numpy()])
    assert trainer.sample_store.fitted_epoch == 2
    np.testing.assert_allclose(trainer.sample_store.losses, expected, rtol=1e-5)


def test_heads_of_the_folds_begin_as_probes_of_their_samples(build, monkeypatch):
    begun = {}

    class First(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 0:
                begun.update(weights(model))

    trainer, passes = build(bert={"initializer_range": 0.2}), []
    stock = predict_features
    monkeypatch.setattr("hf_clear.probing.probe.predict_features", lambda *a: passes.append(1) or stock(*a))
    trainer.add_callback(First())
    initial = weights(trainer.model)
    trainer.train()
    head = "base_model.model.classifier.modules_to_save.{}.weight"
    main, other = begun[head.format("default")], begun[head.format("clear_fold_1")]
    assert not torch.equal(main, other) and not torch.equal(main, initial[head.format("default")])
    for name, tensor in begun.items():
        if "classifier" not in name:
            assert torch.equal(tensor, initial[name.replace("clear_fold_1", "default")])
    assert len(passes) == 1  # the evidence in the end has the same features

    labels = torch.tensor(toy_dataset(24)["labels"])
    rows = (trainer.folds == 1).nonzero().squeeze(1)
    with torch.no_grad(), trainer.model.disable_adapter():
        features = trainer.model.eval().base_model.model.bert(**collate_inputs(rows)).pooler_output
    fresh = build(bert={"initializer_range": 0.2})
    probe = Probe(find_head(fresh.model), (32,))
    train_probe(probe, FrozenFeatures(labels[rows], head=features, head_shape=(32,)), fresh.args, 7)
    torch.testing.assert_close(probe.head.weight.data, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("evidence", ["none", "mean_probe+head_probe"])
def test_the_adapter_that_stays_starts_anew(build, evidence):
    """The head begins as the evidence has it, if there is other evidence than the folds."""
    after = {}

    class First(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.epoch == 2:
                after.update(weights(model))

    trainer = build(
        dataset=noisy_dataset(400),
        **{"clear_estimator": "noise_model", "clear_loss": "posterior", "clear_routing": "none"},
        **{"clear_evidence": evidence, "bert": {"initializer_range": 0.2}, "per_device_train_batch_size": 40},
    )
    trainer.add_callback(First())
    initial = weights(trainer.model)
    trainer.train()
    assert initial.keys() == after.keys()
    changed = {name for name in initial if not torch.equal(initial[name], after[name])}
    assert all("classifier" in name for name in changed) and bool(changed) == (evidence != "none")
    (found,) = [entry for entry in trainer.state.log_history if "evidence_gain" in entry]
    scales = {name.removeprefix("evidence_scale_") for name in found if name.startswith("evidence_scale_")}
    assert scales == {"cross_fit", *evidence.split("+")} - {"none"} and found["epoch"] == 2


@pytest.mark.parametrize(
    ("method", "stop_at", "settings"),
    [
        ("lora", 2, {}),
        ("lora", 6, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}),
        ("lora", 8, {"clear_loss": "label_mix"}),
        ("adapter", 4, {"clear_folds": 3}),
        ("bitfit", 5, {"clear_loss_source": "online"}),
        ("prompt", 4, {"optim": "sgd"}),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(build, method, stop_at, settings):
    """In the warm-up, at its end, and after it, with schedules that fall."""
    settings = {"dropout": 0.1, "lr_scheduler_type": "cosine", "warmup_steps": 2, **settings}
    whole = build(METHODS[method], **settings)
    whole.train()
    build(METHODS[method], watch=Watch(stop_at), **settings).train()
    torch.manual_seed(3)
    resumed = build(METHODS[method], **settings)
    with torch.no_grad():  # a script that draws other adapters
        for parameter in resumed.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    checkpoint = Path(resumed.args.output_dir, f"checkpoint-{stop_at}")
    assert (checkpoint / STATE_NAME).is_file() == (stop_at <= 6)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_same_weights(weights(resumed.model), weights(whole.model))
    for name in ("losses", "mean_losses", "clean_probability", "labels", "targets"):
        assert torch.equal(getattr(resumed.sample_store, name), getattr(whole.sample_store, name)), name
    assert resumed.watch.rates == whole.watch.rates[stop_at:]
    if stop_at <= 6:
        assert torch.equal(resumed.watch.scores.scores, whole.watch.scores.scores)
        (checkpoint / STATE_NAME).unlink()
        with pytest.raises(FileNotFoundError, match=f"{STATE_NAME} is missing"):
            build(METHODS[method], **settings).train(resume_from_checkpoint=str(checkpoint))


def test_a_schedule_for_each_phase(build):
    trainer = build(lr_scheduler_type="linear", warmup_steps=2, learning_rate=1.0, max_steps=11, num_train_epochs=1)
    trainer.train()
    warmup = [0, 0.5, 1, 0.75, 0.5, 0.25]
    assert trainer.watch.rates == pytest.approx([*warmup, 0, 0.5, 1, 2 / 3, 1 / 3])
    assert trainer.state.global_step == trainer.state.max_steps == 11
    assert sum("cross_fit_agreement" in entry for entry in trainer.state.log_history) == 1
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 11
    for entry in losses[:6]:
        assert entry["loss"] == pytest.approx(entry["cross_fit"], abs=1e-4)
    assert "cross_entropy" in losses[6] and "cross_fit" not in losses[6]
    assert len(trainer.accelerator._optimizers) == 1


@pytest.mark.parametrize("method", FOUR)
def test_on_disk_there_is_one_stock_adapter(build, tmp_path, method):
    """In the warm-up that of the first fold, which evaluation shows too; in the end one that was never a fold."""
    seen = {}

    class Look(TrainerCallback):
        def on_save(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                trainer.save_model(str(tmp_path / "saved"))
                seen["evaluation"] = trainer.evaluate(toy_dataset(8))["eval_loss"]

    trainer = build(METHODS[method], save_strategy="epoch")
    trainer.add_callback(Look())
    names, trained = [*trainer.model.state_dict()], [*weights(trainer.model)]
    trainer.train()
    trainer.save_model(str(tmp_path / "last"))
    assert [*trainer.model.state_dict()] == names and [*weights(trainer.model)] == trained
    plain = build(METHODS[method], clear_warmup="epochs", output_dir=str(tmp_path / "plain"))
    plain.save_model(str(tmp_path / "plain"))
    folders = [tmp_path / "saved", tmp_path / "last", *(tmp_path / "out" / f"checkpoint-{n}" for n in (3, 6, 9))]
    expected = load_file(tmp_path / "plain" / "adapter_model.safetensors")
    for folder in folders:
        assert load_file(folder / "adapter_model.safetensors").keys() == expected.keys()
        assert (folder / "adapter_config.json").read_text() == (tmp_path / "plain" / "adapter_config.json").read_text()
        assert not [path for path in folder.rglob("*") if "fold" in path.name and path.name != STATE_NAME]
        assert "clear_fold" not in (folder / "README.md").read_text()
    have_state = [(folder / STATE_NAME).is_file() for folder in folders]
    assert have_state == [False, False, True, True, False]
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "saved").eval()
    batch = first(8)
    with torch.no_grad():
        assert loaded(**batch).loss.item() == pytest.approx(seen["evaluation"], rel=1e-5)


def test_a_training_that_ends_in_the_warm_up_leaves_the_first_fold(build, caplog):
    trainer = build(watch=Watch(stop_at=4), save_strategy="steps", save_steps=4)
    names = [*trainer.model.state_dict()]
    trainer.train()
    assert [*trainer.model.state_dict()] == names and "has the adapter of the first fold" in caplog.text
    assert not trainer.sample_store.is_fitted

    class Failure(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if not self.over:
                raise KeyboardInterrupt

    failure = Failure()
    failure.over = False
    trainer = build()
    trainer.add_callback(failure)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert [*trainer.model.state_dict()] == names
    failure.over = True
    trainer.train()  # begins again
    assert trainer.sample_store.is_fitted and trainer.state.global_step == 9


@pytest.mark.parametrize("fails_at", [4, 8])
def test_smaller_batches_begin_again_with_the_first_adapter(build, fails_at):
    """Memory runs out in the warm-up, or after it."""
    trainer = build(auto_find_batch_size=True, clear_evidence="none")
    stock, initial, first = trainer.training_step, weights(trainer.model), []

    def training_step(*args, **kwargs):
        if trainer._train_batch_size == 8 and trainer.state.global_step == fails_at:
            raise RuntimeError("CUDA out of memory.")
        if trainer._train_batch_size < 8 and not first:
            first.append({name: p for name, p in weights(trainer.model).items() if "clear_fold" not in name})
        return stock(*args, **kwargs)

    trainer.training_step = training_step
    trainer.train()
    assert trainer._train_batch_size < 8 and trainer.sample_store.is_fitted
    assert_same_weights(first[0], initial)
    assert not any("clear_fold" in name for name in weights(trainer.model))


def test_the_best_checkpoint_may_be_of_the_warm_up(build, tmp_path):
    trainer = build(
        **{"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True},
        **{"metric_for_best_model": "epoch", "greater_is_better": False, "evaluated": toy_dataset(8)},
    )
    trainer.compute_metrics = lambda prediction: {"epoch": 0}
    stock = trainer.evaluate
    trainer.evaluate = lambda *args, **kwargs: {**stock(*args, **kwargs), "eval_epoch": trainer.state.epoch}
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-3")
    saved = load_file(tmp_path / "out" / "checkpoint-3" / "adapter_model.safetensors")
    for name, tensor in weights(trainer.model).items():
        assert torch.equal(saved[name.replace(".default", "").replace("modules_to_save.", "")], tensor), name


@pytest.mark.parametrize("arguments", [{"bf16": True}, {"gradient_checkpointing": True}])
def test_precision_and_checkpointing(build, arguments):
    plain, trainer = build(), build(**arguments)
    plain.train()
    trainer.train()
    tolerance = {"rtol": 0.1, "atol": 0.1} if "bf16" in arguments else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(trainer.watch.scores.scores, plain.watch.scores.scores, **tolerance)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clear_folds": 100}, r"`clear_folds=100` is more than there are training samples"),
        ({"num_train_epochs": 2}, r"of 2 epochs \(6 steps\) leaves nothing of a training of 6 steps"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is a target of its own, and the loss of the folds"),
        ({"clear_warmup_epochs": 0}, "`clear_warmup_epochs` can't be 0"),
        ({"clear_folds": 1}, "clear_folds"),
        ({"clear_warmup_random_routing": True}, "leave one of them out"),
    ],
)
def test_settings_that_are_refused(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments).train()


def test_models_and_optimizers_that_are_refused(build):
    trainer = build()
    trainer.model.base_model.model.bert.pooler.dense.weight.requires_grad_()
    with pytest.raises(ValueError, match="bert.pooler.dense.weight is trained and in no adapter"):
        trainer.train()
    trainer = build()
    trainer.model.add_adapter("other", LORA)
    layer = trainer.model.base_model.model.bert.encoder.layer[1].attention.self.query
    layer.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match="this model has 2 active ones: default, other"):
        trainer.train()
    trainer = build()
    trainer._has_own_optimizer = True
    with pytest.raises(ValueError, match="`optimizers` holds one"):
        trainer.train()
    trainer = build()
    trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: outputs.logits.sum()
    with pytest.raises(ValueError, match="is compute_loss_func, and the loss of the folds would take its place"):
        trainer.train()


def test_fold_states_that_do_not_fit(tmp_path):
    model, adapters = folded(LORA, 2)
    adapters.save(tmp_path / STATE_NAME)
    before = {name: tensor.clone() for name, tensor in adapters.tensors(1).items()}
    with torch.no_grad():
        for parameter in adapters.parameters(1):
            parameter.zero_()
    adapters.load(tmp_path / STATE_NAME)
    for name, tensor in adapters.tensors(1).items():
        assert torch.equal(tensor, before[name])
    with pytest.raises(ValueError, match="is of another PEFT config or other `clear_folds` than those of this model"):
        folded(LORA, 3)[1].load(tmp_path / STATE_NAME)
    content = bytearray((tmp_path / STATE_NAME).read_bytes())
    content[-3] ^= 1
    (tmp_path / STATE_NAME).write_bytes(content)
    with pytest.raises(ValueError, match="its checksum is not that of what it holds"):
        adapters.load(tmp_path / STATE_NAME)
