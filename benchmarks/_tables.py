"""The tables of the docs, as data frames: each from the lines of results, see tables.py."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from _ablations import ABLATIONS
from _loading import DEMO, NO_NOISE
from _mpnet import MPNET
from _summary import Table
from _targets import competitors, key_of

from hf_clear.comparison import mean_and_deviation, paired_bootstrap, rank_test
from hf_clear.runs.training_arguments import FULL_FINE_TUNING

DATA = {
    "banking77-20": "20 intents",
    "banking77": "77 intents",
    "sst5": "SST-5",
    "noisyagnews": "news",
    "questions": "questions",
    "debian": "Debian's sections",
    "glosses": "WordNet's glosses",
    "fortunes": "fortunes",
    "sst2": "SST, two classes",
    "banking77-last20": "20 other intents",
}
_MACHINES = {"cpu": "CPU", "NVIDIA H100 80GB HBM3": "H100", "NVIDIA H200": "H200"}
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
    "dual_lora": "two sets of LoRA weights, as Delora's",
    "oracle_head_start": "true labels known",
}
ALL_IN = "20 intents, symmetric 60%"  # the setting that all methods were run in
ALL_WEIGHTS = {"plain": "plain", "turn": "TURN", "oracle_head_start": "true labels known"}
_PEFT_METHODS = (None, "lora", "adapter", "bitfit", "prompt", FULL_FINE_TUNING)
_NOISE_TYPES = ("symmetric", "asymmetric", "instance_dependent", "real", "none")  # in the order of the tables
_PEER_SEED = 42  # the one that all of them were run with
COMPARED = ("plain", "recommended")


def setting_name(key: tuple) -> str:
    model, data, noise, rate, *_, peft_method = key[:6]
    noise = NOISE.get(noise, noise)
    peft_method = {"lora": "", None: "", FULL_FINE_TUNING: ", all weights"}.get(peft_method, f", {peft_method}")
    model = "" if model == DEMO else f", {MODELS.get(model, model)}"
    base = data.partition("@")[0]
    return f"{DATA.get(base, base)}, {noise}{f' {rate:.0%}' if rate else ''}{peft_method}{model}"


def _place(key: tuple) -> tuple:
    """To sort settings by: what differs from the usual model and PEFT method comes last."""

    def rank(order: Sequence[str | None], value: str | None) -> int:
        return order.index(value) if value in order else len(order)

    return (
        key_of(key, "model") != DEMO,
        rank(_PEFT_METHODS, key_of(key, "peft_method")),
        rank(list(DATA), key_of(key, "data").partition("@")[0]),
        rank(_NOISE_TYPES, key_of(key, "noise_type")),
        key_of(key, "noise_rate") or 0.0,
    )


def named(tables: dict[tuple, Table], *methods: str) -> dict[str, Table]:
    """Those that have all of some methods, by the name of their setting, in the order of the tables.

    Raises:
        ValueError: if two have the same name: they differ in what it leaves out, such as the learning rate.
    """
    found: dict[str, Table] = {}
    for key, table in sorted(tables.items(), key=lambda item: _place(item[0])):
        if not set(methods) <= table.keys():
            continue
        if setting_name(key) in found:
            raise ValueError(
                f"Two settings are called {setting_name(key)!r}; one is {key}. Keep one of them in the results."
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


def accuracy(tables: dict[tuple, Table], columns: Mapping[str, str] = COLUMNS) -> pd.DataFrame:
    """Test accuracy after the last epoch: a row for each setting, a column for each method (by name: its title)."""
    rows = {
        name: {title: mean_and_deviation(values(table, method)) for method, title in columns.items()}
        for name, table in named(tables, *COMPARED).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("test accuracy after the last epoch")


def machines(tables: dict[tuple, Table]) -> pd.DataFrame:
    """Where the lines of [`accuracy`] were run."""
    rows = {
        name: {title: _machines_of(table.get(method, {})) for method, title in COLUMNS.items()}
        for name, table in named(tables, *COMPARED).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run on")


def _machines_of(lines: dict[int, dict[str, Any]]) -> str:
    """`CPU`, `H100`, or the seeds of each."""
    seeds: dict[str, list[int]] = {}
    for seed, line in sorted(lines.items()):
        seeds.setdefault(_MACHINES.get(line["device"], line["device"]), []).append(seed)
    if len(seeds) < 2:
        return next(iter(seeds), "-")
    return ", ".join(f"{machine} ({', '.join(map(str, own))})" for machine, own in sorted(seeds.items()))


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


def noise_rates(tables: dict[tuple, Table], more: dict[tuple, Table]) -> pd.DataFrame:
    """Symmetric noise on 20 intents with one seed: a row for each rate.

    Args:
        more (`dict[tuple, Table]`): results at rates that `tables` doesn't have.
    """
    setting = {"model": DEMO, "data": "banking77-20", "noise_type": "symmetric", "peft_method": "lora"}
    rows = {}
    for key, table in {**more, **tables}.items():
        if all(key_of(key, name) == value for name, value in setting.items()):
            own = {method: table.get(method, {}).get(_PEER_SEED, {}) for method in COLUMNS}
            default = own["recommended"]
            rows[key_of(key, "noise_rate")] = {
                **{title: _digits(own[method].get("accuracy")) for method, title in COLUMNS.items()},
                "wrong labels: AUROC": _digits(default.get("detection_auroc")),
                "rate found": _digits(default.get("estimated_noise_rate")),
            }
    shown = {f"{rate:.0%}": rows[rate] for rate in sorted(rows)}
    return pd.DataFrame.from_dict(shown, orient="index").rename_axis(f"wrong labels, symmetric, seed {_PEER_SEED}")


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
