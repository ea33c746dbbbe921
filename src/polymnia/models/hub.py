"""Models of the Hugging Face kind: where they lie, and loading them in spite of what breaks elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

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
    """Tokenizer and text encoder (float32, eval mode). Raises UserError where transformers cannot give them."""
    tokenizer = load_tokenizer(source, folder, "text encoder")
    encoder, missing = _pretrained("AutoModel", source, folder, "text encoder")
    _refuse_missing({k for k in missing if not k.startswith("pooler.")}, encoder, source)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # not used here, random in many checkpoints, and never given a gradient
    return tokenizer, encoder.eval()


def load_model(name: str, kinds: Sequence[str], source: str, folder: bool, what: str) -> Any:
    """A model of transformers' class ``name`` (float32, eval mode) from a checkpoint of one of the ``kinds``.

    ``kinds`` are values of ``model_type`` in config.json; ``what`` names the tower in errors. Raises UserError for a
    checkpoint that is absent, damaged, incomplete, or of another architecture.
    """
    found = load_config(source, folder, what).get("model_type")
    if found not in kinds:
        raise UserError(f"'{source}' is a model of type '{found}', and the {what} needs one of {', '.join(kinds)}")
    model, missing = _pretrained(name, source, folder, what)
    _refuse_missing(missing, model, source)
    return model.eval()


def load_config(source: str, folder: bool, what: str) -> dict[str, Any]:
    """config.json as it was written. Raises UserError where there is none to be had."""
    hide_broken_torchvision()
    with _refusing(what, source, folder):
        from transformers import PreTrainedConfig

        return PreTrainedConfig.get_config_dict(source, local_files_only=folder)[0]


def load_tokenizer(source: str, folder: bool, what: str) -> Any:
    """The tokenizer of a checkpoint. Raises UserError where transformers cannot give it, or it knows no words."""
    hide_broken_torchvision()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns in every forked loader worker
    with _refusing(what, source, folder):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=folder, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what some classes make of a folder without a vocabulary
        raise UserError(f"cannot load the {what} '{source}': it has no vocabulary; is its folder complete?")
    return tokenizer


def load_preprocessing(source: str, folder: bool, part: str, what: str) -> dict[str, Any]:
    """What a checkpoint says of its input, empty where it says nothing. Raises UserError for a damaged file.

    ``part``: ``image_processor`` or ``feature_extractor``, the key that holds it where one file is for all parts.
    """
    with _refusing(what, source, folder):
        from transformers.utils import cached_file

        def read(name: str) -> dict[str, Any]:
            path = cached_file(source, name, local_files_only=folder, _raise_exceptions_for_missing_entries=False)
            return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}

        return read("processor_config.json").get(part) or read("preprocessor_config.json")


def _pretrained(name: str, source: str, folder: bool, what: str) -> tuple[Any, set[str]]:
    """A model in float32, and the tensors that its weights lack."""
    hide_broken_torchvision()
    with _refusing(what, source, folder):
        import transformers  # 0.7 s that only these towers need

        model, report = getattr(transformers, name).from_pretrained(
            source, local_files_only=folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    return model, set(report["missing_keys"])


def _refuse_missing(missing: set[str], model: Any, source: str) -> None:
    state = model.state_dict()
    # whole numbers (positions, token types) are computed, and published checkpoints leave some of them out
    learned = [k for k in missing if k not in state or state[k].is_floating_point()]
    if learned:
        raise UserError(f"the weights in '{source}' lack {len(learned)} tensors of its {type(model).__name__}")


@contextlib.contextmanager
def _refusing(what: str, source: str, folder: bool) -> Iterator[None]:
    """Whatever goes wrong in this block becomes a UserError: a damaged file raises what its parser raises."""
    try:
        with quiet():
            yield
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        out = "is its folder complete?" if folder else "is the hub id right, and is there a network? Or give a folder"
        raise UserError(f"cannot load the {what} '{source}': {reason}; {out}") from error


def token_ids(tokenizer: Any, texts: Sequence[str], most: int) -> Int[Tensor, "b n"]:
    """Ids of texts, cut at ``most`` tokens and padded to the longest text: padding costs as much as words do."""
    rows = tokenizer(list(texts), padding="longest", truncation=True, max_length=most, return_tensors="pt")
    return rows["input_ids"]


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
