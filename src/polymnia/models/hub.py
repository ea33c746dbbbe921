"""Models of the Hugging Face kind: where they lie, and loading them in spite of what breaks elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from polymnia.types import UserError


def locate(model: str) -> tuple[str, bool]:
    """What to hand to transformers, and whether it is a folder. Raises UserError for a package or folder not there."""
    if model.startswith("package:"):
        name, _, inside = model.removeprefix("package:").partition("/")
        found = importlib.util.find_spec(name) if name.isidentifier() else None  # found, but not imported
        roots = found.submodule_search_locations if found else None
        if not roots:
            out = f"pip install {name.replace('_', '-')}, or give a folder"
            raise UserError(f"no Python package '{name}' (model: '{model}'); {out}")
        path = Path(next(iter(roots))) / inside
    else:
        path = Path(model).expanduser()
        if not path.is_dir() and not path.is_absolute() and not model.startswith((".", "~")):
            return model, False  # owner/name on the hub, or in its cache on this disk
    if not (path / "config.json").is_file():
        raise UserError(f"no model in {path} (model: '{model}'): it must be a folder with config.json in it")
    return str(path), True


def load(source: str, folder: bool) -> tuple[Any, Any]:
    """Tokenizer and encoder (float32, eval mode). Raises UserError where transformers cannot give them."""
    hide_broken_torchvision()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns in every forked loader worker
    try:
        # 0.7 s of import that only this tower needs
        from transformers import AutoModel, AutoTokenizer

        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=folder)
            encoder, report = AutoModel.from_pretrained(
                source, local_files_only=folder, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # a damaged folder raises whatever the parser of the damaged file raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        out = "is its folder complete?" if folder else "is the hub id right, and is there a network? Or give a folder"
        raise UserError(f"cannot load the text encoder '{source}': {reason}; {out}") from error
    if missing := sorted(k for k in report["missing_keys"] if not k.startswith("pooler.")):
        raise UserError(f"the weights in '{source}' lack {len(missing)} tensors of its {type(encoder).__name__}")
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # not used here, random in many checkpoints, and never given a gradient
    return tokenizer, encoder.eval()


def hide_broken_torchvision() -> None:
    """Make a torchvision that fails to import look absent.

    transformers asks whether it is installed, then imports it even for text; a build for another torch fails there
    with a RuntimeError or OSError, and takes every text model down.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except (ImportError, OSError, RuntimeError):
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # Python's own mark for "not to be found"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no load report (which lists a missing pooler as if it mattered), in this block only."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
