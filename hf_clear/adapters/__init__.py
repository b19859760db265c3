"""Adapters on disk: loaded from safetensors alone, after a look at all that they ask for."""

from .checks import check_adapter as check_adapter
from .checks import check_checkpoint as check_checkpoint
from .loading import load_adapter as load_adapter
