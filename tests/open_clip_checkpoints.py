"""Tiny randomly initialised checkpoints in open_clip's layout, for tests.

Real models of open_clip, on towers of its own and of timm, saved the way a hub checkpoint is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from checkpoints import CHARACTERS
from safetensors.torch import save_file
from transformers import Siglip2Tokenizer

WIDTH = 32

_OWN = {"image_size": 32, "layers": 2, "width": WIDTH, "head_width": 8, "patch_size": 8}
_TIMM = {"timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
VISION: dict[str, dict[str, Any]] = {
    "vit": _OWN,
    "vit_deep": _OWN | {"layers": 16},
    "vit_scaled": _OWN | {"ls_init_value": 0.5},
    "clipa": _OWN | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
    "coca": _OWN | {"attentional_pool": True, "attn_pooler_heads": 8, "output_tokens": True},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    # timm's own models for tests, each of another kind
    "timm_token": _TIMM | {"timm_model_name": "test_vit", "image_size": 160},
    "timm_map": _TIMM
    | {
        "timm_model_name": "test_vit3",
        "image_size": 160,
        "timm_pool": "map",
        "timm_proj": None,
    },
    "timm_mean": _TIMM | {"timm_model_name": "test_vit2", "image_size": 160, "timm_pool": "avg"},
    "timm_convolutional": _TIMM | {"timm_model_name": "test_convnext", "image_size": 160},
    "timm_other": _TIMM | {"timm_model_name": "test_efficientnet", "image_size": 160},
    "eva": _TIMM
    | {
        "timm_model_name": "eva02_tiny_patch14_224",
        "image_size": 224,
        "timm_pool": "token",
        "timm_proj": None,
    },
    "perception": _TIMM
    | {
        "timm_model_name": "vit_pe_core_tiny_patch16_384",
        "image_size": 384,
        "timm_pool": "map",
        "timm_proj": None,
    },
    "mobile": _TIMM
    | {
        "timm_model_name": "fastvit_mci0",
        "image_size": 256,
        "timm_pool": "avg",
        "timm_proj": None,
    },
}
_TEXT = {"width": WIDTH, "heads": 4, "layers": 1, "context_length": 16}
_SIGLIP_TEXT = {
    "vocab_size": 100,
    "context_length": 16,
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
    "hf_tokenizer_name": "somebody/model",
    "tokenizer_kwargs": {"clean": "canonicalize"},
}


def tiny_open_clip(folder: str | Path, family: str = "vit", seed: int = 0) -> Path:
    """Save a tiny random dual encoder into `folder` (made if missing); returns it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = model_config(family)
    preprocessing: dict[str, Any] = {}
    if family == "timm_map":  # as SigLIP's are
        preprocessing = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
        _tokenizer().save_pretrained(folder)
    torch.manual_seed(seed)
    settings = dict(config)
    custom = settings.pop("custom_text", False)
    kind = "CoCa" if family == "coca" else "CustomTextCLIP" if custom else "CLIP"
    model = getattr(open_clip, kind)(**settings)
    with torch.no_grad():  # as trained ones have: no all-zero biases
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
    weights = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    content = {"model_cfg": config, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def model_config(family: str) -> dict[str, Any]:
    text = _TEXT | (_SIGLIP_TEXT if family == "timm_map" else {})
    config: dict[str, Any] = {"embed_dim": 24, "vision_cfg": VISION[family], "text_cfg": text}
    if family == "vit":
        return config
    config["custom_text"] = True
    if family == "coca":
        config["text_cfg"] = text | {"embed_cls": True, "output_tokens": True}
        decoder = {"width": WIDTH, "layers": 1, "heads": 4, "context_length": 16}
        config["multimodal_cfg"] = decoder | {"attn_pooler_heads": 4}
    return config


def _tokenizer() -> Siglip2Tokenizer:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *CHARACTERS]
    vocabulary = {word: index for index, word in enumerate(words)}
    return Siglip2Tokenizer(vocab=vocabulary, merges=[], model_max_length=64)
