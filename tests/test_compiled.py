"""Towers compiled with OpenVINO are the same towers, are kept, and are never trusted blindly."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import SIZE, tiny_checkpoint

from localize.cli import main
from localize.cli.shared import USAGE
from localize.encoders import (
    Calibration,
    CompiledEncoder,
    HuggingFaceEncoder,
    check_crop_embeddings,
    compiled,
    graph_cache,
    graphs,
    load_encoder,
)
from localize.encoders.device import cores_to_use

pytestmark = pytest.mark.skipif(
    not graphs.is_installed(), reason="the extra 'openvino' is not installed"
)

TEXTS = ["a cat", "A photo: a Dog!", "", "a cat", "sky."]
FAMILIES = ("clip_deep", "siglip", "convnext", "dinov2_registers")  # one of each kind of tokens


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALIZE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("clip"))


def crops(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def load(folder: Path, dtype: str = "float32", **settings: Any) -> CompiledEncoder:
    encoder = load_encoder(folder, device="cpu", dtype=dtype, compile=True, **settings)
    assert isinstance(encoder, CompiledEncoder)
    return encoder


def calibration(seed: int = 0, pictures: str = "") -> Calibration:
    return Calibration(lambda encoder: crops(24, seed), pictures)


def graphs_in(cache: Path) -> list[Path]:
    return sorted(cache.glob("graph-*"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_encoder_embeds_crops_and_texts_as_torch_does(
    tmp_path: Path, family: str
) -> None:
    folder = tiny_checkpoint(tmp_path / family, family)
    plain = load_encoder(folder, device="cpu", dtype="float32")
    encoder = load(folder)
    for count in (1, 7):
        embeddings, tokens = encoder.encode_crops(crops(count))
        check_crop_embeddings(encoder, embeddings, tokens, count)
        expected_embeddings, expected_tokens = plain.encode_crops(crops(count))
        torch.testing.assert_close(embeddings, expected_embeddings, atol=1e-4, rtol=0)
        torch.testing.assert_close(tokens, expected_tokens, atol=1e-4, rtol=0)
    expected = plain.encode_prompts(TEXTS)
    torch.testing.assert_close(encoder.encode_prompts(TEXTS), expected, atol=1e-4, rtol=0)
    for member in ("image_size", "mean", "std", "logit_scale", "interpolation", "name"):
        assert getattr(encoder, member) == getattr(plain, member)


def test_a_compiled_model_of_open_clip_embeds_as_the_model_itself(tmp_path: Path) -> None:
    pytest.importorskip(
        "open_clip", reason="the extra 'open-clip' is not installed", exc_type=ImportError
    )
    from open_clip_checkpoints import tiny_open_clip

    folder = tiny_open_clip(tmp_path / "vit", "vit")
    plain, encoder = load_encoder(folder, device="cpu", dtype="float32"), load(folder)
    pixels = torch.randn(3, 3, plain.image_size, plain.image_size)
    for one, other in zip(plain.encode_crops(pixels), encoder.encode_crops(pixels), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    expected = plain.encode_prompts(TEXTS)
    torch.testing.assert_close(encoder.encode_prompts(TEXTS), expected, atol=1e-4, rtol=0)


def test_bfloat16_and_int8_stay_close_to_float32(folder: Path) -> None:
    plain = load_encoder(folder, device="cpu", dtype="float32")
    expected = plain.encode_crops(crops(4, seed=5))
    with pytest.warns(UserWarning, match=r"quantized .* to int8 on 16 crops in \d+ s.*cosines"):
        int8 = load(folder, "int8", calibration=calibration())
    for encoder, least in ((load(folder, "bfloat16"), 0.999), (int8, 0.99)):
        for one, other in zip(encoder.encode_crops(crops(4, seed=5)), expected, strict=True):
            assert (one * other).sum(-1).mean() > least


def test_int8_that_loses_too_much_is_refused_with_the_figures(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(compiled, "LEAST_EMBEDDINGS", 1.1)
    with pytest.raises(ValueError, match=r"loses too much in int8.*\(cosines .* 0\.\d+ of emb"):
        load(folder, "int8", calibration=calibration())
    assert not graphs_in(cache)


def test_int8_asks_for_pictures_unless_it_has_been_quantized_on_such(folder: Path) -> None:
    with pytest.raises(ValueError, match="--calibrate"):
        load(folder, "int8")
    with pytest.raises(ValueError, match="takes 8 crops of pictures and more, not 2"):
        load(folder, "int8", calibration=Calibration(lambda encoder: crops(3)))
    with pytest.warns(UserWarning, match="quantized"):
        first = load(folder, "int8", calibration=calibration(pictures="a"))
    for given in (None, calibration(seed=1), calibration(pictures="a")):
        again = load(folder, "int8", calibration=given)
        assert torch.equal(first.encode_crops(crops(2))[0], again.encode_crops(crops(2))[0])
    with pytest.warns(UserWarning, match="quantized"):
        load(folder, "int8", calibration=calibration(seed=1, pictures="b"))


def test_the_second_time_neither_weights_nor_transformers_nor_telemetry_are_loaded(
    folder: Path,
) -> None:
    script = f"""
import sys
from localize.encoders import load_encoder
encoder = load_encoder({str(folder)!r}, device="cpu", dtype="float32", compile=True)
import torch
encoder.encode_crops(torch.zeros(1, 3, {SIZE}, {SIZE}))
encoder.encode_prompts(["a cat"])
print([name for name in ("transformers", "nncf", "openvino_telemetry") if sys.modules.get(name)])
"""
    first, second = (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert "transformers" in first.stdout
    assert "openvino_telemetry" not in first.stdout
    assert second.stdout.strip() == "[]"


def test_a_compiled_encoder_is_pickled_as_the_way_to_load_it_again(folder: Path) -> None:
    encoder = load(folder)
    data = pickle.dumps(encoder)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert isinstance(again, CompiledEncoder)
    assert torch.equal(again.encode_crops(crops(2))[0], encoder.encode_crops(crops(2))[0])


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign"])
def test_a_damaged_or_foreign_graph_is_thrown_away_and_made_again(
    folder: Path, cache: Path, tmp_path: Path, damage: str
) -> None:
    expected, _ = load(folder).encode_crops(crops(2))
    (path,) = graphs_in(cache)
    whole = path.read_bytes()
    if damage == "foreign":
        path.unlink()
        load(tiny_checkpoint(tmp_path / "other", seed=1))
        (other,) = graphs_in(cache)
        other.rename(path)
    else:
        path.write_bytes(whole[:-9] if damage == "cut" else whole[:-9] + bytes(9))
    found, _ = load(folder).encode_crops(crops(2))
    assert torch.equal(found, expected)
    assert graph_cache.read("nothing") is None
    assert [p.stat().st_size for p in graphs_in(cache)] == [len(whole)]


def test_a_changed_checkpoint_gets_a_graph_of_its_own(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "clip")
    before, _ = load(folder).encode_crops(crops(2))
    tiny_checkpoint(folder, seed=1)
    after, _ = load(folder).encode_crops(crops(2))
    expected, _ = load_encoder(folder, device="cpu", dtype="float32").encode_crops(crops(2))
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(before, after, atol=0.01)


def test_graphs_that_have_not_been_used_for_longest_make_room(
    folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder)
    (first,) = graphs_in(cache)
    os.utime(first, (1, 1))
    load(folder)  # used again: no longer the oldest
    assert first.stat().st_mtime > 1
    load(folder, "bfloat16")
    (second,) = set(graphs_in(cache)) - {first}
    os.utime(second, (1, 1))
    monkeypatch.setattr(graph_cache, "MAX_BYTES", int(2.5 * first.stat().st_size))
    load(tiny_checkpoint(tmp_path / "other"))
    assert first in graphs_in(cache)
    assert second not in graphs_in(cache)


def test_where_the_cache_cannot_be_written_the_encoder_works_all_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOCALIZE_CACHE", str(tmp_path / "file"))
    load(folder).encode_crops(crops(1))


def test_a_long_prompt_is_cut_and_warned_of_as_without_compiling(folder: Path) -> None:
    plain, encoder = load_encoder(folder, device="cpu", dtype="float32"), load(folder)
    with pytest.warns(UserWarning, match="prompts over 40 tokens are cut"):
        found = encoder.encode_prompts(["cat " * 80])
    with pytest.warns(UserWarning, match="are cut"):
        torch.testing.assert_close(found, plain.encode_prompts(["cat " * 80]), atol=1e-4, rtol=0)


def test_towers_that_openvino_cannot_take_are_left_to_torch(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "siglip2", "siglip2")
    with pytest.raises(ValueError, match="cannot be used in int8"):
        load_encoder(folder, device="cpu", dtype="int8", calibration=calibration())


def test_without_the_extra_compiling_is_left_to_torch_and_int8_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(HuggingFaceEncoder, "_compile", lambda self: None)  # takes half a minute
    with pytest.warns(UserWarning, match=r"clip-localize\[openvino\]"):
        encoder = load_encoder(folder, device="cpu", dtype="float32", compile=True)
    assert isinstance(encoder, HuggingFaceEncoder)
    assert main(["evaluate", "--scenes", "1", "--dtype", "int8"]) == USAGE
    said = capsys.readouterr().err
    assert "pip install 'clip-localize[openvino]'" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_formats_that_graphs_have_not_are_refused(folder: Path, dtype: str) -> None:
    with pytest.raises(ValueError, match=f"dtype '{dtype}' cannot be compiled for a CPU"):
        load_encoder(folder, device="cpu", dtype=dtype, compile=True)


def test_threads_are_held_to_the_control_group_and_to_what_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    free = cores_to_use(tmp_path)
    assert 1 <= free <= (os.cpu_count() or 1)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores_to_use(tmp_path) == free
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert cores_to_use(tmp_path) == 1
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores_to_use(tmp_path) == free
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    assert cores_to_use(tmp_path) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cores_to_use(tmp_path) == 3


def test_a_graph_computes_on_no_more_threads_than_the_user_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = os.cpu_count() or 1
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert 1 <= load(folder).threads <= cores
    monkeypatch.setenv("OMP_NUM_THREADS", str(max(1, cores // 2)))
    assert load(folder).threads <= max(1, cores // 2)
