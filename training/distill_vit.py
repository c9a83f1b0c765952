"""Teach a small ViT the space of the embedded model, to see ViT tokens work on a trained model.

    python training/distill_vit.py --teacher localize/encoders/emoji --out training/vit

The teacher's embedding teaches the student's, and the teacher's cells teach the student's tokens as
the package reads them (the last block re-wired as in NACLIP). Text tower, tokenizer and negatives
are the teacher's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from crops import Crops
from torch.utils.data import DataLoader
from tower import WIDTH, encode, quicken, to_pixels
from train_emoji import save
from transformers import AutoModel, CLIPVisionConfig, VisionTextDualEncoderConfig
from transformers import VisionTextDualEncoderModel as DualEncoder

from localize.encoders.tokens import token_reader

SEED = 20240502
SIDE = 64
BATCH = 128
PEAK = 1e-3


def make_student(teacher: DualEncoder) -> DualEncoder:
    """An untrained CLIP-like ViT with the teacher's text side, projection of its own."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=5,
        num_attention_heads=6,
        image_size=SIDE,
        patch_size=8,
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, teacher.config.text_config, projection_dim=WIDTH
    )
    student = DualEncoder(config)
    kept = {k: v for k, v in teacher.state_dict().items() if k.startswith(("text_", "logit"))}
    student.load_state_dict(kept, strict=False)
    student.vision_model.set_attn_implementation("eager")  # its backward is the faster one on CPUs
    quicken(student)
    return student


def train(teacher: DualEncoder, student: DualEncoder, steps: int) -> dict[str, Any]:
    """Train the student's image side, in place; returns the record of the run.

    Loss: 1 - cosine with the teacher's embedding, plus the same for tokens; a token on bare
    background counts a fifth.
    """
    torch.manual_seed(SEED)
    read_tokens = token_reader(student)
    assert read_tokens is not None
    weights = [p for n, p in student.named_parameters() if n.startswith("vis")]
    matrices = [p for n, p in student.vision_model.encoder.named_parameters() if p.ndim == 2]
    taken = {id(p) for p in matrices}
    optimizers = [
        torch.optim.Muon(matrices, lr=PEAK, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([p for p in weights if id(p) not in taken], lr=PEAK, weight_decay=0.0),
    ]
    batches = iter(DataLoader(Crops(SEED, SIDE, BATCH), batch_size=None, num_workers=1))
    start, curve = time.monotonic(), []
    for step in range(steps):
        for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
            group["lr"] = PEAK * min(1.0, (step + 1) / 200) * (1 - (step / steps) ** 2)
        batch = next(batches)
        pixels = to_pixels(batch.images)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                pooled, cells = encode(teacher, pixels)
            output = student.get_image_features(pixel_values=pixels)
            tokens = read_tokens(output)
        whole = 1 - F.cosine_similarity(output.pooler_output.float(), pooled, dim=-1)
        each = 1 - F.cosine_similarity(tokens.float(), cells, dim=-1)
        weight = torch.where(batch.cells.sum(1) > 0, 1.0, 0.2)
        dense = (weight * each).sum() / weight.sum()
        student.zero_grad()
        (whole.mean() + dense).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % 100 == 0:
            row = {"step": step + 1, "pooled": whole.mean().item(), "dense": dense.item()}
            row["seconds"] = time.monotonic() - start
            curve.append(row)
            print(
                f"step {step + 1}  pooled {row['pooled']:.3f}  dense {row['dense']:.3f}", flush=True
            )
    seconds = time.monotonic() - start
    return {"samples": steps * BATCH, "seconds": seconds, "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="localize/encoders/emoji")
    parser.add_argument("--out", type=Path, default=Path("training/vit"))
    parser.add_argument("--steps", type=int, default=1500, help="steps of 128 crops")
    parser.add_argument("--text-only", action="store_true", help="keep the image side of --out")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    teacher = AutoModel.from_pretrained(arguments.teacher).eval().requires_grad_(False)
    quicken(teacher)
    student = make_student(teacher)
    if arguments.text_only:
        finished = AutoModel.from_pretrained(arguments.out).state_dict()
        image_side = {k: v for k, v in finished.items() if k.startswith("vis")}
        student.load_state_dict(image_side, strict=False)
        return save(student.eval(), arguments.out, SIDE)
    record = train(teacher, student, arguments.steps)
    save(student.eval(), arguments.out, SIDE)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    text = json.dumps({"seed": SEED, "machine": machine, **record}, indent=1)
    path = Path(__file__).parent / "records" / "vit.json"
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
