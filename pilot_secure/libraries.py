"""Settings of the libraries underneath that a command line wants."""

from __future__ import annotations

import os
import warnings


def quieten_libraries() -> None:
    """Keep transformers and tokenizers from printing between our lines; call before loading."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
