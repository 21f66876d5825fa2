"""Model cards as the Hub reads them: what it refuses, what it warns of, which tags it derives."""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml  # huggingface_hub depends on it

_FRONT_MATTER = re.compile(r"^\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", re.DOTALL)
_NAME = r"(?!.*(?:--|\.\.))\w(?:[\w.-]*\w)?"
_MODEL_ID = re.compile(rf"{_NAME}(/{_NAME})?", re.ASCII)

# https://huggingface.co/docs/hub/repositories-licenses
LICENSES = frozenset(
    [
        "apache-2.0",
        "mit",
        "openrail",
        "bigscience-openrail-m",
        "creativeml-openrail-m",
        "bigscience-bloom-rail-1.0",
        "bigcode-openrail-m",
        "afl-3.0",
        "artistic-2.0",
        "bsl-1.0",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "c-uda",
        "cc",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cdla-sharing-1.0",
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "wtfpl",
        "ecl-2.0",
        "epl-1.0",
        "epl-2.0",
        "etalab-2.0",
        "eupl-1.1",
        "eupl-1.2",
        "agpl-3.0",
        "gfdl",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "isc",
        "h-research",
        "intel-research",
        "lppl-1.3c",
        "ms-pl",
        "apple-ascl",
        "apple-amlr",
        "mpl-2.0",
        "odc-by",
        "odbl",
        "openrail++",
        "osl-3.0",
        "postgresql",
        "ofl-1.1",
        "ncsa",
        "unlicense",
        "zlib",
        "pddl",
        "lgpl-lr",
        "deepfloyd-if-license",
        "fair-noncommercial-research-license",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "llama4",
        "grok2-community",
        "gemma",
        "unknown",
        "other",
    ]
)


@dataclass(frozen=True)
class CardReport:
    """What `validate-yaml` says of a card."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def card_data_of(text: str) -> Any:
    """Return the YAML front matter of a card, None without one; raises `yaml.YAMLError`."""
    match = _FRONT_MATTER.match(text)
    return None if match is None else yaml.safe_load(match[1])


def check_card(text: str) -> CardReport:
    """Check a card as the Hub does before it takes a commit."""
    try:
        data = card_data_of(text)
    except yaml.YAMLError as error:
        return CardReport(errors=[str(error)])
    if data is None:
        return CardReport(warnings=["empty or missing yaml metadata in repo card"])
    if not isinstance(data, dict):
        return CardReport(errors=["yaml metadata must be a mapping"])
    errors = [*_wrong_strings(data), *_wrong_lists(data), *_wrong_license(data), *_wrong_base_models(data)]
    return CardReport(errors=[*errors, *_wrong_model_index(data)])


def tags_of(data: dict[str, Any]) -> list[str]:
    """Return the tags that the Hub shows: those of the card, and those it derives from other fields."""
    tags = [data[key] for key in ("library_name", "pipeline_tag") if key in data]
    tags += data.get("tags") or []
    tags += [f"base_model:{base}" for base in _as_list(data.get("base_model"))]
    tags += [f"license:{name}" for name in _as_list(data.get("license"))]
    return list(dict.fromkeys(tags))


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _wrong_strings(data: dict[str, Any]) -> list[str]:
    keys = ("library_name", "pipeline_tag", "license_name", "license_link", "base_model_relation", "instance_prompt")
    return [f'"{key}" must be a string' for key in keys if not isinstance(data.get(key, ""), str)]


def _wrong_lists(data: dict[str, Any]) -> list[str]:
    errors = [f'"{key}" must be an array' for key in ("tags", "widget") if not isinstance(data.get(key, []), list)]
    tags = data.get("tags", [])
    if isinstance(tags, list):
        errors += [f'"tags[{index}]" must be a string' for index, tag in enumerate(tags) if not isinstance(tag, str)]
    return errors


def _wrong_license(data: dict[str, Any]) -> list[str]:
    if "license" not in data or all(str(name) in LICENSES for name in _as_list(data["license"]) or [None]):
        return []
    return [f'"license" must be one of [{", ".join(sorted(LICENSES))}]']


def _wrong_base_models(data: dict[str, Any]) -> list[str]:
    return [
        f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.'
        for base in _as_list(data.get("base_model"))
        if not isinstance(base, str) or not _MODEL_ID.fullmatch(base)
    ]


def _wrong_model_index(data: dict[str, Any]) -> list[str]:
    errors = []
    for index, model in enumerate(_as_list(data.get("model-index"))):
        for at, result in enumerate(_as_list(model.get("results")) if isinstance(model, dict) else []):
            dataset = result.get("dataset") or {}
            where = f"model-index[{index}].results[{at}].dataset"
            errors += [f'"{where}.{key}" is required' for key in ("type", "name") if not dataset.get(key)]
    return errors
