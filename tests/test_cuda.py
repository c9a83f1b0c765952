"""On a GPU: the same answers as on the CPU, recorded towers, batches under way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import SIZE, tiny_checkpoint

from localize import Localizer, Options
from localize.encoders import HuggingFaceEncoder, load_encoder
from localize.encoders.checkpoint import load_checkpoint
from localize.encoders.cuda_graph import CudaGraph
from localize.encoders.hub import find_files
from localize.evaluation.scenes import demo_scene

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("clip"))


def crops(count: int) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(count))


def test_a_recorded_function_gives_each_thread_the_results_of_its_own_rows() -> None:
    def run(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return rows * 2, rows.cumsum(1)

    graph = CudaGraph(run, torch.zeros(8, 1000, device="cuda"))

    def same(seed: int) -> bool:
        rows = torch.full((1 + seed % 8, 1000), float(seed), device="cuda")
        first, second = graph(rows)
        return torch.equal(first, rows * 2) and torch.equal(second, rows.cumsum(1))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, range(200)))


@pytest.mark.parametrize("count", [1, 64, 100])
def test_a_compiled_tower_on_a_gpu_embeds_as_the_tower_itself(folder: Path, count: int) -> None:
    plain = load_encoder(folder, device="cpu", dtype="float32")
    compiled = load_encoder(folder, device="cuda", dtype="float32", compile=True)
    for found, expected in zip(
        compiled.encode_crops(crops(count)), plain.encode_crops(crops(count)), strict=True
    ):
        torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=0)


def test_a_compiled_tower_is_replayed_as_one_graph_in_whichever_thread_asks(folder: Path) -> None:
    compiled = load_encoder(folder, device="cuda", dtype="float32", compile=True)
    assert isinstance(compiled._compiled, CudaGraph)
    pixels = crops(5)
    expected = compiled.encode_crops(pixels)[0]
    with ThreadPoolExecutor(4) as pool:
        for embeddings, _ in pool.map(compiled.encode_crops, [pixels] * 40):
            assert torch.equal(embeddings, expected)


def test_a_tower_that_asks_the_cpu_is_compiled_without_a_graph(folder: Path) -> None:
    class Asking(HuggingFaceEncoder):
        def run_tower(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            embeddings, tokens = super().run_tower(pixels)
            return embeddings * (2.0 if embeddings.sum().item() > 0 else 1.0), tokens

    checkpoint = load_checkpoint(find_files(folder))
    with pytest.warns(UserWarning, match="cannot be recorded as a CUDA graph"):
        compiled = Asking(checkpoint, device="cuda", dtype="float32", compile=True)
    assert not isinstance(compiled._compiled, CudaGraph)
    expected = load_encoder(folder, device="cpu", dtype="float32").encode_crops(crops(3))[0]
    torch.testing.assert_close(
        compiled.encode_crops(crops(3))[0].cpu(), expected, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_pictures_encoded_on_a_gpu_are_those_encoded_on_the_cpu(batch_size: int) -> None:
    pictures = [np.asarray(demo_scene().image), np.full((90, 240, 3), 80, np.uint8)] * 2
    there = Localizer.from_pretrained(
        "emoji", device="cuda", dtype="float32", options=Options(batch_size=batch_size)
    )
    here = Localizer.from_pretrained("emoji", device="cpu", dtype="float32")
    found = list(there.encode_many(pictures))
    assert len(found) == len(pictures)
    for one, other in zip(found, here.encode_many(pictures), strict=True):
        assert one.source is other.source
        assert one.embeddings.device.type == "cpu"
        torch.testing.assert_close(one.embeddings, other.embeddings, atol=0.02, rtol=0)
        assert one.tokens is not None
        assert other.tokens is not None
        torch.testing.assert_close(one.tokens, other.tokens, atol=0.05, rtol=0)


def test_answers_on_a_gpu_are_those_on_the_cpu() -> None:
    scene = demo_scene()
    names = sorted({name for name, _ in scene.objects})
    there, here = (
        Localizer.from_pretrained("emoji", device=device).locate(scene.image, names)
        for device in ("cuda", "cpu")
    )
    assert there.presence == pytest.approx(here.presence, abs=0.03)
    assert [box.label for box in there.boxes] == [box.label for box in here.boxes]
    for one, other in zip(there.boxes, here.boxes, strict=True):
        assert one.xyxy == pytest.approx(other.xyxy, abs=8)
