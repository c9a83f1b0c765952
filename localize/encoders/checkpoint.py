"""From a checkpoint's files to its loaded parts, or one sentence that says why not.

Knows folders and transformers' loaders; must not know the hub, crops or tokens.

Nothing a checkpoint brings is ever run: custom code (``auto_map``) and other attention kernels
named in a configuration are dropped before transformers sees them. Weights come from safetensors,
or where the caller allows it from pickles, through torch's weights-only unpickler.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from localize.encoders.errors import ADVICE, CheckpointError, first_sentence
from localize.encoders.hub import Files
from localize.encoders.torchvision_build import allow_any_torchvision

# The first version of torch whose weights-only unpickler cannot be made to corrupt memory
# (CVE-2026-24747).
SAFE_UNPICKLER = "2.10"

# Dropped from a configuration: what would make transformers fetch or run somebody's code.
_UNSAFE_KEYS = {
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "transformers_weights",  # names another file of weights than the one that was checked
}
# Buffers that older checkpoints carry and newer ones do not; their values are fixed.
_HARMLESS = re.compile(r"(position_ids|num_batches_tracked)$")


@dataclass(frozen=True)
class Checkpoint:
    """A dual encoder's loaded parts, all transformers' own objects."""

    name: str  # as results call it
    model: Any  # has get_image_features and get_text_features; float32, on the CPU, eval mode
    tokenizer: Any
    image_processor: Any
    negatives: list[str] | None  # the checkpoint's own bank, from negatives.json
    identity: str  # changes with the files' contents


def load_checkpoint(files: Files) -> Checkpoint:
    """Load a dual encoder of transformers from the files that `hub.find_files` gives.

    Raises CheckpointError.
    """
    folder = files.folder
    _check_files(folder)
    config = _read_config(folder)
    _check_weights(files)
    allow_any_torchvision()
    with _quiet_transformers():
        try:
            return Checkpoint(
                name=files.name,
                model=_load_model(files, config),
                tokenizer=_load_tokenizer(folder),
                image_processor=_load_image_processor(folder),
                negatives=_read_negatives(folder / "negatives.json"),
                identity=_identity(files),
            )
        except CheckpointError:
            raise
        except Exception as error:
            # transformers raises nearly every type there is for a bad file; all mean the same here.
            raise CheckpointError(
                f"the checkpoint {folder} cannot be loaded ({first_sentence(error)}); {ADVICE}"
            ) from error


def _check_files(folder: Path) -> None:
    """Refuse what would never end to be read, and what would bring in another model's weights."""
    try:
        for path in sorted(folder.iterdir()):
            if not (path.is_file() or path.is_dir()):
                raise CheckpointError(f"{path} is no plain file; remove it from the checkpoint")
            if path.name == "adapter_config.json":
                raise CheckpointError(
                    f"{folder} holds an adapter and no whole model; merge it into its model and "
                    f"save that, or {ADVICE}"
                )
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror}); {ADVICE}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json, without the entries that could bring in foreign code."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no config.json, so it is no checkpoint; {ADVICE}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({first_sentence(error)})") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{path} names no model_type, so it is no checkpoint; {ADVICE}")
    return _without_unsafe(config) | {"_custom_code": "auto_map" in config}


def _without_unsafe(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_unsafe(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _UNSAFE_KEYS
    }


def _check_weights(files: Files) -> None:
    """Refuse a checkpoint without weights that may be opened, and files that are not whole."""
    from safetensors import SafetensorError, safe_open

    folder, layout = files.folder, files.layout
    if not layout.weights:
        found = f"only pickled ones ({layout.pickles[0]})" if layout.pickles else "none"
        cure = "open them with --unpickle (in Python unpickle=True) if you trust them, "
        raise CheckpointError(
            f"{folder} needs weights in model.safetensors but has {found}; "
            f"{cure if layout.pickles else ''}save the model with save_pretrained, or try another "
            "checkpoint"
        )
    _check_index(files)
    if layout.pickled:
        if torch.torch_version.TorchVersion(torch.__version__) < SAFE_UNPICKLER:
            raise CheckpointError(
                f"{folder / layout.weights[0]} is a pickle, and those are opened only with torch "
                f"{SAFE_UNPICKLER} or newer (here is {torch.__version__}), "
                "whose unpickler is safe; install that, or save the model with save_pretrained"
            )
        return
    for path in (folder / name for name in layout.weights):
        try:
            with safe_open(str(path), framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is cut off or damaged ({first_sentence(error)}); copy or download it again"
            ) from error


def _check_index(files: Files) -> None:
    """Refuse an index that names other files than the shards: pickles, or something elsewhere."""
    for name in files.layout.others:
        if ".index" not in name:
            continue
        path = files.folder / name
        try:
            shards = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
            missing = sorted(shards - set(files.layout.weights))
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} does not say which file holds which weights; copy or download it again"
            ) from error
        if missing:
            raise CheckpointError(
                f"{path} asks for {missing[0]!r}, which is none of the checkpoint's files of "
                "weights; copy or download the checkpoint again"
            )


def _load_model(files: Files, config: dict[str, Any]) -> Any:
    """The dual encoder with every weight taken from the folder."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    folder = files.folder
    custom = config.pop("_custom_code")
    kind = config["model_type"]
    if kind not in CONFIG_MAPPING:
        why = (
            "needs code of its own, which is never run" if custom else "is unknown to transformers"
        )
        raise CheckpointError(f"{folder} is a {kind!r} model, which {why}; {ADVICE}")
    settings = CONFIG_MAPPING[kind].from_dict(config)
    model_class = MODEL_MAPPING.get(type(settings), None)
    if not all(hasattr(model_class, f"get_{kind}_features") for kind in ("image", "text")):
        raise CheckpointError(
            f"{folder} is a {kind!r} model, which is no dual encoder of images and texts; {ADVICE}"
        )
    model, report = model_class.from_pretrained(
        folder,
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
    if mismatched := sorted(report["mismatched_keys"]):
        key, found, wanted = mismatched[0]
        raise CheckpointError(
            f"{folder}: the weight {key} has shape {tuple(found)} but config.json asks for "
            f"{tuple(wanted)}; the two are not of one checkpoint"
        )
    if missing := sorted(key for key in report["missing_keys"] if not _HARMLESS.search(key)):
        raise CheckpointError(
            f"{folder}: {len(missing)} weights are missing ({missing[0]} is the first); "
            f"the checkpoint is incomplete or not a whole dual encoder, so {ADVICE}"
        )
    return model.eval().requires_grad_(False)


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    # Without any vocabulary transformers makes up an empty one, and all texts become the same.
    patterns = ("tokenizer.json", "vocab*", "*.model")
    if not any(next(folder.glob(pattern), None) for pattern in patterns):
        raise CheckpointError(
            f"{folder} has no usable tokenizer (neither tokenizer.json nor a vocabulary); "
            "save the model's processor or tokenizer into the folder"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{folder} has no usable tokenizer ({first_sentence(error)}); "
            "save the model's processor or tokenizer into the folder"
        ) from error


def _load_image_processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(
            folder, backend="pil", trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise CheckpointError(
            f"{folder} does not say how images are prepared ({first_sentence(error)}); "
            "save the model's image processor (preprocessor_config.json) into the folder"
        ) from error


def _read_negatives(path: Path) -> list[str] | None:
    """A JSON list of texts to score prompts against, which only our own checkpoints bring."""
    if not path.is_file():
        return None
    try:
        negatives = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        negatives = None
    if not isinstance(negatives, list) or not all(isinstance(text, str) for text in negatives):
        raise CheckpointError(f"{path} is not a JSON list of texts; correct or remove it")
    return negatives


def _identity(files: Files) -> str:
    """A hash that changes when the files do, cheap for weights of any size."""
    from transformers import __version__

    digest = hashlib.sha256(f"{__version__} {files.folder.resolve()}".encode())
    for path in (files.folder / name for name in files.layout.needed):
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
        with path.open("rb") as file:
            file.seek(max(0, status.st_size - 65536))
            digest.update(file.read())
    return digest.hexdigest()


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
