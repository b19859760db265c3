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
from typing import Any, cast

import numpy as np
import pandas as pd
from _ablations import ABLATIONS
from _loading import DEMO, NO_NOISE
from _mpnet import MPNET
from _picture import draw
from _running import read_results
from _summary import Table, tables_of
from _targets import competitors

from hf_clear.comparison import markdown, mean_and_deviation, paired_bootstrap, rank_test, to_latex
from hf_clear.files import write_atomically
from hf_clear.runs.training_arguments import FULL_FINE_TUNING

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.jsonl"
PAGES = ("README.md", "docs/results.md", "benchmarks/README.md")
PICTURE = ROOT / "docs" / "images" / "accuracy.svg"
DATA = {
    "banking77-20": "20 intents",
    "banking77": "77 intents",
    "sst5": "SST-5",
    "noisyagnews": "news",
    "questions": "questions",
}
MODELS = {MPNET: "MPNet"}
NOISE = {"instance_dependent": "instance-dependent", "real": "errors of people", "none": "no wrong labels"}
COLUMNS = {
    "plain": "plain LoRA",
    "recommended": "`ClearTrainer`",
    "oracle_head_start": "true labels known",
}
DETECTED = {
    "plain": "plain LoRA",
    "recommended": "`ClearTrainer`",
    "probe": "linear probe",
    "cleanlab": "cleanlab, then logistic regression",
}
PEERS = {
    "recommended": "`ClearTrainer`",
    "plain": "plain LoRA",
    "clear": 'CleaR, `preset("clear")`',
    "paper": 'CleaR, `preset("paper")`',
    "gce": "generalized cross entropy",
    "elr": "early-learning regularization",
    "cleanlab_plain": "cleanlab, then plain LoRA",
    "cleanlab": "cleanlab, then logistic regression",
    "probe": "linear probe",
}
MORE = {  # beside PEERS, in `ALL_IN`
    "small_loss": "smallest losses, the true noise rate known",
    "sce": "symmetric cross entropy",
    "label_smoothing": "label smoothing",
    "turn": "TURN with LoRA",
    "oracle_head_start": "true labels known",
}
ALL_IN = "20 intents, symmetric 60%"  # the setting that all methods were run in
ALL_WEIGHTS = {"plain": "plain", "turn": "TURN", "oracle_head_start": "true labels known"}
_PEER_SEED = 42  # the one that all of them were run with
COMPARED = ("plain", "recommended")
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def setting_name(key: tuple) -> str:
    model, data, noise, rate, *_, peft_method = key[:6]
    noise = NOISE.get(noise, noise)
    peft_method = {"lora": "", None: "", FULL_FINE_TUNING: ", all weights"}.get(peft_method, f", {peft_method}")
    model = "" if model == DEMO else f", {MODELS.get(model, model)}"
    base = data.partition("@")[0]
    return f"{DATA.get(base, base)}, {noise}{f' {rate:.0%}' if rate else ''}{peft_method}{model}"


def named(tables: dict[tuple, Table], *methods: str) -> dict[str, Table]:
    """Those that have all of some methods, by the name of their setting.

    Raises:
        ValueError: if two have the same name: they differ in what it leaves out, such as the learning rate.
    """
    found: dict[str, Table] = {}
    for key, table in tables.items():
        if not set(methods) <= table.keys():
            continue
        if setting_name(key) in found:
            raise ValueError(
                f"Two settings are called {setting_name(key)!r}; one is {key}. Keep one of them in {RESULTS}."
            )
        found[setting_name(key)] = table
    return found


def values(table: Table, method: str, name: str = "accuracy") -> list[float]:
    """Of the seeds that plain and recommended have, if the method is compared with them."""
    seeds = set(table[method]) if method in table else set()
    for other in COMPARED:
        seeds &= set(table.get(other, seeds))
    found = [table[method][seed].get(name) for seed in sorted(seeds)]
    return [value for value in found if value is not None]


def accuracy(tables: dict[tuple, Table]) -> pd.DataFrame:
    """Test accuracy after the last epoch: a row for each setting, a column for each method."""
    rows = {
        name: {title: mean_and_deviation(values(table, method)) for method, title in COLUMNS.items()}
        for name, table in named(tables, *COMPARED).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("test accuracy after the last epoch")


def detection(tables: dict[tuple, Table]) -> pd.DataFrame:
    """AUROC of wrong labels."""
    noisy = {key: table for key, table in tables.items() if key[2] != NO_NOISE}
    rows = {
        name: {
            title: mean_and_deviation(values(table, method, "detection_auroc")) for method, title in DETECTED.items()
        }
        for name, table in named(noisy, *COMPARED).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("wrong labels, AUROC")


def ablations(tables: dict[tuple, Table]) -> pd.DataFrame:
    """Test accuracy of `recommended` with one part left out, changed or added: a row for each."""
    shown = named(tables, "recommended", "with_gates")
    rows = {
        f"`{name}`": {
            setting: mean_and_deviation([table[name][_PEER_SEED]["accuracy"]])
            if _PEER_SEED in table.get(name, {})
            else "-"
            for setting, table in shown.items()
        }
        for name in ("recommended", *ABLATIONS)
        if any(name in table for table in shown.values())
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(f"test accuracy, seed {_PEER_SEED}")


def of_peers(tables: dict[tuple, Table]) -> pd.DataFrame:
    """Test accuracy with one seed: a row for each setting that all methods were run in, a column for each method."""
    rows = {
        name: {title: table[method][_PEER_SEED]["accuracy"] for method, title in PEERS.items()}
        for name, table in named(tables, *PEERS).items()
        if all(_PEER_SEED in table[method] for method in PEERS)
    }
    if not rows:
        raise ValueError(f"No setting has lines of seed {_PEER_SEED} of all of {', '.join(PEERS)}.")
    return pd.DataFrame.from_dict(rows, orient="index")


def peers(tables: dict[tuple, Table]) -> pd.DataFrame:
    """A row for each method: its test accuracies, and its mean rank, 1 for the best (Demšar, 2006, JMLR 7)."""
    frame = of_peers(tables)
    ranks = frame.rank(axis=1, ascending=False).mean()
    shown = frame.map("{:.3f}".format).T
    shown["mean rank"] = ranks.map("{:.1f}".format)
    return shown.loc[ranks.sort_values(kind="stable").index].rename_axis(f"test accuracy, seed {_PEER_SEED}")


def all_methods(tables: dict[tuple, Table]) -> pd.DataFrame:
    """Every method with one seed in one setting, with LoRA and with all weights: the best first."""
    rows = {}
    for setting, titles in ((ALL_IN, {**PEERS, **MORE}), (f"{ALL_IN}, all weights", ALL_WEIGHTS)):
        table = named(tables, "plain").get(setting, {})
        for method, title in titles.items():
            if (line := table.get(method, {}).get(_PEER_SEED)) is not None:
                rows[title if setting == ALL_IN else f"{title}, all weights"] = line
    ordered = sorted(rows.items(), key=lambda row: -row[1]["accuracy"])
    columns = {
        "after the last epoch": "accuracy",
        "best epoch": "peak_accuracy",
        "wrong labels: AUROC": "detection_auroc",
    }
    shown = {title: {column: _digits(line.get(name)) for column, name in columns.items()} for title, line in ordered}
    return pd.DataFrame.from_dict(shown, orient="index").rename_axis(f"{ALL_IN}, seed {_PEER_SEED}: test accuracy")


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def ranks(tables: dict[tuple, Table]) -> pd.DataFrame:
    """Whether mean ranks differ at all, and which differ from that of `recommended`: Friedman's and Nemenyi's tests."""
    frame = of_peers(tables)
    num_settings, num_methods = frame.shape
    found = rank_test(frame.to_numpy())
    mean, least = dict(zip(frame.columns, found.mean_ranks)), cast(float, found.critical_difference)
    apart = [name for name in frame.columns if mean[name] - mean[PEERS["recommended"]] >= least]
    row = {
        "methods": num_methods,
        "settings": num_settings,
        "p (Friedman)": f"{found.p:.4f}",
        "critical difference of mean ranks (Nemenyi, 5 %)": f"{least:.1f}",
        "so far behind `ClearTrainer`": ", ".join(apart) or "none",
    }
    return pd.DataFrame([row], index=[f"seed {_PEER_SEED}"]).rename_axis("ranks")


def differences(tables: dict[tuple, Table]) -> pd.DataFrame:
    """`recommended` against plain over seeds that both have, by a paired bootstrap over test samples."""
    rows = {}
    for setting, table in named(tables, *COMPARED).items():
        row = difference(table, "plain")
        if "p" in row:
            rows[setting] = {name: value for name, value in row.items() if name != "lead"}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("`ClearTrainer` - plain LoRA")


def best_others(tables: dict[tuple, Table]) -> pd.DataFrame:
    """`recommended` against the best of the others, where there are several: that with the highest mean accuracy over
    the seeds that both have."""
    rows = {}
    for setting, table in named(tables, *COMPARED).items():
        others = [other for other in competitors(table, "recommended") if set(table[other]) & set(table["recommended"])]
        if len(others) < 2:
            continue
        lead = {other: difference(table, other) for other in others}
        best = min(lead, key=lambda other: lead[other]["lead"])
        rows[setting] = {"best other": {**PEERS, **MORE}.get(best, best), "of": len(others), **lead[best]}
    frame = pd.DataFrame.from_dict(rows, orient="index").drop(columns="lead").fillna("-")
    return frame.rename_axis("`ClearTrainer` - best other")


def difference(table: Table, other: str) -> dict[str, Any]:
    """Of `recommended` and another method; without interval and p if it isn't known which test samples were right."""
    seeds = sorted(set(table["recommended"]) & set(table[other]))
    lead = float(np.mean([table["recommended"][seed]["accuracy"] - table[other][seed]["accuracy"] for seed in seeds]))
    lines = [(table["recommended"][seed], table[other][seed]) for seed in seeds]
    told = {"lead": lead, "seeds": len(seeds), "difference": f"{lead:+.3f}"}
    if not all(line.get("correct") for pair in lines for line in pair):
        return told
    found = paired_bootstrap(np.mean([bits(ours).astype(float) - bits(others) for ours, others in lines], axis=0))
    interval = f"{found.low:+.3f} to {found.high:+.3f}"
    return {**told, "95 % interval": interval, "p": f"{found.p:.4f}", "": found.verdict}


def bits(line: dict[str, Any]) -> np.ndarray:
    """Which test samples were right: `[num_samples]`."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(line["correct"]), np.uint8), count=line["test_samples"])


TABLES = {
    "accuracy": accuracy,
    "detection": detection,
    "ablations": ablations,
    "differences": differences,
    "best_others": best_others,
    "peers": peers,
    "all_methods": all_methods,
    "ranks": ranks,
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
