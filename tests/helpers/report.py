"""A made-up table of label issues and a log history, with texts and names that try to be more than text."""

import numpy as np
import pandas as pd

HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</title><img src=x onerror='window.hacked = 2'>",
    '<b onmouseover="window.hacked = 3">column</b>',
    "</script><script>window.hacked = 4</script>",
    "$\\frac{x$ & <svg onload=window.hacked=5>",
    "=HYPERLINK(\"http://example.org\"; 'x');=1+1\n- 2",
    '@SUM(1+1), "quoted"\r\nand a second line',
    "-->]]>{{ 7 * 7 }}</textarea></template> \u202e right to left \x1b[2J",
    "é 漢字 🙂 " + "long " * 400,
)
CLASSES = ("red", "green", "blue", HOSTILE[3], HOSTILE[4])


def issues(num_samples: int = 200, seed: int = 0) -> tuple[pd.DataFrame, list[dict]]:
    """A table of all samples, 40 % suspects, and the log history of a training with three fits."""
    rng = np.random.default_rng(seed)
    names = np.array(CLASSES, dtype=object)
    true, noisy = rng.integers(0, len(names), num_samples), rng.random(num_samples) < 0.4
    given = (true + noisy * rng.integers(1, len(names), num_samples)) % len(names)
    score = np.where(noisy, rng.beta(1, 20, num_samples), rng.beta(20, 1, num_samples))
    loss = np.where(noisy, rng.normal(3, 0.4, num_samples), rng.normal(0.6, 0.2, num_samples)).clip(0.01)
    loss[7] = score[7] = np.nan
    texts = [f"text {row} {names[true[row]] if true[row] < 3 else 'other'}" for row in range(num_samples)]
    for row, text in zip(np.flatnonzero(noisy)[::2], HOSTILE):
        texts[row] = text
    is_issue = score < 0.5
    table = pd.DataFrame(
        {
            "sample_index": np.arange(num_samples)[::-1],
            HOSTILE[2]: "the same",
            "text": texts,
            "given_label": names[given],
            "predicted_label": names[np.where(is_issue, true, given)],
            "is_label_issue": is_issue,
            "label_score": score,
            "clean_probability": score,
            "suggestion_confidence": 1 - score / 2,
            "loss": loss,
            "reasons": [["high_loss", "not_scored"][: int(issue)] for issue in is_issue],
            "true_label": np.where(np.arange(num_samples) % 10 == 9, None, names[true]),
        }
    )
    return table, log_history(loss[np.isfinite(loss)])


def log_history(loss: np.ndarray) -> list[dict]:
    entries: list[dict] = [{"loss": 2.0, "epoch": 0.5, "step": 5}]
    for epoch in (1.0, 2.0, 3.0):
        counts, edges = np.histogram(loss * epoch, 20)
        entries += [
            {"eval_loss": 2 - epoch / 4, "eval_accuracy": 0.5 + epoch / 10, "epoch": epoch, "step": int(10 * epoch)},
            {
                **{"clean_fraction": 0.6, "fit_warnings": 0, "estimated_noise_rate": 0.4},
                **{"estimated_noise_rate_low": 0.35, "estimated_noise_rate_high": 0.44},
                **{"mixture_mean_clean": 0.6 * epoch, "mixture_std_clean": 0.2 * epoch},
                **{"mixture_mean_noisy": 3.0 * epoch, "mixture_std_noisy": 0.4 * epoch, "mixture_weight_noisy": 0.4},
                **{"memorization_clean": 0.9, "memorization_noisy": 0.1 * epoch, "epoch": epoch},
                "loss_histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
            },
            {"loss": 2 - epoch / 3, "epoch": epoch + 0.5, "step": int(10 * epoch) + 5},
        ]
    return entries
