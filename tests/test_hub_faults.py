"""What the unmodified client makes of each fault of the Hub: what it retries, what it raises, what is there after.

The rows are what huggingface_hub 2.4 does; they are what our own publishing has to live with.
"""

from dataclasses import dataclass

import pytest
from hub.client import HubWorker, Result, hub_worker, shared_worker
from hub.faults import Fault, FaultPlan
from hub.store import Mode

WEIGHTS = bytes(range(256)) * 1000
CARD = b"---\nlicense: mit\n---\n# A mug\n"
CREATE = "api.create_repo('user/mug')"
UPLOAD = "api.upload_folder(repo_id='user/mug', folder_path=FOLDER)"
UPLOAD_ONTO_HEAD = UPLOAD.replace(")", ", parent_commit=api.model_info('user/mug').sha)")
UPLOAD_FILE = "api.upload_file(repo_id='user/mug', path_in_repo='w.bin', path_or_fileobj=FOLDER + '/w.safetensors')"
DOWNLOAD = "assert open(hf_hub_download('user/mug', 'w.safetensors'), 'rb').read() == bytes(range(256)) * 1000"
IN_CREATION = "Cannot create repo: another conflicting operation is in progress"
FIVE_WAITS = (1, 2, 4, 8, 8)

CREATION = ("POST", "/api/repos/create")
VALIDATION = ("POST", "/validate-yaml")
PREUPLOAD = ("POST", "/preupload/")
COMMIT = ("POST", "/commit/")
BATCH = ("POST", "/objects/batch")
PUT = ("PUT", "^/objects/")
VERIFY = ("POST", "/lfs-verify")
WRITE_TOKEN = ("GET", "/xet-write-token/")
READ_TOKEN = ("GET", "/xet-read-token/")
HEAD = ("HEAD", "/resolve/")
GET_LARGE = ("GET", "^/objects/")
GET_REGULAR = ("GET", "/resolve/")


@dataclass(frozen=True)
class Row:
    """A fault, in a mode, while `code` runs: `error` names the exception, None if all ends well.

    `statuses` are those of the requests that the fault matches, `commits` those made after the first.
    """

    mode: Mode
    code: str
    fault: Fault
    error: str | None
    statuses: list[int | None]
    commits: int | None = None
    waits: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        call = "download" if self.code == DOWNLOAD else self.code.split("(")[0].removeprefix("api.")
        forever = "-forever" if self.fault.times is None else ""
        return f"{self.mode}-{call}-{self.fault.method}{self.fault.path_pattern}-{self.fault.kind}{forever}"


HTTP, READ, CLOSED = "HfHubHTTPError", "ReadError", "RemoteProtocolError"
CREATION_ROWS = [
    Row("xet", CREATE, Fault(*CREATION, 500), HTTP, [500]),
    Row("xet", CREATE, Fault(*CREATION, 429), HTTP, [429]),
    Row("xet", CREATE, Fault(*CREATION, 401), HTTP, [401]),
    Row("xet", CREATE, Fault(*CREATION, "reset"), READ, [None]),
    Row("xet", CREATE, Fault(*CREATION, "hang_up"), CLOSED, [None]),
    Row("xet", CREATE, Fault(*CREATION, "lost_answer"), READ, [None], commits=0),
    Row("xet", CREATE, Fault(*CREATION, 409, times=3, message=IN_CREATION), None, [409, 409, 409, 200], 0, ()),
]
CHECK_ROWS = [
    Row("xet", UPLOAD, Fault(*VALIDATION, 500), HTTP, [500], 0),
    Row("xet", UPLOAD, Fault(*VALIDATION, 503, html=True), "JSONDecodeError", [503], 0),
    Row("xet", UPLOAD, Fault(*VALIDATION, "reset"), READ, [None], 0),
    Row("lfs", UPLOAD, Fault(*VALIDATION, 500, skip=1), HTTP, [200, 500], 0),
    Row("xet", UPLOAD, Fault(*PREUPLOAD, 500), None, [500, 200], 1, (1,)),
    Row("xet", UPLOAD, Fault(*PREUPLOAD, 503), None, [503, 200], 1, (1,)),
    Row("xet", UPLOAD, Fault(*PREUPLOAD, 429), None, [429, 200], 1, (2,)),
    Row("xet", UPLOAD, Fault(*PREUPLOAD, "reset"), None, [None, 200], 1, (1,)),
    Row("xet", UPLOAD, Fault(*PREUPLOAD, 403), HTTP, [403], 0),
    Row("xet", UPLOAD, Fault(*PREUPLOAD, 500, times=None), HTTP, [500] * 6, 0, FIVE_WAITS),
]
COMMIT_ROWS = [
    *(Row("regular", UPLOAD, Fault(*COMMIT, status), HTTP, [status], 0) for status in (401, 403, 409, 412)),
    Row("regular", UPLOAD, Fault(*COMMIT, 500), None, [500, 200], 1, (1,)),
    Row("xet", UPLOAD, Fault(*COMMIT, 500), None, [500, 200], 1, (1,)),
    Row("xet", UPLOAD, Fault(*COMMIT, "reset"), None, [None, 200], 1, (1,)),
    Row("xet", UPLOAD, Fault(*COMMIT, "reset_body"), None, [None, 200], 1, (1,)),
    Row("xet", UPLOAD, Fault(*COMMIT, 500, times=None), HTTP, [500] * 6, 0, FIVE_WAITS),
    Row("lfs", UPLOAD, Fault(*COMMIT, 500), HTTP, [500], 0),
    Row("lfs", UPLOAD, Fault(*COMMIT, "hang_up"), CLOSED, [None], 0),
    Row("xet", UPLOAD_FILE, Fault(*COMMIT, 500), HTTP, [500], 0),
    # The commit is there, and the client does not know: it makes another, or raises.
    Row("regular", UPLOAD, Fault(*COMMIT, "lost_answer"), None, [None, 200], 2),
    Row("xet", UPLOAD, Fault(*COMMIT, "lost_answer"), None, [None, 200], 2),
    Row("xet", UPLOAD_ONTO_HEAD, Fault(*COMMIT, "lost_answer"), HTTP, [None, 412], 1),
    Row("lfs", UPLOAD, Fault(*COMMIT, "lost_answer"), READ, [None], 1),
    Row("xet", UPLOAD_FILE, Fault(*COMMIT, "lost_answer"), READ, [None], 1),
]
LARGE_FILE_ROWS = [
    Row("lfs", UPLOAD, Fault(*BATCH, 500), None, [500, 200], 1, (1,)),
    Row("lfs", UPLOAD, Fault(*BATCH, 403), HTTP, [403], 0),
    Row("lfs", UPLOAD, Fault(*PUT, 500), None, [500, 200], 1, (1,)),
    Row("lfs", UPLOAD, Fault(*PUT, "reset_body"), None, [None, 200], 1, (1,)),
    Row("lfs", UPLOAD, Fault(*PUT, "lost_answer"), None, [None, 200], 1, (1,)),
    Row("lfs", UPLOAD, Fault(*PUT, 403), "RuntimeError", [403], 0),
    Row("lfs", UPLOAD, Fault(*PUT, "reset", times=None), "RuntimeError", [None] * 6, 0, FIVE_WAITS),
    Row("lfs", UPLOAD, Fault(*VERIFY, 500), None, [500, 200], 1, (1,)),
    Row("lfs", UPLOAD, Fault(*VERIFY, 403), "RuntimeError", [403], 0),
    Row("xet", UPLOAD, Fault(*WRITE_TOKEN, 500), None, [500, 200], 1, ()),
    Row("xet", UPLOAD, Fault(*WRITE_TOKEN, 401), "ConnectionError", [401], 0),
    Row("xet", UPLOAD, Fault(*WRITE_TOKEN, 403), "ConnectionError", [403], 0),
    Row("xet", UPLOAD, Fault(*WRITE_TOKEN, 500, times=None), "ConnectionError", [500, 500], 0),
    Row("xet", UPLOAD, Fault(*WRITE_TOKEN, "reset", times=None), "ConnectionError", [None, None], 0),
]
# What came before a cut is lost unless it filled a chunk of 10 MB: the client says that it resumes, and starts anew.
DOWNLOAD_ROWS = [
    Row("regular", DOWNLOAD, Fault(*HEAD, 500), None, [500, 200]),
    Row("lfs", DOWNLOAD, Fault(*HEAD, 429), None, [429, 302]),
    Row("lfs", DOWNLOAD, Fault(*HEAD, 403), "LocalEntryNotFoundError", [403]),
    Row("lfs", DOWNLOAD, Fault(*HEAD, 500, times=None), "LocalEntryNotFoundError", [500] * 7, None, FIVE_WAITS),
    Row("lfs", DOWNLOAD, Fault(*HEAD, "reset"), READ, [None]),
    Row("lfs", DOWNLOAD, Fault(*GET_LARGE, 500), HTTP, [500]),
    Row("lfs", DOWNLOAD, Fault(*GET_LARGE, 429), None, [429, 200], None, (2,)),
    Row("lfs", DOWNLOAD, Fault(*GET_LARGE, "reset_body"), READ, [200]),
    Row("lfs", DOWNLOAD, Fault(*GET_LARGE, "cut_body"), None, [200, 200], None, (1,)),
    Row("regular", DOWNLOAD, Fault(*GET_REGULAR, "reset"), READ, [None]),
    Row("regular", DOWNLOAD, Fault(*GET_REGULAR, "cut_body"), None, [200, 200], None, (1,)),
    Row("xet", DOWNLOAD, Fault(*READ_TOKEN, 500), None, [500, 200], None, (1,)),
    Row("xet", DOWNLOAD, Fault(*READ_TOKEN, 403), HTTP, [403]),
]
ROWS = [*CREATION_ROWS, *CHECK_ROWS, *COMMIT_ROWS, *LARGE_FILE_ROWS, *DOWNLOAD_ROWS]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A client of each mode uploads `FOLDER`."""
    folder = tmp_path_factory.mktemp("upload")
    (folder / "README.md").write_bytes(CARD)
    (folder / "w.safetensors").write_bytes(WEIGHTS)
    return f"from huggingface_hub import HfApi, hf_hub_download\napi = HfApi()\nFOLDER = {str(folder)!r}"


@pytest.fixture(scope="module")
def workers(setup: str) -> dict[Mode, HubWorker]:
    modes: tuple[Mode, ...] = ("regular", "lfs", "xet")
    return {mode: shared_worker(mode, setup=setup) for mode in modes}


def prepare(worker: HubWorker, code: str) -> None:
    """Empty the Hub, then bring it to what the code expects."""
    worker.reset()
    if code != CREATE:
        worker.server.create_repo("user/mug")
    if code == DOWNLOAD:
        worker.run(UPLOAD).check()
    worker.server.requests.clear()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_the_client_does(row: Row, workers: dict[Mode, HubWorker]) -> None:
    worker = workers[row.mode]
    prepare(worker, row.code)
    worker.server.add_fault(row.fault)
    result = worker.run(row.code, timeout=20)
    assert result.error_type == row.error, result.stderr
    assert worker.server.statuses(row.fault.method, row.fault.path_pattern) == row.statuses
    if row.commits is not None:
        assert len(worker.server.commits("user/mug")) - 1 == row.commits
    if row.waits is not None:
        assert result.waits == row.waits


def test_after_a_lost_answer_the_same_upload_is_done_already(workers: dict[Mode, HubWorker]) -> None:
    worker = workers["xet"]
    prepare(worker, UPLOAD)
    worker.server.add_fault(Fault(*COMMIT, "lost_answer"))
    assert "412" in (worker.run(UPLOAD_ONTO_HEAD).error or "")
    worker.run(UPLOAD_ONTO_HEAD).check()
    assert len(worker.server.commits("user/mug")) == 2


def test_slow_and_never_ending_faults(setup: str) -> None:
    with hub_worker("regular", setup=setup) as worker:  # of its own, because it is killed
        prepare(worker, UPLOAD)
        worker.server.add_fault(Fault(*COMMIT, "slow", seconds=0.6))
        assert worker.run(UPLOAD).check().seconds > 0.6
        prepare(worker, CREATE)
        worker.server.add_fault(Fault(*CREATION, 409, times=None, message=IN_CREATION))
        with pytest.raises(TimeoutError):  # the client asks again and again
            worker.run(CREATE, timeout=1.0)
        assert worker.server.count(*CREATION) > 10


def test_offline(workers: dict[Mode, HubWorker]) -> None:
    worker = workers["regular"]
    prepare(worker, UPLOAD)
    offline = "import huggingface_hub.constants as constants\nconstants.HF_HUB_OFFLINE = True\ntry:\n"
    result: Result = worker.run(f"{offline}    {UPLOAD}\nfinally:\n    constants.HF_HUB_OFFLINE = False")
    assert result.error_type == "OfflineModeIsEnabled"
    assert worker.server.requests == []


def test_a_fault_lets_some_requests_through_and_then_acts_its_times() -> None:
    plan = FaultPlan()
    plan.add(Fault("GET", "/a", 500, times=2, skip=1))
    plan.add(Fault("GET", "/a/b", 503, times=None))
    taken = [plan.take("GET", path) for path in ("/a/b", "/a/b", "/a", "/a", "/a/b", "/c")]
    assert [fault and fault.kind for fault in taken] == [503, 500, 500, None, 503, None]
    assert plan.take("HEAD", "/a/b") is None
