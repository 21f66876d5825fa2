"""The options of all commands, as dataclasses; those of training and of describing are the package's own settings.

Names are those of diffusers' training scripts. A dataclass is a group of the help.
"""

from dataclasses import dataclass, field

from ..config import DescriberConfig, SupremeInitConfig

_DTYPES = ["auto", "float32", "bfloat16", "float16"]


@dataclass(kw_only=True)
class TrainingArguments(SupremeInitConfig):
    """How to train."""

    _argument_group_name = "training"

    output_dir: str | None = field(
        default=None,
        metadata={"help": "Where the result is written; default: out/mug for <mug>, out/concepts for a list."},
    )


class DescriberArguments(DescriberConfig):
    """Which models find words and regions, and how."""

    _argument_group_name = "finding the words"


@dataclass(kw_only=True)
class ModelArguments:
    """The pipeline, and how it is loaded."""

    _argument_group_name = "model"

    pretrained_model_name_or_path: str | None = field(
        default=None,
        metadata={"aliases": ["--model"], "help": "Hub id or folder of the pipeline, or 'toybox'."},
    )
    revision: str | None = field(default=None, metadata={"help": "Revision of the pipeline on the Hub."})
    variant: str | None = field(default=None, metadata={"help": "Variant of the weights, e.g. 'fp16'."})
    dtype: str = field(
        default="auto",
        metadata={
            "help": "Precision of the frozen weights; 'auto': on a GPU the usual one of the model's family.",
            "choices": _DTYPES,
        },
    )
    quant_backend: str | None = field(
        default=None,
        metadata={"help": "Quantise frozen parts with this backend of diffusers: bitsandbytes_4bit, torchao, ..."},
    )
    quant_kwargs: str = field(default="{}", metadata={"help": "Its arguments as JSON, '{\"load_in_4bit\": true}'."})
    components_to_quantize: list[str] = field(
        default_factory=list, metadata={"help": "Which, e.g. 'transformer text_encoder_2'; default: the denoiser."}
    )
    components_to_leave_out: list[str] = field(
        default_factory=list,
        metadata={"help": "Not loaded at all, e.g. 'text_encoder_3 tokenizer_3', the T5 of Stable Diffusion 3."},
    )


@dataclass(kw_only=True)
class ConceptArguments:
    """The concepts to train, and where they are saved."""

    _argument_group_name = "concept"

    images: list[str] = field(default_factory=list, metadata={"help": "Pictures, or folders of pictures."})
    placeholder_token: str | None = field(
        default=None, metadata={"aliases": ["--token"], "help": "The new word, e.g. '<mug>'."}
    )
    initializer: str | None = field(
        default=None,
        metadata={
            "help": "What the word starts from: 'auto' (the default), 'caption' or 'class' to find words, words of "
            "your own, or a saved embedding to continue."
        },
    )
    mask: list[str] = field(default_factory=list, metadata={"help": "One mask per picture, for --masked_loss."})
    train_on: str = field(
        default="crop",
        metadata={
            "help": "Of a region: 'crop', or 'image': the whole picture, its mask as weight of the loss.",
            "choices": ["crop", "image"],
        },
    )
    num_vectors: int | None = field(
        default=None, metadata={"help": "Rows; default: one per token of the initializer."}
    )
    concepts: str | None = field(
        default=None,
        metadata={"help": "A metadata.jsonl with many concepts, instead of pictures and a token; makes a library."},
    )
    initializer_column: str = field(
        default="initializer", metadata={"help": "Column of metadata.jsonl with the words to start from."}
    )
    paper: bool = field(
        default=False,
        metadata={"help": "Train with the paper's settings instead of the defaults; options change them."},
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Replace results of the same tokens in the output folder and in the repository."},
    )
    report: bool = field(
        default=True, metadata={"help": "Draw the concept beside its words when done, and write report.html."}
    )


@dataclass(kw_only=True)
class CatalogueArguments:
    """A list of many concepts: how it is divided, and what happens to those that failed."""

    _argument_group_name = "many concepts"

    num_shards: int = field(
        default=1, metadata={"help": "Train one of so many parts of --concepts; each process takes another one."}
    )
    shard_index: int = field(default=0, metadata={"help": "Which part, from 0."})
    concepts_per_batch: int = field(
        default=1,
        metadata={"help": "Concepts that are captioned, trained and drawn together: faster, but rounded otherwise."},
    )
    retry_failed: bool = field(default=False, metadata={"help": "Try again what failed before."})
    dry_run: bool = field(default=False, metadata={"help": "Only say what would be trained, and how long it takes."})


@dataclass(kw_only=True)
class RefinerArguments:
    """Who rewrites captions."""

    _argument_group_name = "refiner"

    refiner_base_url: str | None = field(
        default=None,
        metadata={"help": "OpenAI-compatible endpoint that rewrites captions; its key is read from OPENAI_API_KEY."},
    )
    refiner_model: str | None = field(
        default=None, metadata={"help": "Model of that endpoint; without an endpoint a local model, id or folder."}
    )
    refiner_max_words: int = field(default=12, metadata={"help": "About how long a rewritten caption is."})
    refiner_sentiment: str = field(default="natural", metadata={"help": "'positive', 'natural' or 'negative'."})
    refiner_language: str = field(default="English", metadata={"help": "Its language."})


@dataclass(kw_only=True)
class RegionArguments(RefinerArguments):
    """What in the picture is meant, and who rewrites captions."""

    _argument_group_name = "object"

    points: list[str] = field(
        default_factory=list, metadata={"help": "Clicks on the object, in pixels: --points 40,22 55,30."}
    )
    negative_points: list[str] = field(
        default_factory=list, metadata={"help": "Clicks on what does not belong to the object."}
    )
    box: str | None = field(default=None, metadata={"help": "Box around the object: left,top,right,bottom."})
    region_mask: str | None = field(
        default=None, metadata={"help": "Picture of the same size, light where the object is."}
    )
    region_words: str | None = field(
        default=None,
        metadata={"help": "Words for the object, 'the mug', in place of clicks; needs --segmenter facebook/sam3."},
    )
    candidates: list[str] = field(default_factory=list, metadata={"help": "Your own words, for 'auto' to compare."})


@dataclass(kw_only=True)
class HubArguments:
    """Whether, where and how the result is published."""

    _argument_group_name = "publishing"

    push_to_hub: bool = field(default=False, metadata={"help": "Publish the result on the Hub; needs --hub_model_id."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Repository to publish to, 'user/mug'."})
    hub_private_repo: bool = field(default=False, metadata={"help": "Make a new repository private."})
    hub_license: str | None = field(
        default=None, metadata={"help": "Licence of the card; default: that of the base model, if it is known."}
    )
    create_pr: bool = field(default=False, metadata={"help": "Open a pull request instead of committing."})
    allow_toybox: bool = field(
        default=False, metadata={"help": "Publish what was made with the toybox, in a private repository."}
    )
    sample_prompts: list[str] = field(
        default_factory=list,
        metadata={"help": "Prompts of pictures in report and card; '{}' is the concept. Default: three; lists: none."},
    )


@dataclass(kw_only=True)
class DescribeArguments:
    """What to describe."""

    _argument_group_name = "description"

    images: list[str] = field(default_factory=list, metadata={"help": "Pictures, or folders of pictures."})
    initializer: str = field(
        default="auto", metadata={"help": "Who finds the words.", "choices": ["auto", "caption", "class"]}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the noises by which candidates are compared."})
    output_dir: str | None = field(default=None, metadata={"help": "Write crop.png, mask.png and region.png there."})


@dataclass(kw_only=True)
class DrawingArguments:
    """How pictures are drawn."""

    _argument_group_name = "drawing"

    num_inference_steps: int = field(default=30, metadata={"help": "Steps of the sampler."})
    guidance_scale: float | None = field(
        default=None, metadata={"help": "Default: 2 for the toybox, else the pipeline's own."}
    )
    negative_prompt: str | None = field(default=None, metadata={"help": "What not to draw."})


@dataclass(kw_only=True)
class GenerateArguments:
    """What to draw."""

    _argument_group_name = "pictures"

    prompts: list[str] = field(default_factory=list, metadata={"help": "Prompts with the concepts' words."})
    concepts: list[str] = field(default_factory=list, metadata={"help": "Files, folders or Hub ids of concepts."})
    num_images_per_prompt: int = field(default=4, metadata={"help": "Pictures per prompt."})
    seed: int = field(default=0, metadata={"help": "Picture k of every prompt starts from noise seed + k."})
    output_dir: str = field(default="out/pictures", metadata={"help": "Where pictures are written."})


@dataclass(kw_only=True)
class CompareArguments:
    """What is compared."""

    _argument_group_name = "comparison"

    images: list[str] = field(default_factory=list, metadata={"help": "Pictures; each is learned by itself."})
    initializers: list[str] = field(
        default_factory=lambda: ["caption", "class", "*"],
        metadata={"help": "Starts to compare: 'caption', 'class', 'auto', or words."},
    )
    steps: list[int] = field(
        default_factory=lambda: [0, 10, 30, 100], metadata={"help": "Steps after which each is looked at."}
    )
    seeds: list[int] = field(
        default_factory=lambda: [0],
        metadata={"help": "Seeds; each is a training of its own with pictures of its own."},
    )
    prompt: str = field(default="a photo of a {}", metadata={"help": "What is drawn; '{}' is the concept."})
    learning_rate: float | None = field(default=None, metadata={"help": "Default: that of the model family."})
    output_dir: str = field(default="out/compare", metadata={"help": "Where everything is written."})


@dataclass(kw_only=True)
class EvaluateArguments:
    """What is measured."""

    _argument_group_name = "evaluation"

    images: list[str] = field(
        default_factory=list, metadata={"help": "The pictures that the concept was learned from."}
    )
    concept: str | None = field(default=None, metadata={"help": "File, folder or Hub id of the concept."})
    description: str | None = field(
        default=None, metadata={"help": "The object in words, for CLIP-T; default: what the concept started from."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1], metadata={"help": "Each prompt is drawn once per seed."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Where evaluation.json is written; default: the concept's folder."}
    )


@dataclass(kw_only=True)
class ConvertArguments:
    """What is converted."""

    _argument_group_name = "conversion"

    files: list[str] = field(
        default_factory=list,
        metadata={"help": "What to read (a file, or a folder of this package) and what to write."},
    )
    format: str | None = field(default=None, metadata={"help": "The program to write for, or the format."})
    token: str | None = field(default=None, metadata={"help": "The concept's name, '<mug>'; default: the file's."})
    encoder_keys: list[str] = field(
        default_factory=list,
        metadata={"help": "For comfyui, where the file does not say it: the text encoder of each embedding, clip_l."},
    )
    allow_pickle: bool = field(
        default=False,
        metadata={"help": "Open a .pt or .bin; nothing but tensors and plain values is loaded from it."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace files that exist."})


@dataclass(kw_only=True)
class PushArguments:
    """What is published."""

    _argument_group_name = "publishing"

    folder_and_repository: list[str] = field(
        default_factory=list, metadata={"help": "A folder that training saved, and the repository, 'user/mug'."}
    )
    hub_private_repo: bool = field(default=False, metadata={"help": "Make a new repository private."})
    hub_license: str | None = field(
        default=None, metadata={"help": "Licence of the card; default: that of the base model, if it is known."}
    )
    create_pr: bool = field(default=False, metadata={"help": "Open a pull request instead of committing."})
    revision: str | None = field(default=None, metadata={"help": "Branch to commit to; default: main."})
    commit_message: str | None = field(default=None, metadata={"help": "First line of the commit."})
    overwrite: bool = field(default=False, metadata={"help": "Replace published concepts of the same name."})
    allow_toybox: bool = field(
        default=False, metadata={"help": "Publish what was made with the toybox, in a private repository."}
    )


@dataclass(kw_only=True)
class LibraryArguments:
    """What is done with a library."""

    _argument_group_name = "library"

    action: list[str] = field(
        default_factory=list,
        metadata={
            "help": "list FOLDER; verify FOLDER; merge FOLDER ... INTO; remove FOLDER TOKEN ...",
        },
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Of two concepts of one name with other rows, keep the last that is merged."}
    )


@dataclass(kw_only=True)
class UiArguments:
    """Where the studio is opened."""

    _argument_group_name = "page"

    server_name: str = field(
        default="127.0.0.1",
        metadata={
            "help": "Address to listen on; 0.0.0.0 lets other machines in, who then push with their own tokens."
        },
    )
    server_port: int | None = field(default=None, metadata={"help": "Port; default: the first free one from 7860."})
    inbrowser: bool = field(default=False, metadata={"help": "Open the page in a browser."})


@dataclass(kw_only=True)
class ToyboxArguments:
    """What is done with it."""

    _argument_group_name = "toybox"

    output_dir: str | None = field(default=None, metadata={"help": "Copy its pictures there, to have short paths."})


@dataclass(kw_only=True)
class CompletionArguments:
    """For which shell."""

    _argument_group_name = "completion"

    shell: list[str] = field(default_factory=list, metadata={"help": "bash, zsh or tcsh."})
