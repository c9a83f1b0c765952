"""An image tower compiled with torch is the same tower, or is refused in one sentence."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from checkpoints import SIZE, tiny_checkpoint

from localize.encoders import HuggingFaceEncoder, load_encoder
from localize.encoders.checkpoint import load_checkpoint
from localize.encoders.hub import find_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("clip"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALIZE_CACHE", str(tmp_path / "cache"))


needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="compiling needs a C++ compiler"
)


@needs_compiler
def test_a_compiled_tower_embeds_as_the_tower_itself_whatever_the_number_of_crops(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localize.encoders.towers.COMPILED_BATCH", 4)
    plain = load_encoder(folder, device="cpu", dtype="float32")
    checkpoint = load_checkpoint(find_files(folder))
    compiled = HuggingFaceEncoder(checkpoint, device="cpu", dtype="float32", compile=True)
    crops = torch.randn(7, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for count in (1, 4, 7):
        embeddings, tokens = compiled.encode_crops(crops[:count])
        expected_embeddings, expected_tokens = plain.encode_crops(crops[:count])
        torch.testing.assert_close(embeddings, expected_embeddings, atol=1e-4, rtol=0)
        torch.testing.assert_close(tokens, expected_tokens, atol=1e-4, rtol=0)


@needs_compiler
def test_a_tower_is_compiled_once_and_not_again_in_the_middle_of_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    monkeypatch.setattr("localize.encoders.towers.COMPILED_BATCH", 4)
    checkpoint = load_checkpoint(find_files(folder))
    compiled = HuggingFaceEncoder(checkpoint, device="cpu", dtype="float32", compile=True)
    monkeypatch.setattr("torch._dynamo.config.error_on_recompile", True)
    compiled.encode_crops(torch.randn(3, 3, SIZE, SIZE))
    with ThreadPoolExecutor(1) as other:
        other.submit(compiled.encode_crops, torch.randn(7, 3, SIZE, SIZE)).result()


def test_where_compiling_fails_it_is_said_in_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor

    torch.compiler.reset()
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    checkpoint = load_checkpoint(find_files(folder))
    with pytest.raises(ValueError, match="cannot be compiled here") as refused:
        HuggingFaceEncoder(checkpoint, device="cpu", dtype="float32", compile=True)
    assert "\n" not in str(refused.value)
