"""Every layout that repositories on the hub have loads, or is refused in one right sentence.

Each is built from a small random model and served by a hub on the loopback.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import tiny_checkpoint
from hub_server import Hub, Repository, files_of
from safetensors.torch import load
from test_checkpoints import refusal

from localize.encoders import load_encoder
from localize.encoders.hub import CONVERTER, PINNED

Files = dict[str, bytes]


def pickled(files: Files, name: str = "pytorch_model.bin") -> Files:
    """The same weights as a pickle, beside what else old repositories hold."""
    buffer = io.BytesIO()
    torch.save(load(next(files[key] for key in files if key.endswith(".safetensors"))), buffer)
    rest = {key: value for key, value in files.items() if not key.endswith(".safetensors")}
    return rest | {name: buffer.getvalue(), "flax_model.msgpack": b"\0", "tf_model.h5": b"\0"}


def beside_open_clip(files: Files) -> Files:
    """transformers' layout with open_clip's beside it, as LAION has them."""
    weights = files["model.safetensors"]
    return files | {"open_clip_config.json": b"{}", "open_clip_pytorch_model.bin": weights}


def beside_pieces(files: Files) -> Files:
    return files | {"spiece.model": b"not read"}


@pytest.mark.parametrize(
    ("name", "family", "change"),
    [
        ("openai/clip-vit-large-patch14", "clip_deep", lambda files: files),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "clip", beside_open_clip),
        ("google/siglip-base-patch16-224", "siglip", beside_pieces),
        ("google/siglip2-base-patch16-naflex", "siglip2", lambda files: files),
        ("facebook/metaclip-2-worldwide-huge-378", "metaclip_2", lambda files: files),
        ("google/tipsv2-b14", "tipsv2", lambda files: files),
    ],
)
def test_safetensors_of_transformers_load(
    hub: Hub,
    tmp_path: Path,
    name: str,
    family: str,
    change: Callable[[Files], Files],
) -> None:
    expected = tiny_checkpoint(tmp_path / "tiny", family)
    hub.repositories[name] = Repository()
    hub.repositories[name].commit(change(files_of(expected)))
    assert_loads(name, str(expected))
    assert hub.fetched() == set(files_of(expected))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("openai/clip-vit-base-patch32", "clip"),
        ("openai/clip-vit-base-patch16", "clip"),
        ("openai/clip-vit-large-patch14-336", "clip_deep"),
        ("facebook/metaclip-b32-400m", "clip"),
        ("OFA-Sys/chinese-clip-vit-base-patch16", "chinese_clip"),
        ("kakaobrain/align-base", "align"),
        ("BAAI/AltCLIP", "altclip"),
        ("somebody/domain-clip", "vit"),
    ],
)
@pytest.mark.parametrize("conversion", [True, False])
def test_pickles_load_where_they_are_converted_or_the_user_says_so(
    hub: Hub,
    tmp_path: Path,
    name: str,
    family: str,
    conversion: bool,
) -> None:
    expected = tiny_checkpoint(tmp_path / "tiny", family)
    files = files_of(expected)
    hub.repositories[name] = Repository()
    hub.repositories[name].commit(pickled(files))
    if conversion:
        weights = {"model.safetensors": files["model.safetensors"]}
        hub.repositories[name].request(weights, CONVERTER, name=PINNED.get(name))
        assert_loads(name, str(expected))
        assert hub.fetched() == set(files)
    else:
        assert "only pickled weights (pytorch_model.bin)" in refusal(name)
        assert "pytorch_model.bin" not in hub.fetched()
        assert_loads(name, str(expected), unpickle=True)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "vit"),
        ("timm/PE-Core-T-16-384", "timm_map"),
        ("timm/MobileCLIP2-S0-OpenCLIP", "timm_convolutional"),
        ("timm/vit_base_patch16_clip_224.openai", "vit_deep"),
    ],
)
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_open_clips_layout_loads(
    hub: Hub,
    tmp_path: Path,
    name: str,
    family: str,
    ending: str,
) -> None:
    pytest.importorskip("open_clip", reason="needs the extra open-clip")
    from open_clip_checkpoints import tiny_open_clip

    expected = tiny_open_clip(tmp_path / "tiny", family)
    files = files_of(expected)
    if ending == "bin":
        files = pickled(files, "open_clip_pytorch_model.bin")
    files |= {"config.json": b'{"architecture": "vit_base_patch16_clip_224"}'}
    hub.repositories[name] = Repository()
    hub.repositories[name].commit(files)
    if ending == "bin":
        assert "only pickled weights (open_clip_pytorch_model.bin)" in refusal(name)
    assert_loads(name, str(expected), unpickle=ending == "bin")


@pytest.mark.parametrize(
    ("name", "files", "reason"),
    [
        (
            "jinaai/jina-clip-v2",
            {
                "config.json": json.dumps(
                    {"model_type": "jina_clip", "auto_map": {"AutoModel": "modeling.Model"}}
                ).encode(),
                "modeling.py": b"raise SystemExit",
                "model.safetensors": b"",
            },
            "is a 'jina_clip' model, which needs code of its own, which is never run",
        ),
        (
            "facebook/PE-Core-B16-224",
            {"PE-Core-B16-224.pt": b"", "params.json": b"{}"},
            "neither config.json nor open_clip_config.json",
        ),
        (
            "facebook/flava-full",
            {"config.json": b'{"model_type": "flava"}', "pytorch_model.bin": b""},
            "is a 'flava' model, which is no dual encoder",
        ),
        (
            "llava-hf/llava-1.5-7b-hf",
            {"config.json": b'{"model_type": "llava"}', "model.safetensors": b""},
            "is a 'llava' model, which is no dual encoder",
        ),
    ],
)
def test_what_is_no_use_is_refused_before_its_weights_are_fetched(
    hub: Hub,
    name: str,
    files: Files,
    reason: str,
) -> None:
    hub.repositories[name] = Repository()
    hub.repositories[name].commit(files)
    assert reason in refusal(name)
    assert hub.fetched() <= {"config.json"}


def assert_loads(name: str, expected: str, *, unpickle: bool = False) -> None:
    """It loads, and its embeddings are those of the folder that it was made from."""
    found = load_encoder(name, device="cpu", dtype="float32", unpickle=unpickle)
    own = load_encoder(expected, device="cpu", dtype="float32")
    crops = torch.rand(1, 3, own.image_size, own.image_size)
    torch.testing.assert_close(found.encode_crops(crops)[0], own.encode_crops(crops)[0])
    torch.testing.assert_close(found.encode_prompts(["a cat"]), own.encode_prompts(["a cat"]))
