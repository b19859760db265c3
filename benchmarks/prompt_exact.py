#!/usr/bin/env python
"""What `ClearPromptConfig(exact=True)` costs: seconds of a routed step (forward and backward) over those without it.

Prints the median ratio of alternating steps, all-MiniLM-L6-v2 on random tokens, for two sequence lengths.
"""

import argparse
import json
import statistics
import time

import torch
from _loading import DEMO, model_path
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification

from hf_clear import ClearPromptConfig, num_routed_layers, route
from hf_clear.files import write_atomically


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Fewer alternations.")
    parser.add_argument("--json", metavar="PATH", help="Write the rows there as well.")
    args = parser.parse_args()
    rows = [measure(length, alternations=7 if args.quick else 25) for length in (24, 128)]
    for row in rows:
        print(f"{row['name']:<40}{row['ratio']:>8.2f} x")
    if args.json:
        write_atomically(args.json, json.dumps(rows, indent=2).encode())


def measure(length: int, alternations: int, batch_size: int = 16) -> dict:
    generator = torch.Generator().manual_seed(0)
    batch = {"input_ids": torch.randint(1000, 2000, (batch_size, length), generator=generator)}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    models = {}
    for exact in (False, True):
        base = AutoModelForSequenceClassification.from_pretrained(model_path(DEMO), num_labels=20)
        models[exact] = get_peft_model(base, ClearPromptConfig(task_type="SEQ_CLS", exact=exact)).train()
    gates = torch.rand(num_routed_layers(models[True]), batch_size, generator=generator) < 0.5
    seconds = {False: [], True: []}
    for step in range(alternations + 2):
        for exact, model in models.items():
            start = time.perf_counter()
            with route(model, gates):
                model(**batch).logits.logsumexp(dim=-1).sum().backward()
            if step >= 2:  # after a warm-up
                seconds[exact].append(time.perf_counter() - start)
    ratio = statistics.median(slow / fast for slow, fast in zip(seconds[True], seconds[False]))
    return {"name": f"exact prompt, {length} tokens", "ratio": round(ratio, 3), "target": None}


if __name__ == "__main__":
    main()
