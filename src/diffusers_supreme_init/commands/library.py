"""`supreme-init library`: list, merge, remove from and verify a folder of many concepts."""

from collections.abc import Callable, Sequence

from ..catalogue.library import library_entries, merge_libraries, remove_concepts, verify_library
from ..errors import ConfigError
from .arguments import LibraryArguments
from .parser import Parsed
from .terminal import FAILURE


def run(parsed: Parsed) -> int:
    """Do what is asked for; return the exit status.

    Raises:
        SupremeInitError: A folder is no library, or cannot be changed.
    """
    asked = parsed.of(LibraryArguments)
    name, *words = asked.action or [""]
    actions: dict[str, tuple[int, Callable[[Sequence[str], bool], int]]] = {
        "list": (1, _list),
        "verify": (1, _verify),
        "merge": (2, _merge),
        "remove": (2, _remove),
    }
    if name not in actions:
        raise ConfigError(f"expected list, verify, merge or remove, got {name!r}; supreme-init library list FOLDER")
    num_words, action = actions[name]
    if len(words) < num_words or (num_words == 1 and len(words) > 1):
        what = {"merge": "FOLDER ... INTO", "remove": "FOLDER TOKEN ..."}.get(name, "FOLDER")
        raise ConfigError(f"expected supreme-init library {name} {what}, got {' '.join(words) or 'nothing after it'}")
    return action(words, asked.overwrite)


def _list(words: Sequence[str], overwrite: bool) -> int:
    entries = library_entries(words[0])
    width = max((len(one.placeholder_token) for one in entries.values()), default=0)
    for folder, entry in entries.items():
        print(f"{entry.placeholder_token:{width}}  {entry.num_vectors:2} rows  {folder}  {entry.description or ''}")
    print(f"{len(entries)} concepts")
    return 0


def _verify(words: Sequence[str], overwrite: bool) -> int:
    problems = verify_library(words[0])
    print("\n".join(problems) if problems else f"{len(library_entries(words[0]))} concepts, all as they were saved")
    return FAILURE if problems else 0


def _merge(words: Sequence[str], overwrite: bool) -> int:
    *sources, target = words
    new = merge_libraries(sources, target, overwrite=overwrite)
    print(f"{len(new)} concepts copied, {len(library_entries(target))} in {target}")
    return 0


def _remove(words: Sequence[str], overwrite: bool) -> int:
    folder, *tokens = words
    remove_concepts(folder, tokens)
    print(f"removed {', '.join(tokens)}; {len(library_entries(folder))} concepts left")
    return 0
