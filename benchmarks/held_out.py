"""Data that nothing of the default was chosen by, to try it on once: writes `NAME/train.csv` and `NAME/test.csv` of

- `debian`: one-line descriptions of Debian's packages, and the section that each is filed under (15 classes, unequal in
  size); one package of each source, a quarter of the sources is the test set. Read from `apt-cache dumpavail`.
- `sst2`: SST-5 as two classes, without the neutral ones.
- `banking77_last20`: the last 20 intents of BANKING77, where the other benchmarks take the first.

What they are was settled before anything was trained on them.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
from pathlib import Path

import pandas as pd

# Applications by subject. Without sections by language, by form (libs, doc), and of all sorts (utils, misc, x11).
SECTIONS = (
    *("admin", "database", "editors", "electronics", "games", "graphics", "hamradio", "mail"),
    *("math", "net", "science", "sound", "text", "video", "web"),
)
SPLITS = ("train", "test")


def debian_packages(stanzas: str) -> dict[str, pd.DataFrame]:
    """`train` and `test` with `text` and `section`, of the text that `apt-cache dumpavail` writes.

    Raises:
        ValueError: if no package is in one of the `SECTIONS`.
    """
    rows = []
    for stanza in stanzas.split("\n\n"):
        pairs = (line.split(": ", 1) for line in stanza.splitlines() if ": " in line and not line.startswith(" "))
        fields = {pair[0]: pair[1] for pair in pairs}
        if fields.get("Section") in SECTIONS and "Description" in fields:
            source = fields.get("Source", fields["Package"]).split(" ")[0]
            rows.append((source, fields["Package"], fields["Description"], fields["Section"]))
    if not rows:
        raise ValueError("There is no package in the sections. Run apt-get update, on a system with Debian's lists.")
    table = pd.DataFrame(rows, columns=["source", "package", "text", "section"]).sort_values(["source", "package"])
    table = table.drop_duplicates("source").drop_duplicates("text")
    digests = table["source"].map(lambda source: hashlib.sha256(source.encode()).digest()[0])
    columns = ["text", "section"]
    return {"train": table.loc[digests >= 64, columns], "test": table.loc[digests < 64, columns]}


def two_classes(sst5: pd.DataFrame) -> pd.DataFrame:
    """Rows of SST-5 that are negative (0, 1) or positive (3, 4)."""
    kept = sst5[sst5["label"] != 2]
    return kept.assign(label=kept["label"].map(lambda label: "negative" if label < 2 else "positive"))


def last_intents(banking77: pd.DataFrame, count: int = 20) -> pd.DataFrame:
    intents = sorted(set(banking77["category"]))[-count:]
    return banking77[banking77["category"].isin(intents)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with banking77/ and sst5/")
    parser.add_argument("--output", type=Path, default=Path("outputs/held_out"), help="default: %(default)s")
    args = parser.parse_args()

    def split(folder: str, name: str) -> pd.DataFrame:
        return pd.read_csv(args.data / folder / f"{name}.csv")

    listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    made = {
        "debian": debian_packages(listed),
        "sst2": {name: two_classes(split("sst5", name)) for name in SPLITS},
        "banking77_last20": {name: last_intents(split("banking77", name)) for name in SPLITS},
    }
    for name, tables in made.items():
        (args.output / name).mkdir(parents=True, exist_ok=True)
        for split, table in tables.items():
            table.to_csv(args.output / name / f"{split}.csv", index=False)
        print(f"{name}: {len(tables['train'])} training and {len(tables['test'])} test samples")


if __name__ == "__main__":
    main()
