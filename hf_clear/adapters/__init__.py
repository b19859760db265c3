"""Adapters on disk: loaded from safetensors alone, after a look at all that they ask for."""
