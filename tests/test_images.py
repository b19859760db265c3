"""Images are routed as texts are."""

import datasets
import torch
from helpers.architectures import model_of

from hf_clear import ClearLoraConfig, ClearTrainer
from hf_clear.noise import inject_label_noise


def test_images(training_arguments):
    """Random images; wrong labels show where a small ViT learns the correct ones first."""
    generator = torch.Generator().manual_seed(0)
    labels = [i % 3 for i in range(90)]
    images = torch.randn(90, 3, 8, 8, generator=generator) * 0.3
    for i, label in enumerate(labels):
        images[i, label] += 1.0  # the colour tells the class
    data = datasets.Dataset.from_dict({"pixel_values": images.numpy(), "label": labels}).with_format("torch")
    noisy, _ = inject_label_noise(data, "symmetric", 0.3, num_labels=3)
    trainer = ClearTrainer(
        model_of("vit"),
        training_arguments(clear_warmup_epochs=4, num_train_epochs=6),
        train_dataset=noisy,
        peft_config=ClearLoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]),
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "detection_auroc" in entry]
    assert len(logs) == 2 and logs[-1]["detection_auroc"] > 0.9
    assert logs[-1]["memorization_clean"] > logs[-1]["memorization_noisy"]
