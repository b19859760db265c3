"""Data that nothing of the default was chosen by, to try it on once: writes `NAME/train.csv` and `NAME/test.csv` of

- `debian`: one-line descriptions of Debian's packages, and the section that each is filed under (15 classes, unequal in
  size); one package of each source, a quarter of the sources is the test set. Read from `apt-cache dumpavail`.
- `sst2`: SST-5 as two classes, without the neutral ones.
- `banking77_last20`: the last 20 intents of BANKING77, where the other benchmarks take the first.
- `glosses`: definitions of nouns in WordNet 3.0, and the lexicographer's file of each (25 classes, very unequal in
  size), from Debian's package `wordnet-base`.
- `fortunes`: of Debian's packages `fortunes` and `fortunes-min`, and the subject that each is filed under (17 classes,
  unequal in size; many would fit more than one).

What they are was settled before anything was trained on them.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable
from pathlib import Path

import _debian_texts
import pandas as pd
from _debian_texts import unpacked

SPLITS = ("train", "test")


def two_classes(sst5: pd.DataFrame) -> pd.DataFrame:
    """Rows of SST-5 that are negative (0, 1) or positive (3, 4)."""
    kept = sst5[sst5["label"] != 2]
    return kept.assign(label=kept["label"].map(lambda label: "negative" if label < 2 else "positive"))


def last_intents(banking77: pd.DataFrame, count: int = 20) -> pd.DataFrame:
    intents = sorted(set(banking77["category"]))[-count:]
    return banking77[banking77["category"].isin(intents)]


def _debian(data: Path) -> dict[str, pd.DataFrame]:
    listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    return _debian_texts.packages(listed)


def _glosses(data: Path) -> dict[str, pd.DataFrame]:
    folder = unpacked("wordnet-base")
    return _debian_texts.glosses((folder / "usr/share/wordnet/data.noun").read_text(encoding="utf-8"))


def _fortunes(data: Path) -> dict[str, pd.DataFrame]:
    folders = [unpacked(name) / "usr/share/games/fortunes" for name in ("fortunes-min", "fortunes")]
    files = {path.stem: path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("*.u8")}
    return _debian_texts.fortunes(files)


def _splits(data: Path, folder: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {name: change(pd.read_csv(data / folder / f"{name}.csv")) for name in SPLITS}


MADE: dict[str, Callable[[Path], dict[str, pd.DataFrame]]] = {
    "debian": _debian,
    "sst2": lambda data: _splits(data, "sst5", two_classes),
    "banking77_last20": lambda data: _splits(data, "banking77", last_intents),
    "glosses": _glosses,
    "fortunes": _fortunes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with banking77/ and sst5/")
    parser.add_argument("--output", type=Path, default=Path("outputs/held_out"), help="default: %(default)s")
    parser.add_argument("--names", nargs="+", choices=MADE, default=list(MADE), help="default: all")
    args = parser.parse_args()
    for name in args.names:
        tables = MADE[name](args.data)
        (args.output / name).mkdir(parents=True, exist_ok=True)
        for split, table in tables.items():
            table.to_csv(args.output / name / f"{split}.csv", index=False)
        print(f"{name}: {len(tables['train'])} training and {len(tables['test'])} test samples")


if __name__ == "__main__":
    main()
