"""What `localize bench` compares, and what it reports; no figure of speed is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import SIZE, tiny_checkpoint
from PIL import Image

from localize.bench import (
    PROMPTS,
    SIZES,
    batched_loop,
    make_photo,
    published_loop,
    random_checkpoint,
)
from localize.cli import main
from localize.cli.shared import DONE, USAGE
from localize.encoders import HuggingFaceEncoder
from localize.encoders.checkpoint import load_checkpoint
from localize.encoders.hub import find_files
from localize.localizer import Localizer
from localize.options import Options

PROMPT = "two dogs on a bench"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def encoder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> HuggingFaceEncoder:
    monkeypatch.setenv("LOCALIZE_CACHE", str(tmp_path))
    return HuggingFaceEncoder(
        load_checkpoint(find_files(checkpoint)), device="cpu", dtype="float32"
    )


def windows_of_native_size(
    encoder: HuggingFaceEncoder,
) -> tuple[np.ndarray, torch.Tensor, list[tuple[int, int, int, int]]]:
    """A picture, its windows' embeddings by `encode`, and the windows; none needs resizing."""
    pixels = make_photo(3)[: 2 * SIZE, : 3 * SIZE]
    encoded = Localizer(encoder, Options(scales=(float(SIZE),), stride=0.5)).encode(pixels)
    windows = [tuple(box) for box in encoded.boxes.round().astype(int).tolist()]
    return pixels, encoded.embeddings[1:], windows[1:]


def test_the_published_loop_scores_native_size_windows_as_encode_does(checkpoint, encoder):
    pixels, embeddings, windows = windows_of_native_size(encoder)
    loop = published_loop(
        load_checkpoint(find_files(checkpoint)), Image.fromarray(pixels), windows, PROMPT
    )
    ours = encoder.logit_scale * embeddings @ encoder.encode_prompts([PROMPT])[0]
    assert len(loop) == len(windows) > 8
    np.testing.assert_allclose(loop, ours.numpy(), atol=1e-3)


def test_the_batched_loop_embeds_native_size_windows_as_encode_does(checkpoint, encoder):
    pixels, embeddings, windows = windows_of_native_size(encoder)
    processor = load_checkpoint(find_files(checkpoint)).image_processor
    loop = batched_loop(encoder, processor, Image.fromarray(pixels), windows, batch_size=4)
    torch.testing.assert_close(loop, embeddings, atol=1e-4, rtol=0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a random model that is quick to make."""
    vision = {"hidden_size": 64, "num_hidden_layers": 1, "patch_size": 32}
    monkeypatch.setitem(SIZES, "small", {"vision": vision, "text": {"hidden_size": 64}})
    return "small"


def test_random_texts_are_no_synonyms_of_each_other(small, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALIZE_CACHE", str(tmp_path))
    encoder = HuggingFaceEncoder(random_checkpoint(small), device="cpu", dtype="float32")
    texts = encoder.encode_prompts(["a dog", "a cat", "a photo of sky", "thing400", "thing401"])
    cosines = texts @ texts.T - torch.eye(len(texts))
    assert cosines.max() < 0.9


def test_random_weights_are_the_same_each_time_and_leave_the_random_state_alone(small):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = (random_checkpoint(small).model.visual_projection.weight for _ in "ab")
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_a_quick_bench_prints_every_row_and_writes_json(checkpoint, tmp_path, capsys):
    target = tmp_path / "bench.json"
    assert main(["bench", "--quick", "--model", str(checkpoint), "--json", str(target)]) == DONE
    report = json.loads(target.read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    names = [row["name"] for row in report["rows"]]
    assert names == [
        "encoder alone",
        "encode",
        "Hugging Face, batched",
        "published loop",
        "files on disk",
    ]
    for name in [*names, "matrix product", "asking again", "peak memory"]:
        assert name in printed
    for name in report["ratios"]:
        assert name in printed
    assert report["settings"]["crops"] == 59
    assert all(report["prompts"][f"locate_{number}_s"] > 0 for number in PROMPTS)
    assert 0 < report["ceiling"]["share"] < 1
    assert {"date", "processor", "threads", "torch", "transformers"} <= report["machine"].keys()


def test_a_bench_of_a_folder_without_pictures_is_a_usage_error(tmp_path, capsys):
    assert main(["bench", "--quick", "--photos", str(tmp_path)]) == USAGE
    assert str(tmp_path.name) in capsys.readouterr().err


def test_a_bench_in_int8_names_the_one_that_measures_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "--quick", "--dtype", "int8"]) == USAGE
    assert "localize bench --formats" in capsys.readouterr().err


def test_a_bench_of_formats_shows_the_speed_and_the_accuracy_of_each(checkpoint, tmp_path, capsys):
    target = tmp_path / "formats.json"
    command = ["bench", "--formats", "--quick", "--model", str(checkpoint), "--json", str(target)]
    assert main(command) == DONE
    report = json.loads(target.read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    rows = {row["name"]: row for row in report["rows"]}
    assert {"torch float32", "published loop"} <= rows.keys()
    for name in [*rows, *report["missing"]]:
        assert name in printed
    for name, row in rows.items():
        assert row["times_as_fast_as"][name] == 1
        assert name == "published loop" or (row["embeddings"] > 0.98 and row["tokens"] > 0.98)
