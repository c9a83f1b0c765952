"""From a checkpoint in open_clip's layout to its loaded parts, or one sentence that says why not.

Knows folders and open_clip's models; must not know the hub, crops or tokens.

open_clip is not asked to load a folder: it would hand the configuration's `tokenizer_kwargs` to
transformers, which with `trust_remote_code` among them runs a file of the folder, and would fetch
the other repositories that a configuration may name. Instead the configuration is reduced here to
plain numbers and known names (`_safe_config`), open_clip's classes are built from that, and the
weights are put in.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from localize.encoders.layouts import CONFIGS
from localize.encoders.torchvision_build import allow_any_torchvision

PREFIX = "open_clip:"  # of a name that means an architecture and a tag of open_clip's own table
INSTALL = "pip install 'clip-localize[open-clip]'"

# What a configuration may say of its tokenizer: how texts are cleaned. Anything else would reach
# transformers' AutoTokenizer, or names a way to shorten texts at random that training uses.
_TOKENIZER_SETTINGS = {"clean", "strip_sep_token", "language"}
_TIMM_NAME = re.compile(r"[\w.-]+")  # no source before a colon, no path

# Text towers of transformers that open_clip's configurations name by a repository of their own.
# Their shape is public knowledge, so that nothing is fetched; weights come from the checkpoint.
_Settings = dict[str, Any]
_BERT: _Settings = {"model_type": "bert"}  # transformers' defaults are the sizes of BERT base
_ROBERTA: _Settings = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_XLM: _Settings = _ROBERTA | {"model_type": "xlm-roberta", "vocab_size": 250002}
_LARGE: _Settings = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
TEXT_TOWERS: dict[str, _Settings] = {
    "bert-base-uncased": _BERT,
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract": _BERT,
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract": _BERT,
    "roberta-base": _ROBERTA,
    "roberta-large": _ROBERTA | _LARGE,
    "xlm-roberta-base": _XLM,
    "xlm-roberta-large": _XLM | _LARGE,
}


@dataclass(frozen=True)
class OpenClipCheckpoint:
    """A dual encoder's loaded parts, all open_clip's own objects."""

    name: str  # as results call it
    model: Any  # has encode_image and encode_text; float32, on the CPU, eval mode
    tokenizer: Any  # texts -> ids (P, context_length)
    context_length: int
    vocabulary: int  # ids that the text tower knows
    preprocessing: dict[str, Any]  # mean, std and interpolation, as the configuration has them
    negatives: list[str] | None  # the checkpoint's own bank, from negatives.json
    identity: str  # changes with the files' contents


def load_open_clip(files: Files, *, weights: bool = True) -> OpenClipCheckpoint:
    """Load a dual encoder in open_clip's layout from the files that `hub.find_files` gives.

    weights: False to do without the files of weights: the model is on the device "meta", good for
        looking at only, and `identity` is empty.
    Raises CheckpointError.
    """
    folder = files.folder
    check_files(folder)
    path = folder / CONFIGS["open_clip"]
    content = read_object(path)
    config = _safe_config(content, path)
    if weights:
        check_weights(files)
    open_clip = import_open_clip(str(folder))
    with _quiet():
        try:
            with torch.device("cpu" if weights else "meta"):
                model = _build(open_clip, config, folder)
            if weights:
                _fill(model, files)
            return OpenClipCheckpoint(
                name=files.name,
                model=model.eval().requires_grad_(False),
                tokenizer=_load_tokenizer(config["text_cfg"], folder),
                context_length=config["text_cfg"].get("context_length", 77),
                vocabulary=getattr(model, "vocab_size", 0) or model.text.vocab_size,
                preprocessing=_preprocessing(content.get("preprocess_cfg")),
                negatives=read_negatives(folder / "negatives.json"),
                identity=identity(files, f"open_clip {open_clip.__version__}") if weights else "",
            )
        except CheckpointError:
            raise
        except Exception as error:
            # The libraries raise nearly every type there is for a bad file; all mean the same here.
            raise CheckpointError(
                f"the checkpoint {folder} cannot be loaded ({first_sentence(error)}); {ADVICE}"
            ) from error


def check_kind(files: Files) -> None:
    """Raise CheckpointError if the configuration or this installation tells that it won't load."""
    path = files.folder / CONFIGS["open_clip"]
    _safe_config(read_object(path), path)
    import_open_clip(files.name)


def import_open_clip(name: str) -> Any:
    """The library. Raises CheckpointError, for the model called `name`, where it is missing."""
    allow_any_torchvision()
    try:
        import open_clip
    except ImportError as error:
        raise CheckpointError(f"{name} is a model of open_clip; {INSTALL} to use it") from error
    return open_clip


def tagged_repository(name: str) -> str:
    """The hub id behind ``open_clip:ARCHITECTURE/TAG``, from open_clip's own table.

    Raises CheckpointError where the table has no such entry or no hub id for it.
    """
    open_clip = import_open_clip(name)
    architecture, _, tag = name.removeprefix(PREFIX).partition("/")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not tags:
        raise CheckpointError(
            f"open_clip has no pretrained architecture {architecture!r}; give "
            f"{PREFIX}ARCHITECTURE/TAG, as open_clip.list_pretrained() has them"
        )
    entry = open_clip.get_pretrained_cfg(architecture, tag)
    if not entry:
        raise CheckpointError(
            f"{f'{tag!r} is no tag' if tag else 'name a tag'} of open_clip's {architecture}, as in "
            f"{PREFIX}{architecture}/{tags[0]}; it has {', '.join(tags)}"
        )
    # The last part is a file's name, or empty.
    repository: str = entry.get("hf_hub", "").rpartition("/")[0]
    if not repository:
        raise CheckpointError(
            f"open_clip knows no hub model for {name}, only a web address of a pickle; choose "
            "another tag, or download it and save it in open_clip's layout"
        )
    return repository


def _safe_config(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The model's configuration without what could run code or bring in another repository."""
    config = content.get("model_cfg")
    towers = ("vision_cfg", "text_cfg")
    if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in towers):
        raise CheckpointError(f"{path} describes no model_cfg with two towers; {ADVICE}")
    vision, text = dict(config["vision_cfg"]), dict(config["text_cfg"])
    trunk = vision.get("timm_model_name")
    if trunk is not None and not (isinstance(trunk, str) and _TIMM_NAME.fullmatch(trunk)):
        raise CheckpointError(
            f"{path} takes its image tower {trunk!r} from another place, which is never done; "
            f"{ADVICE}"
        )
    tower = text.get("hf_model_name")
    if tower is not None and _text_tower(tower) is None:
        raise CheckpointError(
            f"{path} takes its text tower {tower!r} from another repository, which is never done "
            f"(known without are {', '.join(TEXT_TOWERS)}); {ADVICE}"
        )
    vision.pop("timm_model_pretrained", None)  # these two fetch what the weights replace
    text.pop("hf_model_pretrained", None)
    settings = text.pop("tokenizer_kwargs", None) or {}
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} has tokenizer_kwargs that are no JSON object")
    text["tokenizer_kwargs"] = {
        key: value for key, value in settings.items() if key in _TOKENIZER_SETTINGS
    }
    return config | {"vision_cfg": vision, "text_cfg": text}


def _text_tower(name: object) -> dict[str, Any] | None:
    """The configuration of a text tower of transformers that is known by its repository."""
    return TEXT_TOWERS.get(str(name).removeprefix("FacebookAI/").removeprefix("google-bert/"))


def _build(open_clip: Any, config: dict[str, Any], folder: Path) -> Any:
    """The model with random weights."""
    import timm

    config = dict(config)
    vision, text = config["vision_cfg"], dict(config["text_cfg"])
    custom = config.pop("custom_text", False)
    trunk = vision.get("timm_model_name")
    if trunk is not None and not timm.is_model(trunk.partition(".")[0]):
        raise CheckpointError(
            f"the timm that is installed ({timm.__version__}) does not know {trunk!r}, the image "
            f"tower of {folder}; install a newer one"
        )
    with tempfile.TemporaryDirectory() as tower:
        if "hf_model_name" in text:
            settings = _text_tower(text["hf_model_name"])
            (Path(tower) / "config.json").write_text(json.dumps(settings), encoding="utf-8")
            text |= {"hf_model_name": tower, "hf_model_pretrained": False}
        kind = "CLIP"
        if custom or "hf_model_name" in text:
            kind = "CoCa" if "multimodal_cfg" in config else "CustomTextCLIP"
        return getattr(open_clip, kind)(**config | {"text_cfg": text})


def _fill(model: Any, files: Files) -> None:
    """Put the checkpoint's weights into the model, every one of them."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    weights = convert_state_dict(model, _read_weights(files))
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    own = model.state_dict()
    for scalar in ("logit_scale", "logit_bias"):  # saved with one dimension or with none
        if scalar in weights and scalar in own:
            weights[scalar] = weights[scalar].reshape(own[scalar].shape)
    shared = own.keys() & weights.keys()
    check_loaded(
        files,
        mismatched=[
            (key, weights[key].shape, own[key].shape)
            for key in shared
            if weights[key].shape != own[key].shape
        ],
        missing=sorted(own.keys() - shared),
    )
    if foreign := sorted(key for key in weights.keys() - shared if "position_ids" not in key):
        raise CheckpointError(
            f"{files.folder}: {len(foreign)} weights ({foreign[0]} is the first) have no place in "
            f"the model that {CONFIGS['open_clip']} describes; the two are not of one checkpoint"
        )
    model.load_state_dict({key: weights[key] for key in shared}, strict=False)


def _read_weights(files: Files) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    for name in files.layout.weights:
        path = files.folder / name
        if not files.layout.pickled:
            weights |= load_file(path)
            continue
        content = torch.load(path, map_location="cpu", weights_only=True)
        content = content.get("state_dict", content)  # what training saves
        weights |= {key.removeprefix("module."): value for key, value in content.items()}
    return weights


def _load_tokenizer(text: dict[str, Any], folder: Path) -> Any:
    """The tokenizer, from the folder's own files or open_clip's own vocabulary."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    settings = text["tokenizer_kwargs"]
    length = text.get("context_length", 77)
    if not text.get("hf_tokenizer_name"):
        clean = {key: value for key, value in settings.items() if key == "clean"}
        return SimpleTokenizer(context_length=length, **clean)
    try:
        return HFTokenizer(
            str(folder),
            context_length=length,
            tokenizer_mode=text.get("tokenizer_mode"),
            trust_remote_code=False,
            local_files_only=True,
            **settings,
        )
    except Exception as error:
        raise CheckpointError(
            f"{folder} has no usable tokenizer ({first_sentence(error)}); "
            "save the model's tokenizer into the folder"
        ) from error


def _preprocessing(config: object) -> dict[str, Any]:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    given = config if isinstance(config, dict) else {}
    return {
        "mean": tuple(given.get("mean") or OPENAI_DATASET_MEAN),
        "std": tuple(given.get("std") or OPENAI_DATASET_STD),
        "interpolation": given.get("interpolation") or "bicubic",
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' notes for developers off a user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
