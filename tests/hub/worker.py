"""The client's process: ``python -m hub.worker SCRIPT [ARGUMENT ...]``, or without a script one snippet after another.

Snippets come as lines of JSON on the standard input: `code`, `token`, `reset`, `output_dir`. What a snippet prints
goes to two files in `output_dir`; the answer, a line of JSON on the standard output, has the `error` that ended it and
the `value` that it assigned to the name `result`.
"""

import json
import os
import runpy
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from . import prelude


def main() -> None:
    prelude.skip_waits()
    if len(sys.argv) > 1:
        del sys.argv[0]
        sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        run_snippets()


def run_snippets() -> None:
    """Run what the other end sends until it hangs up."""
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for line in orders:
        order = json.loads(line)
        if order["reset"]:
            prelude.forget_server()
            shutil.rmtree(Path(os.environ["HF_HOME"], "hub"), ignore_errors=True)
        if order["token"] is None:
            os.environ.pop("HF_TOKEN", None)
        else:
            os.environ["HF_TOKEN"] = order["token"]
        print(json.dumps(_run(order["code"], Path(order["output_dir"]))), file=answers, flush=True)


def _run(code: str, output_dir: Path) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__", "waits": prelude.waits}
    error_type, error = None, None
    prelude.waits.clear()
    _print_to(output_dir)
    try:
        with warnings.catch_warnings():  # as in a fresh process, warnings that were given before are given again
            exec(compile(code, "<snippet>", "exec"), names)
    except (Exception, SystemExit) as raised:  # whatever ends a snippet is the test's to judge
        traceback.print_exc()
        error_type, error = _written_type(raised), str(raised)
    sys.stdout.flush()
    sys.stderr.flush()
    return {"error_type": error_type, "error": error, "value": names.get("result"), "waits": list(prelude.waits)}


def _written_type(raised: BaseException) -> str:
    return type(raised).__name__


def _print_to(folder: Path) -> None:
    """Send both outputs to files, those of compiled code as well."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)


if __name__ == "__main__":
    main()
