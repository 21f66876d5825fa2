"""Weights of tiny pipelines under the names of the programs that published the families: checkpoint files.

The names are those of CompVis/stable-diffusion, Stability-AI/generative-models, mlfoundations/open_clip and
Tongyi-MAI/Z-Image.
"""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]

_RESNET = [
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
]
_UNET = [
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^add_embedding\.linear_1\.", "label_emb.0.0."),
    (r"^add_embedding\.linear_2\.", "label_emb.0.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
]
_VAE = [
    (r"\.down_blocks\.(\d+)\.resnets\.(\d+)", r".down.\1.block.\2"),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0", r".down.\1.downsample"),
    (r"\.up_blocks\.(\d+)\.resnets\.(\d+)", r".up.\1.block.\2"),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0", r".up.\1.upsample"),
    (r"\.mid_block\.resnets\.0", ".mid.block_1"),
    (r"\.mid_block\.resnets\.1", ".mid.block_2"),
    (r"\.mid_block\.attentions\.0", ".mid.attn_1"),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_q\.", ".q."),
    (r"\.to_k\.", ".k."),
    (r"\.to_v\.", ".v."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
]
_OPEN_CLIP = [
    (r"^text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.", ".attn."),
    (r"^text_projection\.weight", "text_projection"),
]


def stable_diffusion_file(pipe: Any) -> Weights:
    """Return the weights of a Stable Diffusion 1 as its checkpoint files hold them."""
    clip = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in _weights(pipe.text_encoder)}
    return {
        **_prefixed("model.diffusion_model.", unet(pipe.unet)),
        **_prefixed("first_stage_model.", autoencoder(pipe.vae)),
        **_prefixed("cond_stage_model.transformer.", clip),
    }


def stable_diffusion_xl_file(pipe: Any) -> Weights:
    """Return the weights of an SDXL as its checkpoint files hold them."""
    clip = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in _weights(pipe.text_encoder)}
    return {
        **_prefixed("model.diffusion_model.", unet(pipe.unet)),
        **_prefixed("first_stage_model.", autoencoder(pipe.vae)),
        **_prefixed("conditioner.embedders.0.transformer.", clip),
        **_prefixed("conditioner.embedders.1.model.", open_clip(pipe.text_encoder_2)),
    }


def unet(model: Any) -> Weights:
    """Return the weights of a UNet; its blocks are counted through in the original."""
    size, has_attention = (
        model.config.layers_per_block + 1,
        [kind[:5] == "Cross" for kind in model.config.up_block_types],
    )

    def counted(match: re.Match[str]) -> str:
        way, block, kind, layer = match[1], int(match[2]), match[3], int(match[4])
        if way == "down" and kind == "downsamplers":
            return f"input_blocks.{(block + 1) * size}.0.op"
        if way == "down":
            return f"input_blocks.{1 + block * size + layer}.{'01'[kind == 'attentions']}"
        if kind == "upsamplers":
            return f"output_blocks.{(block + 1) * size - 1}.{1 + has_attention[block]}.conv"
        return f"output_blocks.{block * size + layer}.{'01'[kind == 'attentions']}"

    made = {}
    for name, value in _weights(model):
        is_resnet = ".resnets." in name
        name = re.sub(r"^(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(?:\.conv(?=\.(?:weight|bias)$))?", counted, name)
        made[_renamed(name, [*_UNET, *(_RESNET if is_resnet else [])])] = value
    return made


def autoencoder(model: Any) -> Weights:
    """Return the weights of an autoencoder; blocks of its decoder are counted from the other end in the original."""
    last = len(model.config.block_out_channels) - 1
    made = {}
    for name, value in _weights(model):
        name = re.sub(r"\.up_blocks\.(\d+)", lambda match: f".up_blocks.{last - int(match[1])}", name)
        is_attention = ".attentions." in name and value.ndim == 2  # convolutions in the original
        made[_renamed(name, _VAE)] = value[:, :, None, None] if is_attention else value
    return made


def open_clip(model: Any) -> Weights:
    """Return the weights of a CLIP; query, key and value are one matrix in the original."""
    weights, made = dict(_weights(model)), {}
    for name, value in weights.items():
        if (match := re.search(r"\.([qkv])_proj\.(weight|bias)$", name)) is None:
            made[_renamed(name, _OPEN_CLIP)] = value.T if name == "text_projection.weight" else value
        elif match[1] == "q":
            parts = [weights[name.replace(".q_proj.", f".{letter}_proj.")] for letter in "qkv"]
            together = name.replace(match[0], f".in_proj_{match[2]}")
            made[_renamed(together, _OPEN_CLIP)] = torch.cat(parts)
    return made


def z_image(model: Any) -> Weights:
    """Return the weights of a Z-Image's transformer; query, key and value are one matrix in the original."""
    weights, made = dict(_weights(model)), {}
    names = [
        (r"^all_final_layer\.2-1\.", "final_layer."),
        (r"^all_x_embedder\.2-1\.", "x_embedder."),
        (r"\.attention\.to_out\.0\.", ".attention.out."),
        (r"\.attention\.norm_([qk])\.", r".attention.\1_norm."),
    ]
    for name, value in weights.items():
        if ".attention.to_q." in name:
            parts = [weights[name.replace(".to_q.", f".to_{letter}.")] for letter in "qkv"]
            made[name.replace(".to_q.", ".qkv.")] = torch.cat(parts)
        elif ".attention.to_k." not in name and ".attention.to_v." not in name:
            made[_renamed(name, names)] = value
    return _prefixed("model.diffusion_model.", made)


def _weights(model: Any) -> Iterable[tuple[str, Tensor]]:
    return model.state_dict().items()


def _renamed(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, original in rules:
        name = re.sub(pattern, original, name)
    return name


def _prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value.contiguous() for name, value in weights.items()}
