"""CLIP-I and CLIP-T: cosine similarities between CLIP embeddings of pictures and texts."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..describers.model_loading import load_part
from ..errors import MetricError, SupremeInitWarning
from .base import Pictures
from .embeddings import embed, explained_as_metric, load_model, mean_cosines, normalized
from .inputs import to_tensors

DEFAULT_CLIP = "openai/clip-vit-base-patch32"
_BATCH_SIZE = 16


class CLIPEmbedder:
    """A CLIP model that embeds pictures and texts; CLIP-I and CLIP-T can share one.

    ```python
    clip = CLIPEmbedder()
    metrics = CLIPImageSimilarity(clip), CLIPTextSimilarity(clip)
    ```

    Attributes:
        model: The model, frozen.
        image_processor: Resizes and crops with pillow, so values do not depend on whether torchvision is installed.
        tokenizer: The model's tokenizer.
    """

    def __init__(self, model: str = DEFAULT_CLIP, *, device: torch.device | str = "cpu") -> None:
        """Load a model.

        Args:
            model: Hub id (``"user/name"`` or ``"user/name@revision"``) or folder of a CLIP model.
            device: Device of the model.

        Raises:
            MetricError: The model cannot be loaded, lacks weights, or is not a CLIP model.
        """
        from transformers import AutoTokenizer

        self.model, self.image_processor = load_model(model, ("clip",), "CLIP model", device)
        with explained_as_metric(model, "CLIP model"):
            self.tokenizer = load_part(AutoTokenizer, model)

    def embed_pictures(self, pictures: Pictures) -> Tensor:
        """Return embeddings of length 1, ``(num_pictures, dim)``, float64, on the CPU."""
        return embed(
            to_tensors(pictures, "pictures"),
            self.image_processor,
            lambda pixel_values: self.model.get_image_features(pixel_values=pixel_values).pooler_output,
            self.model.device,
        )

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings of length 1, ``(num_texts, dim)``, float64, on the CPU.

        Tokens beyond the model's maximum length (77) are cut off; a warning counts them.
        """
        max_length = self.model.config.text_config.max_position_embeddings
        lengths = [len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]]
        if max(lengths) > max_length:
            num_cut = sum(max(0, length - max_length) for length in lengths)
            num_texts = sum(length > max_length for length in lengths)
            warnings.warn(
                f"CLIP reads {max_length} tokens of a text: {num_cut} tokens of {num_texts} of {len(lengths)} texts "
                "are cut off; shorten them",
                SupremeInitWarning,
                stacklevel=3,
            )
        embeddings = []
        for start in range(0, len(texts), _BATCH_SIZE):
            batch = list(texts[start : start + _BATCH_SIZE])
            inputs = self.tokenizer(
                batch, padding=True, truncation=True, max_length=max_length, return_tensors="pt", verbose=False
            )
            with torch.no_grad():
                output = self.model.get_text_features(
                    input_ids=inputs["input_ids"].to(self.model.device),
                    attention_mask=inputs["attention_mask"].to(self.model.device),
                )
            embeddings.append(normalized(output.pooler_output))
        return torch.cat(embeddings)


class CLIPImageSimilarity:
    """CLIP-I: the cosine of two pictures' CLIP embeddings, in [-1, 1]; some papers multiply it by 100.

    Used by DreamBooth (Ruiz et al. 2023, section 4.2). The default is ViT-B/32, as in DreamBench++ (Peng et al. 2024).
    The model's image processor resizes the shorter side to 224 pixels and crops the centre, at 8 bits a channel.

    Attributes:
        name: ``"clip_i"``.
        label: ``"CLIP-I"``.
        higher_is_better: True.
        clip: The model.
    """

    name = "clip_i"
    label = "CLIP-I"
    higher_is_better = True

    def __init__(self, model: str | CLIPEmbedder = DEFAULT_CLIP, *, device: torch.device | str = "cpu") -> None:
        """Load a model, or take one that is loaded; see `CLIPEmbedder`, whose own device it stays on."""
        self.clip = model if isinstance(model, CLIPEmbedder) else CLIPEmbedder(model, device=device)

    def compare(self, pictures: Pictures, references: Pictures) -> Tensor:
        """Return the mean cosine of each picture with the references; see `FidelityMetric.compare`."""
        return mean_cosines(
            self.clip.embed_pictures(to_tensors(pictures, "pictures")),
            self.clip.embed_pictures(to_tensors(references, "references")),
        )


class CLIPTextSimilarity:
    """CLIP-T: the cosine of a picture's and a text's CLIP embedding, in [-1, 1]; some papers multiply it by 100.

    Used by DreamBooth (Ruiz et al. 2023, section 4.2). The default is ViT-B/32, as in DreamBench++ (Peng et al. 2024).

    Attributes:
        name: ``"clip_t"``.
        label: ``"CLIP-T"``.
        higher_is_better: True.
        clip: The model.
    """

    name = "clip_t"
    label = "CLIP-T"
    higher_is_better = True

    def __init__(self, model: str | CLIPEmbedder = DEFAULT_CLIP, *, device: torch.device | str = "cpu") -> None:
        """Load a model, or take one that is loaded; see `CLIPEmbedder`, whose own device it stays on."""
        self.clip = model if isinstance(model, CLIPEmbedder) else CLIPEmbedder(model, device=device)

    def score(self, pictures: Pictures, texts: Sequence[str]) -> Tensor:
        """Return the cosine of each picture's embedding with its text's; see `PromptMetric.score`."""
        tensors = to_tensors(pictures, "pictures")
        if isinstance(texts, str) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise MetricError(f"texts: expected a list with a text for each picture, got {texts!r}")
        if len(texts) != len(tensors):
            raise MetricError(f"texts: expected one for each of {len(tensors)} pictures, got {len(texts)}")
        return (self.clip.embed_pictures(tensors) * self.clip.embed_texts(texts)).sum(-1)
