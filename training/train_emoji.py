"""Train the embedded model: image tower first, then the text tower onto its prototypes.

    python training/train_emoji.py --out localize/encoders/emoji
    python training/train_emoji.py --images localize/encoders/emoji   # the text side alone, anew

Stops and resumes at any time (the state lies in ``--state``); ends with the model in ``--out`` and
a record of the run in ``training/records/``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve on a busy machine
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from crops import Batch, Crops
from phrases import NEGATIVE_BACKGROUNDS
from text import make_tokenizer, prototypes_of, train_text
from torch.utils.data import DataLoader
from tower import MEAN, STD, WIDTH, losses, make_model, quicken
from transformers import AutoModel, AutoTokenizer

from localize.evaluation import scenes

SEED = 20240501
BATCH = 128
PEAK = 3e-3
WARMUP = 400
EMA = 0.998
POOLED = 2.5
"""Weight of the pooled loss beside the dense one."""
SIDE = 96
"""Side of the crops that the finished model takes, in pixels."""


def rate(step: int, steps: int, cooldown: int) -> float:
    """Learning rate: warm-up, constant, then a cooldown along 1 - sqrt (arXiv 2405.18392)."""
    if step < WARMUP:
        return PEAK * (step + 1) / WARMUP
    left = steps - step
    return PEAK if left > cooldown else PEAK * (1 - (1 - left / cooldown) ** 0.5)


def average(mean: torch.nn.Module, model: torch.nn.Module, step: int) -> None:
    """Move the running mean of the weights one step."""
    decay = min(EMA, (1 + step) / (10 + step))
    with torch.no_grad():
        for old, new in zip(mean.parameters(), model.parameters(), strict=True):
            old.lerp_(new, 1 - decay)


class Run(torch.nn.Module):
    """All that stage 1 trains: the dual encoder's image side and a prototype for each name.

    The last prototype stands for everything that is no object.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = make_model(vocabulary=8)  # the text side comes in stage 2
        self.prototypes = torch.nn.Parameter(torch.randn(len(scenes.concepts()) + 1, WIDTH))

    def trained(self) -> list[torch.nn.Parameter]:
        image = [p for n, p in self.model.named_parameters() if not n.startswith("text_")]
        return [*image, self.prototypes]


def make_optimizers(run: Run) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024; learning rates as AdamW's, arXiv 2502.16982) for the matrices, AdamW for
    the rest."""
    matrices = [p for n, p in run.named_parameters() if "vision_model" in n and p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [p for p in run.trained() if id(p) not in taken]
    return [
        torch.optim.Muon(matrices, lr=PEAK, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=PEAK, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def train_images(arguments: argparse.Namespace) -> tuple[Run, dict[str, Any]]:
    """Stage 1. Returns the averaged weights and the record of the run."""
    torch.manual_seed(SEED)
    run = Run()
    run.model.vision_model.to(memory_format=torch.channels_last)
    mean = deepcopy(run)
    quicken(run.model)
    optimizers = make_optimizers(run)
    record: dict[str, Any] = {"step": 0, "samples": 0, "seconds": 0.0, "curve": []}
    state = Path(arguments.state)
    if state.exists():
        saved = torch.load(state, weights_only=True)
        run.load_state_dict(saved["run"])
        mean.load_state_dict(saved["mean"])
        for optimizer, old in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(old)
        record = saved["record"]
    start = time.monotonic() - record["seconds"]
    smooth = [0.0, 0.0, 0.0]
    for step, batch in enumerate_batches(record["step"], arguments):
        for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
            group["lr"] = rate(step, arguments.steps, arguments.cooldown)
        with torch.autocast("cpu", torch.bfloat16):
            dense, whole = losses(run.model, run.prototypes, batch)
        run.zero_grad()
        (dense + POOLED * whole).backward()
        torch.nn.utils.clip_grad_norm_(run.trained(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average(mean, run, step)
        record["step"], record["samples"] = step + 1, record["samples"] + len(batch.images)
        record["seconds"] = time.monotonic() - start
        smooth = [s + v for s, v in zip(smooth, (dense.item(), whole.item(), 1), strict=True)]
        if record["step"] % 100 == 0 or record["step"] == arguments.steps:
            row = {key: record[key] for key in ("step", "samples", "seconds")}
            row |= {"dense": smooth[0] / smooth[2], "pooled": smooth[1] / smooth[2]}
            record["curve"].append(row)
            smooth = [0.0, 0.0, 0.0]
            scale = run.model.logit_scale.exp().item()
            print(
                f"step {row['step']}  {row['samples'] / row['seconds']:.0f} crops/s  "
                f"dense {row['dense']:.3f}  pooled {row['pooled']:.3f}  scale {scale:.1f}",
                flush=True,
            )
        if record["step"] % 250 == 0 or record["step"] == arguments.steps:
            content = {"run": run.state_dict(), "mean": mean.state_dict(), "record": record}
            content["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
            torch.save(content, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)
    return mean, record


def enumerate_batches(first: int, arguments: argparse.Namespace) -> Any:
    """Steps and batches from ``first`` on: crops of 64 pixels, and of 96 in the cooldown."""
    turn = arguments.steps - arguments.cooldown
    for begin, end, size in ((first, turn, 64), (max(first, turn), arguments.steps, SIDE)):
        if begin < end:
            crops = Crops(SEED, size, BATCH, begin)
            loader = DataLoader(crops, batch_size=None, num_workers=1, prefetch_factor=6)
            batches: Any = iter(loader)
            for step in range(begin, end):
                batch: Batch = next(batches)
                yield step, batch


def finished_images(folder: str) -> Run:
    """Stage 1 of a finished model, as far as it can be had: its image side and its prototypes."""
    model = AutoModel.from_pretrained(folder).eval()
    run = Run()
    image_side = {k: v for k, v in model.state_dict().items() if not k.startswith("text_")}
    run.model.load_state_dict(image_side, strict=False)
    with torch.no_grad():
        run.prototypes.copy_(prototypes_of(model, AutoTokenizer.from_pretrained(folder)))
    return run


def finish(images: Run, steps: int) -> tuple[Any, dict[str, Any]]:
    """Stage 2: the whole model, its text side trained onto the prototypes, and the record."""
    model = make_model(vocabulary=len(make_tokenizer()))
    image_side = {k: v for k, v in images.model.state_dict().items() if not k.startswith("text_")}
    model.load_state_dict(image_side, strict=False)
    record = train_text(model, images.prototypes, steps, SEED)
    return model, record


def save(model: Any, folder: Path, side: int, backgrounds: Sequence[str]) -> None:
    """Write what ``AutoModel``, ``AutoTokenizer`` and ``AutoImageProcessor`` read, and the
    negatives: all names, and phrases of the background."""
    # Half the size on disk; the config has everybody load it in float32.
    halves = {name: value.half() for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=halves)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for part in (config, config["vision_config"], config["text_config"]):
        part["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    make_tokenizer().save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    bank = [concept.name for concept in scenes.concepts()] + list(backgrounds)
    for name, content in (("preprocessor_config.json", processor), ("negatives.json", bank)):
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="localize/encoders/emoji", help="folder of the model")
    parser.add_argument("--images", metavar="FOLDER", help="a model whose image side is kept")
    parser.add_argument("--state", default="training/emoji.state", help="where to resume from")
    parser.add_argument("--steps", type=int, default=14600, help="steps of 128 crops")
    parser.add_argument("--cooldown", type=int, default=1300, help="how many of them cool down")
    parser.add_argument("--text-steps", type=int, default=1200, help="steps of 256 phrases")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    path = Path(__file__).parent / "records" / "emoji.json"
    if arguments.images:
        images, record = finished_images(arguments.images), json.loads(path.read_text())["images"]
    else:
        images, record = train_images(arguments)
    model, text_record = finish(images, arguments.text_steps)
    save(model, Path(arguments.out), SIDE, NEGATIVE_BACKGROUNDS)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    whole = {"seed": SEED, "machine": machine, "images": record, "text": text_record}
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
