"""Checkpoints in an output folder: complete or not there, as they were saved, and of one run at a time."""
