"""From a checkpoint's files to its loaded parts, or one sentence that says why not.

Knows folders and transformers' loaders; must not know the hub, crops or tokens.

Nothing a checkpoint brings is ever run: custom code (``auto_map``) and other attention kernels
named in a configuration are dropped before transformers sees them. Weights come from safetensors,
or where the caller allows it from pickles, through torch's weights-only unpickler.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from localize.encoders.errors import ADVICE, CheckpointError, first_sentence
from localize.encoders.folders import (
    check_files,
    check_loaded,
    check_weights,
    identity,
    read_negatives,
    read_object,
)
from localize.encoders.hub import Files
from localize.encoders.torchvision_build import allow_any_torchvision

# Dropped from a configuration: what would make transformers fetch or run somebody's code.
_UNSAFE_KEYS = {
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "transformers_weights",  # names another file of weights than the one that was checked
}


@dataclass(frozen=True)
class Checkpoint:
    """A dual encoder's loaded parts, all transformers' own objects."""

    name: str  # as results call it
    model: Any  # has get_image_features and get_text_features; float32, on the CPU, eval mode
    tokenizer: Any
    image_processor: Any
    negatives: list[str] | None  # the checkpoint's own bank, from negatives.json
    identity: str  # changes with the files' contents


def load_checkpoint(files: Files, *, weights: bool = True) -> Checkpoint:
    """Load a dual encoder of transformers from the files that `hub.find_files` gives.

    weights: False to do without the files of weights: the model is on the device "meta", good for
        looking at only, and `identity` is empty.
    Raises CheckpointError.
    """
    folder = files.folder
    check_files(folder)
    allow_any_torchvision()
    import transformers

    with _quiet_transformers(), warnings.catch_warnings():
        if files.layout.pickled:
            warnings.simplefilter("ignore")  # torch's own on old or odd pickles
        settings, model_class = _model_class(files)
        if weights:
            check_weights(files)
        try:
            return Checkpoint(
                name=files.name,
                model=_load_model(files, settings, model_class)
                if weights
                else _outline(model_class, settings),
                tokenizer=_load_tokenizer(folder),
                image_processor=_load_image_processor(folder, settings),
                negatives=read_negatives(folder / "negatives.json"),
                identity=identity(files, f"transformers {transformers.__version__}")
                if weights
                else "",
            )
        except CheckpointError:
            raise
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{folder / files.layout.weights[0]} holds more than weights, or something else, "
                f"and nothing of it was run; {ADVICE}"
            ) from error
        except Exception as error:
            # transformers raises nearly every type there is for a bad file; all mean the same here.
            raise CheckpointError(
                f"the checkpoint {folder} cannot be loaded ({first_sentence(error)}); {ADVICE}"
            ) from error


def check_kind(files: Files) -> None:
    """Raise CheckpointError if config.json tells that the model is of no use here."""
    allow_any_torchvision()
    with _quiet_transformers():
        _model_class(files)


def _read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json, without the entries that could bring in foreign code."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no config.json, so it is no checkpoint; {ADVICE}")
    config = read_object(path)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{path} names no model_type, so it is no checkpoint; {ADVICE}")
    return _without_unsafe(config) | {"_custom_code": "auto_map" in config}


def _without_unsafe(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_unsafe(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _UNSAFE_KEYS
    }


def _model_class(files: Files) -> tuple[Any, Any]:
    """The settings in config.json and the class of models that they are for.

    Raises CheckpointError for one that is no dual encoder that transformers has code for.
    """
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    config = _read_config(files.folder)
    custom = config.pop("_custom_code")
    kind = config["model_type"]
    if kind not in CONFIG_MAPPING:
        why = (
            "needs code of its own, which is never run" if custom else "is unknown to transformers"
        )
        raise CheckpointError(f"{files.name} is a {kind!r} model, which {why}; {ADVICE}")
    try:
        settings = CONFIG_MAPPING[kind].from_dict(config)
    except Exception as error:  # whatever a nonsensical value leads to
        raise CheckpointError(
            f"the checkpoint {files.folder} cannot be loaded ({first_sentence(error)}); {ADVICE}"
        ) from error
    model_class = MODEL_MAPPING.get(type(settings), None)
    both = all(
        hasattr(model_class, f"get_{tower}_features") and hasattr(settings, f"{part}_config")
        for tower, part in (("image", "vision"), ("text", "text"))
    )
    if not both:
        raise CheckpointError(
            f"{files.name} is a {kind!r} model, which is no dual encoder of images and texts with "
            f"one vector for each; {ADVICE}"
        )
    return settings, model_class


def _load_model(files: Files, settings: Any, model_class: Any) -> Any:
    """The dual encoder with every weight taken from the folder."""
    model, report = model_class.from_pretrained(
        files.folder,
        config=settings,
        dtype=torch.float32,
        use_safetensors=not files.layout.pickled,
        weights_only=True,
        variant=files.layout.variant,
        trust_remote_code=False,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # reported below, in one sentence instead of a table
        output_loading_info=True,
    )
    check_loaded(files, mismatched=report["mismatched_keys"], missing=report["missing_keys"])
    return model.eval().requires_grad_(False)


def _outline(model_class: Any, settings: Any) -> Any:
    """The model's modules without any numbers in them."""
    with torch.device("meta"):
        return model_class(settings).eval().requires_grad_(False)


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    whole = (folder / "tokenizer.json").is_file()
    pieces = sorted(folder.glob("*.model"))
    # Without any vocabulary transformers makes up an empty one, and all texts become the same.
    if not (whole or pieces or next(folder.glob("vocab*"), None)):
        raise CheckpointError(
            f"{folder} has no usable tokenizer (neither tokenizer.json nor a vocabulary); "
            "save the model's processor or tokenizer into the folder"
        )
    if not whole and pieces and not _reads_sentencepiece():
        raise CheckpointError(
            f"{folder} has its vocabulary in {pieces[0].name} alone, which is read with "
            "sentencepiece: pip install 'clip-localize[sentencepiece]'"
        )
    # SigLIP's own class reads spiece.model and needs sentencepiece; tokenizer.json says the same.
    loader = PreTrainedTokenizerFast if whole and _is_siglip(folder) else AutoTokenizer
    try:
        return loader.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        why = f"{pieces[0].name} cannot be read" if pieces else first_sentence(error)
        raise CheckpointError(
            f"{folder} has no usable tokenizer ({why}); "
            "save the model's processor or tokenizer into the folder"
        ) from error


def _reads_sentencepiece() -> bool:
    try:
        for package in ("sentencepiece", "google.protobuf"):
            import_module(package)
    except ImportError:
        return False
    return True


def _is_siglip(folder: Path) -> bool:
    """Whether transformers would take SigLIP's own tokenizer class."""
    settings = folder / "tokenizer_config.json"
    named = read_object(settings).get("tokenizer_class") if settings.is_file() else None
    return named == "SiglipTokenizer" or (
        named is None and read_object(folder / "config.json").get("model_type") == "siglip"
    )


def _load_image_processor(folder: Path, settings: Any) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(
            folder,
            config=settings,  # tells the class where an old file names one that is no more
            backend="pil",
            trust_remote_code=False,
            local_files_only=True,
        )
    except Exception as error:
        raise CheckpointError(
            f"{folder} does not say how images are prepared ({first_sentence(error)}); "
            "save the model's image processor (preprocessor_config.json) into the folder"
        ) from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' own notes and progress bars, and put things back as they were."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forks of a user's must not warn
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
