"""The processes in which tests talk to the Hub of `hub.server`."""

import os
import subprocess
from pathlib import Path

import pytest
from hub.client import hub_worker, run_client
from hub.server import READ_TOKEN, HubServer


def test_run_client_runs_scripts_with_arguments(tmp_path: Path) -> None:
    script = tmp_path / "who.py"
    script.write_text("import sys\nimport huggingface_hub\nprint(sys.argv[1:], huggingface_hub.whoami()['name'])\n")
    with HubServer() as server:
        assert run_client(server, script, mode="xet", arguments=["--a"]).check().stdout == "['--a'] user\n"
        failed = run_client(server, "raise SystemExit(3)", mode="xet")
        assert failed.returncode == 3
        with pytest.raises(AssertionError, match="the client ended with 3"):
            failed.check()


def test_worker_that_takes_too_long() -> None:
    with hub_worker("regular") as worker:
        worker.run("")  # starting Python may alone take 0.5 s
        with pytest.raises(TimeoutError, match="did not end in 0.5 s; it had printed:\nbusy"):
            worker.run("import time\nprint('busy', flush=True)\ntime.sleep(30)", timeout=0.5)
        assert worker.run("result = 1").value == 1


def test_script_that_takes_too_long() -> None:
    with HubServer() as server, pytest.raises(subprocess.TimeoutExpired):
        run_client(server, "import time\ntime.sleep(30)", mode="xet", timeout=0.5)


def test_nothing_of_the_machine_reaches_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DEBUG", "https_proxy"):
        monkeypatch.setenv(name, "1")
    with hub_worker("xet") as worker:
        names = worker.run("import os\nresult = sorted(os.environ)", token=None).check().value
        assert not {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DEBUG", "https_proxy", "HF_TOKEN"} & set(names)
        name = worker.run("result = huggingface_hub.whoami()['name']", token=READ_TOKEN).check().value
    assert name == "user"
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_worker_tells_what_happened() -> None:
    with hub_worker("xet", setup="NUMBER = 3") as worker:
        result = worker.run("import sys\nprint(NUMBER)\nprint('oh', file=sys.stderr)\nraise ValueError('no')")
        assert (result.stdout, result.returncode, result.error_type, result.error) == ("3\n", 1, "ValueError", "no")
        assert result.stderr.startswith("oh\nTraceback")
        assert worker.run("result = 'number' in globals()").value is False
        with pytest.raises(RuntimeError, match="the client's process died with -9"):
            worker.run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
        assert worker.run("result = NUMBER").value == 3


def test_folder_of_the_worker_is_removed(tmp_path: Path) -> None:
    with hub_worker("regular") as worker:
        home = Path(worker.run("import os\nresult = os.environ['HF_HOME']").value)
        assert home.is_dir()
    assert not home.exists()
