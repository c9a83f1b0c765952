"""From a checkpoint's name to its loaded parts, or one sentence that says why not.

Knows files, the Hugging Face hub and transformers' loaders; must not know crops or tokens.

Nothing a checkpoint brings is ever run: weights come from safetensors alone, custom code
(``auto_map``) and other attention kernels named in a configuration are dropped before
transformers sees them.
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

from localize.encoders.torchvision_build import allow_any_torchvision

EMBEDDED = "emoji"  # the name of the model that is shipped inside the package
EMBEDDED_FOLDER = Path(__file__).parent / "emoji"
ADVICE = f"give a folder with a CLIP-like checkpoint, a hub id, or {EMBEDDED!r}"
HUB_TIMEOUT = 10.0  # seconds to wait for the hub's first answer

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILES = [
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "negatives.json",
]
# Dropped from a configuration: what would make transformers fetch or run somebody's code.
_UNSAFE_KEYS = {"auto_map", "attn_implementation", "_attn_implementation", "experts_implementation"}
# Buffers that older checkpoints carry and newer ones do not; their values are fixed.
_HARMLESS = re.compile(r"(position_ids|num_batches_tracked)$")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence with what to try instead."""


@dataclass(frozen=True)
class Checkpoint:
    """A dual encoder's loaded parts, all transformers' own objects."""

    name: str  # as results call it
    model: Any  # has get_image_features and get_text_features; float32, on the CPU, eval mode
    tokenizer: Any
    image_processor: Any
    negatives: list[str] | None  # the checkpoint's own bank, from negatives.json
    identity: str  # changes with the files' contents


def load_checkpoint(name: str | os.PathLike[str]) -> Checkpoint:
    """Load a dual encoder from ``"emoji"``, a local folder, or a Hugging Face hub id.

    A hub checkpoint in the hub's local cache is taken from there without asking the network.
    Raises CheckpointError.
    """
    folder = find_folder(name)
    _check_files(folder)
    config = _read_config(folder)
    _check_weights(folder)
    allow_any_torchvision()
    with _quiet_transformers():
        try:
            return Checkpoint(
                name=str(name),
                model=_load_model(folder, config),
                tokenizer=_load_tokenizer(folder),
                image_processor=_load_image_processor(folder),
                negatives=_read_negatives(folder / "negatives.json"),
                identity=_identity(folder),
            )
        except CheckpointError:
            raise
        except Exception as error:
            # transformers raises nearly every type there is for a bad file; all mean the same here.
            raise CheckpointError(
                f"the checkpoint {folder} cannot be loaded ({first_sentence(error)}); {ADVICE}"
            ) from error


def find_folder(name: str | os.PathLike[str]) -> Path:
    """The local folder of a checkpoint, downloaded first if `name` is a hub id.

    Raises CheckpointError where there is none, and TypeError for what is no name.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"a model must be a folder, a hub id or {EMBEDDED!r}, not {name!r}")
    if str(name) == EMBEDDED:
        if not (EMBEDDED_FOLDER / "config.json").is_file():
            raise CheckpointError(
                f"the embedded model is missing from this installation ({EMBEDDED_FOLDER}); "
                "install the package again, or give a folder with a CLIP-like checkpoint"
            )
        return EMBEDDED_FOLDER
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):  # unlike Path.is_dir this never raises, whatever the name
        return folder
    if os.path.exists(folder):
        raise CheckpointError(
            f"{folder} is a file; give the folder that the checkpoint's files are in"
        )
    hub_id = name if isinstance(name, str) and not name.startswith((".", "~", "/")) else ""
    if not _HUB_ID.fullmatch(hub_id):
        raise CheckpointError(f"there is no folder {folder}; {ADVICE}")
    return _download(hub_id)


def first_sentence(error: BaseException) -> str:
    """An exception's message cut to its first sentence, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[a-z)'\"`])\. ", text)[0].rstrip(".")[:300]


def _download(name: str) -> Path:
    """The snapshot of a hub checkpoint, from the hub's local cache if it is there."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        cached = Path(snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=True))
        if (cached / "config.json").is_file() and next(cached.glob("model*.safetensors"), None):
            return cached
    except (OSError, ValueError):
        pass
    try:
        HfApi().model_info(name, timeout=HUB_TIMEOUT)  # snapshot_download waits without end
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except GatedRepoError as error:
        raise CheckpointError(
            f"the hub model {name!r} is gated: accept its terms on huggingface.co and log in with "
            f"'hf auth login', or {ADVICE}"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"there is no folder and no public hub model called {name!r}; "
            f"check the spelling, or {ADVICE}"
        ) from error
    except Exception as error:
        offline = constants.is_offline_mode()
        why = "HF_HUB_OFFLINE is set" if offline else first_sentence(error.__cause__ or error)
        raise CheckpointError(
            f"{name!r} is no folder here and the Hugging Face hub cannot be reached ({why}); "
            f"check the connection, or give a local folder or {EMBEDDED!r}"
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


def _check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors, and files that are not whole."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        pickled = [
            path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)
        ]
        found = f"only pickled ones ({pickled[0]}), which are never opened" if pickled else "none"
        raise CheckpointError(
            f"{folder} needs weights in model.safetensors but has {found}; save the model with "
            "save_pretrained, or try another checkpoint"
        )
    for path in files:
        try:
            with safe_open(str(path), framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is cut off or damaged ({first_sentence(error)}); copy or download it again"
            ) from error


def _load_model(folder: Path, config: dict[str, Any]) -> Any:
    """The dual encoder with every weight taken from the folder."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

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
        use_safetensors=True,
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


def _identity(folder: Path) -> str:
    """A hash that changes when the folder's files do, cheap for weights of any size."""
    from transformers import __version__

    digest = hashlib.sha256(f"{__version__} {folder.resolve()}".encode())
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
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
