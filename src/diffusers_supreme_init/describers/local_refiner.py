"""`LocalRefiner`: a refiner that asks a language model on this machine."""

import os
from functools import cached_property
from typing import Any

import torch
from jinja2 import TemplateError

from ..errors import DescriberError, DescriberLoadError, shown
from .model_loading import explained, place, split_revision
from .refiner import RefinementStyle


class LocalRefiner:
    """Any `AutoModelForCausalLM` whose tokenizer has a chat template, such as Qwen/Qwen2.5-1.5B-Instruct.

    >>> refiner = LocalRefiner("Qwen/Qwen2.5-1.5B-Instruct")  # nothing is loaded before the first call

    Decoding is greedy, so answers are reproducible. Thinking is switched off for models that can think.
    """

    def __init__(
        self,
        model_id_or_dir: str | os.PathLike[str],
        *,
        style: RefinementStyle = RefinementStyle(),  # noqa: B008 - frozen
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
    ) -> None:
        """Store the settings; nothing is loaded.

        Args:
            model_id_or_dir: Hub id (``"user/name"`` or ``"user/name@revision"``) or folder of a whole model; no other
                model is loaded.
            style: How captions are to be rewritten.
            device: Device of the model; None: the GPU if there is one.
            dtype: Precision of the weights; None: as stored.
            revision: Branch, tag or commit on the Hub.

        Raises:
            DescriberError: `revision` is given for a folder, or beside another one in the id.
        """
        self.name = os.path.expanduser(os.fspath(model_id_or_dir))
        self._must_be_folder = self.name != model_id_or_dir  # a `Path`, or a text that begins with "~"
        self.style = style
        self.device = device
        self.dtype = dtype
        self.revision = revision
        if revision is not None and (os.path.isdir(self.name) or split_revision(self.name)[1] is not None):
            raise DescriberError(
                f"revision={shown(revision)}: expected a Hub id without a revision, got {self.name!r}; leave one out"
            )

    def __repr__(self) -> str:
        return f"LocalRefiner({self.name!r}, style={self.style!r})"

    def __call__(self, caption: str) -> str:
        """Return the model's refined caption, stripped.

        Raises:
            DescriberError: The model cannot be loaded, is not a chat model, or cannot answer.
        """
        tokenizer, model = self._loaded
        try:
            inputs = tokenizer.apply_chat_template(
                self.style.messages(caption),
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
                enable_thinking=False,  # templates without this option ignore it
            ).to(model.device)
            # transformers warns if greedy search gets the sampling options of the model's generation config.
            sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
            answer = model.generate(**inputs, max_new_tokens=self.style.max_new_tokens, **sampling)
            new_ids = answer[0, inputs["input_ids"].shape[1] :]
            return str(tokenizer.decode(new_ids, skip_special_tokens=True)).strip()
        except (RuntimeError, ValueError, TypeError, IndexError, TemplateError) as error:
            message = " ".join(str(error).split())[:300]
            raise DescriberError(
                f"refiner {self.name!r}: expected an answer, got {type(error).__name__} ({message}); choose another "
                "model, or a device with more memory"
            ) from error

    def release(self) -> None:
        """Free the memory of the model; the next call loads it again."""
        self.__dict__.pop("_loaded", None)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.peft_utils import find_adapter_config_file

        name, revision = split_revision(self.name)
        self._check_folder(name)
        # Never run a repository's code. If the option is left unset, transformers asks on the terminal.
        options: dict[str, Any] = {"revision": self.revision or revision, "trust_remote_code": False}
        with explained(self.name, "refiner"):
            if find_adapter_config_file(name, revision=options["revision"]) is not None:
                # Otherwise transformers would load whatever model the adapter names.
                raise DescriberLoadError(
                    f"refiner: expected a whole model, got {self.name!r}, which is an adapter of another one; merge "
                    "it into that model first"
                )
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
            if tokenizer.chat_template is None:
                raise DescriberLoadError(
                    f"refiner: expected a model with a chat template, got {self.name!r}, which has none; choose one "
                    "that was trained to follow instructions (often '...-Instruct')"
                )
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name, dtype=self.dtype or "auto", output_loading_info=True, **options
            )
        model, report = loaded
        # transformers fills missing weights with random numbers, e.g. the language head that an encoder lacks.
        if report["missing_keys"]:
            raise DescriberError(
                f"refiner: expected a causal language model, got {self.name!r}, which lacks weights of "
                f"one ({min(report['missing_keys'])}); choose a text-generation model"
            )
        return tokenizer, place(model, self.device)

    def _check_folder(self, name: str) -> None:
        is_path = self._must_be_folder or name.startswith((".", "/")) or name.count("/") > 1 or "\\" in name
        if is_path and not os.path.isdir(name):
            raise DescriberError(
                f"refiner: expected a folder with a model or an id on the Hub, got {name!r}, which is not a folder"
            )
