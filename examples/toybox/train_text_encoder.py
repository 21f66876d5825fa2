"""Stage "text_encoder": learns what words mean before anything is drawn, as CLIP's text encoder does.

Stable Diffusion reads prompts through a text encoder that was trained on captions first and is frozen from then on.
Ours learns to say which details a caption tells, and to which part of the toy each color belongs. A denoiser that had
to find that out from pixels still ignored colors and all small details after 5,500 steps.
"""

import random
from pathlib import Path
from typing import Any

import torch
from architecture import build_text_encoder, build_tokenizer
from captions import training_caption
from stage_loop import pick_device, train
from torch import nn
from torch.nn import functional
from train_judge import JUDGE_GROUPS
from transformers import CLIPTextModel, CLIPTokenizer
from world import random_toy

BATCH_SIZE = 128
LEARNING_RATE = 1e-3
SHORT_LENGTH = 32
# Padding repeats the end token; denoisers read those states too, so they have to know as much.
NUM_LATER_POSITIONS = 3


def train_text_encoder(work_dir: Path, num_steps: int) -> None:
    """Train the text encoder on captions alone and save it, with its tokenizer, in the work folder."""
    torch.manual_seed(0)
    device = pick_device()
    tokenizer = load_tokenizer(work_dir)
    text_encoder = build_text_encoder(tokenizer)
    # One more class in each group: the caption does not tell this detail.
    sizes = [len(values) + 1 for values in JUDGE_GROUPS.values()]
    model = nn.ModuleDict({"text_encoder": text_encoder, "heads": nn.Linear(128, sum(sizes))}).to(device)
    if device.type == "cpu":
        text_encoder.set_attn_implementation("eager")  # faster here, and not saved

    def compute_loss(step: int) -> torch.Tensor:
        rng = random.Random(f"words-{step}")
        pairs = [training_caption(random_toy(rng), rng) for _ in range(BATCH_SIZE)]
        encoded = tokenizer(
            [one.text for one in pairs], padding="max_length", max_length=SHORT_LENGTH, return_tensors="pt"
        )
        ends = (encoded.input_ids == tokenizer.eos_token_id).int().argmax(dim=1)
        states = model["text_encoder"](encoded.input_ids.to(device))[0]
        later = torch.stack([ends, *(_later(ends, rng) for _ in range(NUM_LATER_POSITIONS))], dim=1).to(device)
        picked = states.gather(1, later.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        targets = torch.tensor([_targets(one.told) for one in pairs], device=device)
        logits = model["heads"](picked).float().split(sizes, dim=-1)
        losses = [
            functional.cross_entropy(group.flatten(0, 1), target.repeat_interleave(later.shape[1]))
            for group, target in zip(logits, targets.unbind(dim=1), strict=True)
        ]
        return torch.stack(losses).mean()

    average: Any = train(
        model, compute_loss, num_steps=num_steps, learning_rate=LEARNING_RATE, work_path=work_dir / "text_encoder.pt"
    )
    average["text_encoder"].save_pretrained(work_dir / "text_encoder")


def load_text_encoder(work_dir: Path) -> CLIPTextModel:
    """The trained text encoder, frozen."""
    return CLIPTextModel.from_pretrained(work_dir / "text_encoder").eval().requires_grad_(False)


def load_tokenizer(work_dir: Path) -> CLIPTokenizer:
    """The tokenizer of the work folder: another process might number equally frequent merges otherwise."""
    path = work_dir / "tokenizer"
    if not path.exists():
        partial_path = work_dir / "tokenizer.partial"
        build_tokenizer().save_pretrained(partial_path)
        partial_path.rename(path)
    tokenizer = CLIPTokenizer.from_pretrained(path)
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)  # else its own files would say where it was loaded from
    return tokenizer


def _later(ends: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """A random position from the end token on, for each caption."""
    return torch.tensor([rng.randrange(end, SHORT_LENGTH) for end in ends.tolist()])


def _targets(told: dict[str, str]) -> list[int]:
    return [values.index(told[group]) if group in told else len(values) for group, values in JUDGE_GROUPS.items()]
