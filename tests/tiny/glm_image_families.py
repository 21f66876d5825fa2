"""Tiny GLM-Image, whose pictures a language model plans, token by token, before they are drawn."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, GlmImagePipeline, GlmImageTransformer2DModel
from transformers import GlmImageConfig, GlmImageForConditionalGeneration, GlmImageProcessor, TokenizersBackend

# The root of the package exports the class that needs torchvision; this is its twin.
from transformers.models.glm_image.image_processing_pil_glm_image import GlmImageImageProcessorPil

from .families import Family, quiet
from .language_models import text_options
from .language_tokenizers import byte_level_tokenizer
from .parts import ONE_STEP, denoiser
from .text import byt5_encoder, byt5_tokenizer, seeded

NUM_CODES = 16
"""Size of the codebook. Its codes are the first tokens of the vocabulary; then come the start and the end of a
picture."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{% for part in message['content'] %}"
    "{{ '<|image|>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
)


def glm_image_tokenizer() -> TokenizersBackend:
    """Like that of GLM-Image: pictures' codes in front, names for the tokens that its processor asks for."""
    codes = tuple(f"<|dit_token_{number}|>" for number in range(NUM_CODES + 2))
    named = {"image_token": "<|image|>", "grid_bos_token": "<sop>", "grid_eos_token": "<eop>"}
    special = (*codes, "<|endoftext|>", "<|user|>", "<|assistant|>", *named.values())
    options = {"bos_token": codes[NUM_CODES], "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    return byte_level_tokenizer(special, in_front=True, padding_side="left", extra_special_tokens=named, **options)


def glm_image_processor() -> GlmImageProcessor:
    """Return its processor, which writes the size of the picture behind the prompt."""
    return GlmImageProcessor(GlmImageImageProcessorPil(), glm_image_tokenizer(), chat_template=CHAT_TEMPLATE)


def glm_image_planner(width: int = 16) -> GlmImageForConditionalGeneration:
    """Like GLM-Image's language model, which reads the whole vocabulary and writes the codes of pictures alone."""
    tokenizer = glm_image_tokenizer()
    sections = {"mrope_section": [width // 4 - 2, 1, 1]}
    config = GlmImageConfig(
        text_config={
            **text_options(tokenizer, width, layers=1),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, **sections},
            "vision_vocab_size": NUM_CODES,  # without the end of a picture, which noise would write too early
        },
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "image_size": 32},
        vq_config={"embed_dim": 8, "num_embeddings": NUM_CODES, "latent_channels": 16},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        image_start_token_id=NUM_CODES,
        image_end_token_id=NUM_CODES + 1,
    )

    def build() -> GlmImageForConditionalGeneration:
        model = GlmImageForConditionalGeneration(config)
        with torch.no_grad():  # sure of every code, else the fixed noise decides more than the prompt
            model.lm_head.weight.mul_(10)
        return model

    return seeded(build)


def build_glm_image() -> GlmImagePipeline:
    """GLM-Image: a language model reads all of the prompt, ByT5 what is in quotation marks."""
    vae = seeded(
        lambda: AutoencoderKL(
            block_out_channels=(4,),
            norm_num_groups=1,
            latent_channels=4,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    )
    transformer = denoiser(
        lambda: GlmImageTransformer2DModel(
            patch_size=16,  # two by two patches for every code, which stands for 32 x 32 pixels
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=20,
            time_embed_dim=8,
            condition_dim=4,
            prior_vq_quantizer_codebook_size=NUM_CODES,
        )
    )
    return quiet(
        GlmImagePipeline(
            tokenizer=byt5_tokenizer(),
            processor=glm_image_processor(),
            text_encoder=byt5_encoder(20),
            vision_language_encoder=glm_image_planner(),
            vae=vae,
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True),
        )
    )


FAMILIES = [Family("glm_image", GlmImagePipeline, build_glm_image, {**ONE_STEP, "height": 32, "width": 32})]
