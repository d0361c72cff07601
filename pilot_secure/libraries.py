"""Settings of the libraries underneath that a command line wants."""

from __future__ import annotations

import logging
import os
import warnings


def quieten_libraries() -> None:
    """Keep the libraries from printing between our lines; call before loading."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    import datasets
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as model_logging

    datasets.disable_progress_bars()
    hub_logging.set_verbosity(logging.CRITICAL)  # it warns at every try without a network
    model_logging.set_verbosity_error()
    model_logging.disable_progress_bar()


def cuda_devices() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU that this process may use; none without CUDA."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]
