"""Teach a small ViT the space of the embedded model, to see ViT tokens work on a trained model.

    python training/distill_vit.py --out training/vit_pooled
    python training/distill_vit.py --tokens --out training/vit

The teacher's embedding of a crop teaches the student's, as CLIPs are taught: nothing is said of
tokens. With --tokens the teacher's cells teach those as well, as the package reads them (the last
block re-wired as in NACLIP). Text tower, tokenizer and negatives are the teacher's, but for
its background. Stops and goes on at any time (`--state`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from crops import Crops
from torch.utils.data import DataLoader
from tower import WIDTH, encode, quicken, to_pixels
from train_emoji import average, save
from transformers import AutoModel, CLIPVisionConfig, VisionTextDualEncoderConfig
from transformers import VisionTextDualEncoderModel as DualEncoder

from localize.encoders.hugging_face_tokens import token_reader

SEED = 20240502
SIDE = 64
DEPTH = 6
BATCH = 64
PEAK = 1.5e-3
WARMUP = 200
NO_BACKGROUNDS = ()
"""What a student is unsure of it leans towards the teacher's background, which then outdoes what is
there: without that word among its negatives the presence of what is there is .65, with it .25."""


VISION = CLIPVisionConfig(
    hidden_size=WIDTH,
    intermediate_size=4 * WIDTH,
    num_hidden_layers=DEPTH,
    num_attention_heads=6,
    image_size=SIDE,
    patch_size=8,
)


def make_student(teacher: DualEncoder, vision: CLIPVisionConfig = VISION) -> DualEncoder:
    """An untrained CLIP-like ViT with the teacher's text side, projection of its own."""
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, teacher.config.text_config, projection_dim=WIDTH
    )
    student = DualEncoder(config)
    kept = {k: v for k, v in teacher.state_dict().items() if k.startswith(("text_", "logit"))}
    student.load_state_dict(kept, strict=False)
    student.vision_model.set_attn_implementation("eager")  # its backward is the faster one on CPUs
    return student


def rate(step: int, steps: int, cooldown: int) -> float:
    """Learning rate: warm-up, constant, then a linear cooldown to nothing."""
    return PEAK * min(1.0, (step + 1) / WARMUP, (steps - step) / cooldown)


def make_optimizers(student: DualEncoder) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest of the image side."""
    weights = [p for n, p in student.named_parameters() if n.startswith("vis")]
    matrices = [p for n, p in student.vision_model.encoder.named_parameters() if p.ndim == 2]
    taken = {id(p) for p in matrices}
    return [
        torch.optim.Muon(matrices, lr=PEAK, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([p for p in weights if id(p) not in taken], lr=PEAK, weight_decay=0.0),
    ]


def train(
    teacher: DualEncoder, student: DualEncoder, arguments: argparse.Namespace
) -> tuple[DualEncoder, dict[str, Any]]:
    """Train the student's image side; returns its running mean and the record of the run.

    Loss: 1 - cosine with the teacher's embedding; with `arguments.tokens` plus the same for tokens,
    one on bare background counting a fifth.
    """
    torch.manual_seed(SEED)
    read_tokens = token_reader(student)
    assert read_tokens is not None
    mean = deepcopy(student)
    quicken(student)
    optimizers = make_optimizers(student)
    record: dict[str, Any] = {"step": 0, "samples": 0, "seconds": 0.0, "curve": []}
    if arguments.state.exists():
        saved = torch.load(arguments.state, weights_only=True)
        student.load_state_dict(saved["student"])
        mean.load_state_dict(saved["mean"])
        for optimizer, old in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(old)
        record = saved["record"]
    weights = [p for n, p in student.named_parameters() if n.startswith("vis")]
    crops = Crops(SEED, SIDE, BATCH, record["step"])
    batches: Any = iter(DataLoader(crops, batch_size=None, num_workers=1))
    start, losses = time.monotonic() - record["seconds"], []
    for step in range(record["step"], arguments.steps):
        for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
            group["lr"] = rate(step, arguments.steps, arguments.cooldown)
        batch = next(batches)
        pixels = to_pixels(batch.images)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                pooled, cells = encode(teacher, pixels)
            output = student.get_image_features(pixel_values=pixels)
            tokens = read_tokens() if arguments.tokens else None
        loss = 1 - F.cosine_similarity(output.pooler_output.float(), pooled, dim=-1).mean()
        whole = loss.item()
        if tokens is not None:
            weight = torch.where(batch.cells.sum(1) > 0, 1.0, 0.2)
            each = 1 - F.cosine_similarity(tokens.float(), cells, dim=-1)
            loss = loss + (weight * each).sum() / weight.sum()
        student.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average(mean, student, step)
        losses.append(whole)
        record |= {"step": step + 1, "samples": (step + 1) * BATCH}
        record["seconds"] = time.monotonic() - start
        if (step + 1) % 100 == 0:
            row = {key: record[key] for key in ("step", "seconds")}
            record["curve"].append(row | {"pooled": sum(losses) / len(losses)})
            losses = []
            print(record["curve"][-1], flush=True)
            write_state(arguments.state, student, mean, optimizers, record)
    return mean, record


def write_state(
    path: Path,
    student: DualEncoder,
    mean: DualEncoder,
    optimizers: Iterable[torch.optim.Optimizer],
    record: dict[str, Any],
) -> None:
    """Write all that a run needs to go on, in one step."""
    content = {"student": student.state_dict(), "mean": mean.state_dict(), "record": record}
    content["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
    torch.save(content, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="localize/encoders/emoji")
    parser.add_argument("--out", type=Path, default=Path("training/vit_pooled"))
    parser.add_argument("--tokens", action="store_true", help="teach tokens too")
    parser.add_argument("--state", type=Path, default=Path("training/vit.state"))
    parser.add_argument("--steps", type=int, default=2400, help="steps of 64 crops")
    parser.add_argument("--cooldown", type=int, default=600, help="how many of them cool down")
    parser.add_argument("--text-only", action="store_true", help="keep the image side of --out")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    teacher = AutoModel.from_pretrained(arguments.teacher).eval().requires_grad_(False)
    quicken(teacher)
    if arguments.text_only:
        finished = AutoModel.from_pretrained(arguments.out)
        student = make_student(teacher, finished.config.vision_config)
        image_side = {k: v for k, v in finished.state_dict().items() if k.startswith("vis")}
        student.load_state_dict(image_side, strict=False)
        return save(student.eval(), arguments.out, SIDE, NO_BACKGROUNDS)
    student, record = train(teacher, make_student(teacher), arguments)
    save(student.eval(), arguments.out, SIDE, NO_BACKGROUNDS)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    text = json.dumps({"seed": SEED, "machine": machine, **record}, indent=1)
    path = Path(__file__).parent / "records" / f"{arguments.out.name}.json"
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
