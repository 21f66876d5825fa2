"""What the captioner and the segmenter are before training: small, in the classes of BLIP and Segment Anything."""

import torch
from architecture import RESOLUTION
from captions import PATTERN_WORDS
from scenes import SCENE_SIZE
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    SamConfig,
    SamModel,
    SamProcessor,
    ViTForImageClassification,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from world import BACKGROUNDS, BODY_COLORS, CATEGORIES, PATTERN_COLORS

BOS_TOKEN = "[DEC]"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", BOS_TOKEN, "[ENC]")
CAPTION_WORDS = ("a", "an", "with", "on", "background")
PATCH_SIZE = 8
SEGMENTER_WIDTH = 96
CLASSIFIER_LAYER_NAMES = {
    "attention.o_proj": "self_attn.projection",
    "layernorm_before": "layer_norm1",
    "layernorm_after": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def build_caption_processor() -> BlipProcessor:
    """Pictures to 64 x 64 in [-1, 1]; one token for each word that captions are made of.

    As BLIP's own tokenizer it knows "[DEC]", which starts a caption; "[SEP]" ends it.
    """
    words = [*CAPTION_WORDS, *BODY_COLORS, *PATTERN_COLORS, *CATEGORIES, *PATTERN_WORDS.values(), *BACKGROUNDS]
    vocab = {word: index for index, word in enumerate(dict.fromkeys([*SPECIAL_TOKENS, *words]))}
    tokenizer = BertTokenizer(vocab=vocab, bos_token=BOS_TOKEN, additional_special_tokens=["[ENC]"])
    size = {"height": RESOLUTION, "width": RESOLUTION}
    return BlipProcessor(BlipImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3), tokenizer)


def build_captioner(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    """A captioner of 1.6 M parameters on ``(batch, 3, 64, 64)`` pictures."""
    config = BlipConfig(
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "image_size": RESOLUTION,
            "patch_size": PATCH_SIZE,
            "layer_norm_eps": 1e-12,
            "initializer_range": 0.02,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        projection_dim=128,
        image_text_hidden_size=128,
    )
    return BlipForConditionalGeneration(config)


def copy_classifier(classifier: ViTForImageClassification, captioner: BlipForConditionalGeneration) -> None:
    """Let the captioner see as the classifier does: the same transformer under other names, one matrix for three."""
    source = classifier.vit.state_dict()
    renamed = {
        "embeddings.class_embedding": source["embeddings.cls_token"],
        "embeddings.position_embedding": source["embeddings.position_embeddings"],
    }
    for kind in ("weight", "bias"):
        renamed[f"embeddings.patch_embedding.{kind}"] = source[f"embeddings.patch_embeddings.projection.{kind}"]
        renamed[f"post_layernorm.{kind}"] = source[f"layernorm.{kind}"]
        for index in range(classifier.config.num_hidden_layers):
            old, new = f"layers.{index}", f"encoder.layers.{index}"
            qkv = [source[f"{old}.attention.{part}_proj.{kind}"] for part in "qkv"]
            renamed[f"{new}.self_attn.qkv.{kind}"] = torch.cat(qkv)
            for old_name, new_name in CLASSIFIER_LAYER_NAMES.items():
                renamed[f"{new}.{new_name}.{kind}"] = source[f"{old}.{old_name}.{kind}"]
    captioner.vision_model.load_state_dict(renamed)


def build_segmenter() -> SamModel:
    """A segmenter of 1.2 M parameters on ``(batch, 3, 128, 128)`` pictures; its masks are 64 x 64."""
    config = SamConfig(
        vision_config={
            "hidden_size": 128,
            "output_channels": SEGMENTER_WIDTH,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": SCENE_SIZE,
            "patch_size": PATCH_SIZE,
            "mlp_ratio": 3.0,
            "use_rel_pos": False,
            "window_size": 8,
            "global_attn_indexes": [1, 3],
            "num_pos_feats": SEGMENTER_WIDTH // 2,
            "initializer_range": 0.02,
        },
        prompt_encoder_config={
            "hidden_size": SEGMENTER_WIDTH,
            "image_size": SCENE_SIZE,
            "patch_size": PATCH_SIZE,
        },
        mask_decoder_config={
            "hidden_size": SEGMENTER_WIDTH,
            "mlp_dim": 256,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 64,
        },
    )
    model = SamModel(config)
    # transformers draws these frequencies with a deviation of half the width of the vision encoder and leaves them to
    # the checkpoint; Segment Anything draws them with 1 and never trains them.
    for embedding in (model.shared_image_embedding, model.prompt_encoder.shared_embedding):
        embedding.positional_embedding.requires_grad_(False)
    model.shared_image_embedding.positional_embedding.normal_()
    model.tie_weights()
    return model


def build_segmenter_processor() -> SamProcessor:
    """Pictures to 128 pixels on the longer side, padded below or on the right."""
    longest, square = {"longest_edge": SCENE_SIZE}, {"height": SCENE_SIZE, "width": SCENE_SIZE}
    mask_side = 4 * SCENE_SIZE // PATCH_SIZE
    image_processor = SamImageProcessorPil(
        size=longest,
        pad_size=square,
        mask_size={"longest_edge": mask_side},
        mask_pad_size={"height": mask_side, "width": mask_side},
    )
    return SamProcessor(image_processor)
