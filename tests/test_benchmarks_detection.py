"""detection.py: what it measures, the command end to end, and the table in the docs."""

import json
from pathlib import Path

import _detected
import detection
import numpy as np
import pytest
from helpers.texts import rows, write

BENCHMARKS = Path(detection.__file__).parent


def test_what_is_measured():
    is_wrong = np.array([True, False, True, False, False])
    found = _detected.Found(np.array([5, 4, 3, 2, 1]), np.array([True, True, False, False, False]), estimated=3.4)
    measured = _detected.measure(found, is_wrong)
    assert measured["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert measured["auroc"] == pytest.approx(5 / 6)  # one of six pairs is in the wrong order
    assert (measured["precision_at_estimated"], measured["precision_at_true"]) == (pytest.approx(2 / 3), 0.5)
    assert [measured[name] for name in ("issues", "precision", "recall", "f1")] == [2, 0.5, 0.5, 0.5]
    assert _detected.measure(found, np.zeros(5, dtype=bool))["auroc"] is None


def test_the_table_says_where_we_are_behind():
    def line(method: str, seed: int, f1: float, auroc: float | None = 0.9) -> dict:
        where = {"data": "d", "noise": "real", "seed": seed, "method": method}
        return {**where, **dict.fromkeys(_detected.COLUMNS, 0.5), "labels": 10, "wrong": 4, "f1": f1, "auroc": auroc}

    lines = [line("hf_clear", 1, 0.5), line("hf_clear", 2, 0.7), line("cleanlab", 1, 0.9), line("cleanlab", 2, 0.5)]
    (f1,) = (row for row in _detected.compare(lines) if row["name"] == "d real, F1")
    assert (f1["value"], f1["stock"], f1["target"]) == (pytest.approx(0.6), pytest.approx(0.7), 1.0)
    assert f1["ratio"] == pytest.approx(0.7 / 0.6)
    printed = _detected.report(lines)
    assert (
        "at least as good as cleanlab in 4 of 5 cells, not in these:\n\n- d real, F1: 0.600; cleanlab 0.700" in printed
    )
    assert "| d real: 4 of 10 wrong (F1 of calling all wrong: 0.571) | hf_clear |" in printed
    assert _detected.report(lines[:2]).count("\n") == 2  # a table alone: nothing to compare with
    assert "AUROC" not in str(_detected.compare([line("hf_clear", 1, 0.5, None), line("cleanlab", 1, 0.5, None)]))


def test_the_command(tmp_path, tiny_model, capsys):
    pytest.importorskip("cleanlab", reason="needs the extra benchmarks")
    (tmp_path / "banking77").mkdir()
    for name, count in (("train", 90), ("test", 12)):
        write(rows(count, label="category"), tmp_path / "banking77" / f"{name}.csv")
    shared = ["--data", str(tmp_path), "--model_name_or_path", tiny_model, "--quick"]
    path = tmp_path / "new" / "rows.json"
    assert detection.main([*shared, "--json", str(path)]) == 0
    printed, written = capsys.readouterr().out, json.loads(path.read_text())
    measured = [row for row in written if "method" in row]
    assert [row["method"] for row in measured] == list(detection.METHODS)
    assert {(row["data"], row["noise"], row["seed"]) for row in measured} == {("banking77-20", "symmetric 0.4", 42)}
    assert len({(row["labels"], row["wrong"]) for row in measured}) == 1 and measured[0]["labels"] == 90
    assert all(0 <= row[name] <= 1 for row in measured for name in _detected.COMPARED)
    assert len(written) == len(measured) + len(_detected.COMPARED)
    assert all({"name", "ratio", "target"} <= set(row) for row in written)
    assert detection.main(["--table", str(path)]) == 0
    assert capsys.readouterr().out == printed
    with pytest.raises(SystemExit):
        detection.main([*shared, "--settings", "sst5:none"])  # there is no such folder
    assert "sst5" in capsys.readouterr().err


def test_the_docs_have_the_table_that_was_measured():
    measured = json.loads((BENCHMARKS / "results" / "detection.json").read_text())
    assert _detected.report(measured) in (BENCHMARKS / "README.md").read_text()
