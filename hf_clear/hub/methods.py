"""What a model card says of each method: a description, and whom to cite."""

from __future__ import annotations

DESCRIPTIONS = {
    "CleaR": (
        "Trained on noisy labels with [CleaR](https://arxiv.org/abs/2411.00873): a clean probability "
        "is estimated for each training sample, and the PEFT modules are bypassed the more often, the less likely its "
        "label is correct. In inference all modules act."
    ),
    "posterior": (
        "Trained on noisy labels with hf_clear, on the posterior over the true class: a noise model weighs what is "
        "predicted for a training sample against the label that it was given, and the outcome is its target. In "
        "inference all modules act."
    ),
    "loss": (
        "Trained on noisy labels with hf_clear: a clean probability is estimated for each training sample, and the "
        "training loss is `{loss}`. All modules act on all samples."
    ),
    "plain": (
        "Trained with hf_clear on labels that may be wrong, but plainly: training ended before clean probabilities "
        "were fitted, so each label was taken as it is."
    ),
    "TURN": (
        "Trained on noisy labels with [TURN](https://arxiv.org/abs/2310.17668): a linear probe on the features of the "
        "pretrained model came first, and fine-tuning left out the samples whose label looked wrong by its losses."
    ),
}
CITATIONS = {
    "CleaR": """@inproceedings{kim2024clear,
  title = {{CleaR}: Towards Robust and Generalized Parameter-Efficient Fine-Tuning for Noisy Label Learning},
  author = {Kim, Yeachan and Kim, Junho and Lee, SangKeun},
  booktitle = {Proceedings of the 62nd Annual Meeting of the Association for Computational Linguistics},
  year = {2024},
  url = {https://arxiv.org/abs/2411.00873}
}""",
    "TURN": """@inproceedings{ahn2024turn,
  title = {Fine-tuning Pre-trained Models for Robustness under Noisy Labels},
  author = {Ahn, Sumyeong and Kim, Sihyeon and Ko, Jongwoo and Yun, Se-Young},
  booktitle = {Proceedings of the Thirty-Third International Joint Conference on Artificial Intelligence},
  year = {2024},
  url = {https://arxiv.org/abs/2310.17668}
}""",
}
