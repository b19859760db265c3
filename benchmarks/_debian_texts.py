"""Labelled texts from Debian: its packages, WordNet's glosses, and fortunes. Each function gives `train` and `test`."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

import pandas as pd

# Applications by subject. Without sections by language, by form (libs, doc), and of all sorts (utils, misc, x11).
SECTIONS = (
    *("admin", "database", "editors", "electronics", "games", "graphics", "hamradio", "mail"),
    *("math", "net", "science", "sound", "text", "video", "web"),
)
# WordNet's files of nouns, from number 4 on; number 3 is of those that stand above all.
LEXICOGRAPHER_FILES = (
    *("act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "feeling", "food"),
    *("group", "location", "motive", "object", "person", "phenomenon", "plant", "possession", "process", "quantity"),
    *("relation", "shape", "state", "substance", "time"),
)
# Fortunes by subject. Without those by form (definitions, riddles, wisdom), and of all sorts (cookie, people).
SUBJECTS = (
    *("art", "computers", "drugs", "education", "food", "kids", "law", "literature", "love", "medicine"),
    *("men-women", "politics", "science", "songs-poems", "sports", "startrek", "work"),
)


def packages(stanzas: str) -> dict[str, pd.DataFrame]:
    """`text` and `section` of one package of each source, of the text that `apt-cache dumpavail` writes.

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
    return _split(table.drop_duplicates("source"), "source", "section")


def glosses(nouns: str) -> dict[str, pd.DataFrame]:
    """`text`, the definition of a noun without word and examples, and `file`, the lexicographer's; of WordNet's
    `data.noun`."""
    rows = []
    for line in nouns.splitlines():
        fields, bar, gloss = line.partition(" | ")
        number = int(fields.split(" ")[1]) - 4 if bar and not line.startswith(" ") else -1
        if 0 <= number < len(LEXICOGRAPHER_FILES):
            text = gloss.split('; "')[0].strip().rstrip(";")
            rows.append((fields.split(" ")[0], text, LEXICOGRAPHER_FILES[number]))
    return _split(pd.DataFrame(rows, columns=["offset", "text", "file"]), "offset", "file")


def fortunes(files: dict[str, str]) -> dict[str, pd.DataFrame]:
    """`text`, on one line, and `subject`; of files of fortunes by their names."""
    rows = [
        (" ".join(fortune.split()), subject)
        for subject in SUBJECTS
        for fortune in files[subject].split("\n%\n")
        if fortune.strip(" \n%")
    ]
    table = pd.DataFrame(rows, columns=["text", "subject"])
    return _split(table.assign(key=table["text"]), "key", "subject")


def unpacked(name: str) -> Path:
    """A folder with the files of a Debian package, downloaded by `apt-get`."""
    folder = Path(tempfile.mkdtemp())
    subprocess.run(["apt-get", "download", "-qq", name], cwd=folder, check=True)
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    return folder


def _split(table: pd.DataFrame, key: str, label: str) -> dict[str, pd.DataFrame]:
    """A quarter is the test set, by a digest of the key: the same whatever else there is. Of equal texts, the first."""
    table = table.drop_duplicates("text")
    digests = table[key].map(lambda own: hashlib.sha256(own.encode()).digest()[0])
    return {"train": table.loc[digests >= 64, ["text", label]], "test": table.loc[digests < 64, ["text", label]]}
