#!/usr/bin/env python
"""Tables and pictures of the docs, from the results in benchmarks/results: they hold no figure that isn't there.

    python benchmarks/tables.py               # writes them into README.md, docs/ and docs/images/
    python benchmarks/tables.py --check       # writes nothing; exits with 1 if one of them is not that of the results
    python benchmarks/tables.py --csv accuracy.csv --latex accuracy.tex     # for a paper

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. New results: copy the lines of
`accuracy.py`'s results.jsonl into benchmarks/results/accuracy.jsonl.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path

import _tables
import pandas as pd
from _picture import draw
from _running import read_results
from _summary import Table, tables_of
from _tables import COMPARED, accuracy, named

from hf_clear.comparison import markdown, to_latex
from hf_clear.files import write_atomically

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.jsonl"
RATES = RESULTS.with_name("noise_rates.jsonl")  # more rates of one setting, apart: no target counts them
HELD_OUT = RESULTS.with_name("held_out.jsonl")  # of data that nothing was chosen by
HELD_OUT_TEXTS = RESULTS.with_name("held_out_texts.jsonl")
PEFT = RESULTS.with_name("peft_methods.jsonl")  # more noise with other PEFT methods than LoRA
WITH_PAPER = {**_tables.COLUMNS, "paper": 'CleaR, `preset("paper")`'}
PAGES = ("README.md", "docs/results.md", "benchmarks/README.md")
PICTURE = ROOT / "docs" / "images" / "accuracy.svg"
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def _not_of_lora(frame: pd.DataFrame) -> pd.DataFrame:
    """Named after PEFT, and without a column that no row has."""
    frame = frame.loc[:, (frame != "-").any()]
    names = {name: str(name).replace("plain LoRA", "plain PEFT") for name in [*frame.columns, frame.index.name]}
    return frame.rename(columns=names).rename_axis(names[frame.index.name])


TABLES = {
    "accuracy": accuracy,
    "machines": _tables.machines,
    "detection": _tables.detection,
    "ablations": _tables.ablations,
    "differences": _tables.differences,
    "best_others": _tables.best_others,
    "peers": _tables.peers,
    "all_methods": _tables.all_methods,
    "ranks": _tables.ranks,
    "held_out": lambda tables: accuracy(tables_of(read_results(HELD_OUT))),
    "held_out_differences": lambda tables: _tables.differences(tables_of(read_results(HELD_OUT))),
    "held_out_detection": lambda tables: _tables.detection(tables_of(read_results(HELD_OUT))),
    "held_out_texts": lambda tables: accuracy(tables_of(read_results(HELD_OUT_TEXTS))),
    "held_out_texts_differences": lambda tables: _tables.differences(tables_of(read_results(HELD_OUT_TEXTS))),
    "held_out_texts_detection": lambda tables: _tables.detection(tables_of(read_results(HELD_OUT_TEXTS))),
    "peft_methods": lambda tables: _not_of_lora(accuracy(tables_of(read_results(PEFT)), WITH_PAPER)),
    "peft_methods_differences": lambda tables: _not_of_lora(_tables.differences(tables_of(read_results(PEFT)))),
    "noise_rates": lambda tables: _tables.noise_rates(tables, tables_of(read_results(RATES))),
}


def with_tables(text: str, tables: dict[tuple, Table]) -> str:
    return _PLACE.sub(lambda place: place[1] + markdown(TABLES[place[2]](tables)) + place[4], text)


def digest(path: Path) -> str:
    return f"results sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Write nothing; say what is not that of the results.")
    parser.add_argument("--csv", type=Path, help="Write the table of accuracies here, and nothing else.")
    parser.add_argument("--latex", type=Path, help="The same in LaTeX.")
    args = parser.parse_args(argv)
    tables = tables_of(line for line in read_results(RESULTS) if line["scored_on"] == "test")
    if args.csv or args.latex:
        frame = accuracy(tables)
        if args.csv:
            write_atomically(args.csv, frame.to_csv().encode())
        if args.latex:
            write_atomically(args.latex, to_latex(frame, str(frame.index.name)).encode())
        return 0
    stale = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        new = with_tables(text, tables)
        if new != text:
            stale.append(page)
            if not args.check:
                write_atomically(ROOT / page, new.encode())
    if not PICTURE.is_file() or digest(RESULTS) not in PICTURE.read_text(encoding="utf-8"):
        stale.append(str(PICTURE.relative_to(ROOT)))
        if not args.check:
            draw(named(tables, *COMPARED), PICTURE, digest(RESULTS))
    print(
        "\n".join(f"{'not that of the results' if args.check else 'written'}: {name}" for name in stale) or "up to date"
    )
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
