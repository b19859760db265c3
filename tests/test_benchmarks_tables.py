"""tables.py: what it says of results, and that it finds pages which say something else."""

import shutil

import _tables
import numpy as np
import pytest
import tables
from _summary import tables_of


def line(method: str, seed: int, right: list[int], **more) -> dict:
    cell = {"model": "m", "data": "banking77-20", "noise_type": "symmetric", "noise_rate": 0.4, "scored_on": "test"}
    cell |= {"peft_method": "lora", "epochs": 8, "learning_rate": 2e-3, "method": method, "seed": seed, **more}
    correct = np.packbits(right).tobytes().hex()
    return {**cell, "accuracy": float(np.mean(right)), "correct": correct, "test_samples": len(right)}


def test_methods_are_compared_over_the_seeds_that_both_have():
    good, bad = [1] * 9 + [0], [1] * 2 + [0] * 8
    lines = [line("plain", 1, bad), line("plain", 2, bad), line("recommended", 1, good), line("recommended", 3, bad)]
    found = tables_of(lines)
    (row,) = _tables.accuracy(found).to_dict("records")
    assert (row["plain LoRA"], row["`ClearTrainer`"], row["true labels known"]) == ("0.200", "0.900", "-")
    (row,) = _tables.differences(found).to_dict("records")
    assert (row["seeds"], row["difference"], row[""]) == (1, "+0.700", "win") and row["p"] == "0.0156"
    found = tables_of([*lines, line("recommended", 2, bad), line("plain", 3, bad)])
    assert _tables.accuracy(found).iloc[0]["`ClearTrainer`"] == "0.433 ± 0.404 (3)"


def test_settings_stand_in_one_order_and_say_where_they_were_run():
    """By data, noise and rate; other PEFT methods and models come last."""
    own = [
        *({"model": "m"}, {"peft_method": "adapter"}, {"noise_type": "none", "noise_rate": 0.0}),
        *({"data": "new"}, {"data": "sst5@4000"}, {"noise_rate": 0.2}, {"noise_type": "asymmetric"}, {}),
    ]
    lines = [
        line(method, 42, [1, 0], **{"model": _tables.DEMO, "device": "cpu", **more})
        for more in own
        for method in ("recommended", "plain")
    ]
    lines.append(line("plain", 43, [1, 0], model=_tables.DEMO, device="NVIDIA H100 80GB HBM3"))
    found = _tables.machines(tables_of(lines))
    assert list(found.index) == [
        *("20 intents, symmetric 20%", "20 intents, symmetric 40%", "20 intents, asymmetric 40%"),
        *("20 intents, no wrong labels", "SST-5, symmetric 40%", "new, symmetric 40%"),
        *("20 intents, symmetric 40%, adapter", "20 intents, symmetric 40%, m"),
    ]
    assert list(found.loc["20 intents, symmetric 40%"]) == ["CPU (42), H100 (43)", "CPU", "-"]
    assert list(_tables.accuracy(tables_of(lines)).index) == list(found.index)


def test_all_methods_of_a_setting_stand_in_one_table():
    """With LoRA and with all weights; what was not run is not there."""
    own = {"model": _tables.DEMO, "noise_rate": 0.6}
    lines = [line("plain", 42, [1, 0, 0, 0], **own), line("sce", 42, [1, 1, 0, 0], detection_auroc=0.75, **own)]
    lines += [line("plain", 42, [0, 0, 0, 0], peft_method="none", **own)]
    lines += [line("turn", 42, [1, 1, 1, 0], peft_method="none", **own), line("plain", 43, [1, 1, 1, 1], **own)]
    frame = _tables.all_methods(tables_of(lines))
    assert frame["after the last epoch"].to_dict() == {
        **{
            "TURN, all weights": "0.750",
            "symmetric cross entropy": "0.500",
            "plain LoRA": "0.250",
            "plain, all weights": "0.000",
        }
    }
    assert frame.loc["symmetric cross entropy", "wrong labels: AUROC"] == "0.750"


def test_the_methods_are_ranked_by_what_one_seed_gave():
    """The first is right on all, the second on nearly all, ...; a setting that lacks a method is left out."""
    of_rates = [
        line(method, 42, [1] * (20 - place) + [0] * place, noise_rate=rate)
        for rate in (0.2, 0.4, 0.6)
        for place, method in enumerate(_tables.PEERS)
    ]
    found = tables_of([*of_rates, line("plain", 42, [1, 0], data="sst5"), line("plain", 43, [0, 0], noise_rate=0.2)])
    frame = _tables.peers(found)
    assert list(frame.index) == list(_tables.PEERS.values()) and list(frame["mean rank"][:2]) == ["1.0", "2.0"]
    assert frame.shape == (len(_tables.PEERS), 4) and frame.iloc[1, 0] == "0.950"
    (row,) = _tables.ranks(found).to_dict("records")
    assert row["methods"] == len(_tables.PEERS) and row["settings"] == 3
    assert row["so far behind `ClearTrainer`"] == ", ".join(list(_tables.PEERS.values())[-2:])  # 6.9 ranks or more


def test_rates_of_two_files_stand_in_one_table():
    own = {"model": _tables.DEMO}
    few = [line("plain", 42, [1, 0], noise_rate=0.6, **own), line("plain", 42, [1, 0], data="sst5", **own)]
    more = [line("plain", 42, [1, 1], noise_rate=0.1, **own), line("plain", 43, [0, 0], noise_rate=0.3, **own)]
    more += [line("recommended", 42, [1, 0], noise_rate=0.1, estimated_noise_rate=0.125, **own)]
    frame = _tables.noise_rates(tables_of(few), tables_of(more))
    assert list(frame.index) == ["10%", "30%", "60%"] and list(frame["plain LoRA"]) == ["1.000", "-", "0.500"]
    assert list(frame.loc["10%"]) == ["1.000", "0.500", "-", "-", "0.125"]


def test_two_settings_of_one_name_are_refused():
    both = [line("plain", 1, [1, 0]), line("recommended", 1, [1, 0])]
    lines = both + [{**one, "learning_rate": 1e-3} for one in both]
    with pytest.raises(ValueError, match="Two settings are called '20 intents, symmetric 40%, m'.*0.001"):
        _tables.accuracy(tables_of(lines))


def test_a_page_with_another_figure_is_found(tmp_path, monkeypatch, capsys):
    for page in (*tables.PAGES, "docs/images/accuracy.svg"):
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tables.ROOT / page, tmp_path / page)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "PICTURE", tmp_path / "docs/images/accuracy.svg")
    readme = tmp_path / "README.md"
    text = readme.read_text()
    changed = text.replace("| 0.810 |", "| 0.910 |", 1)
    readme.write_text(changed)
    assert tables.main(["--check"]) == 1 and "README.md" in capsys.readouterr().out and readme.read_text() == changed
    assert tables.main([]) == 0 and readme.read_text() == text
