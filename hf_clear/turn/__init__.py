"""TURN: linear probing, cleansing, fine-tuning (Ahn et al., 2024, arXiv 2310.17668)."""
