"""A hub id becomes a folder of checked files of one commit; what goes wrong says what to do."""

from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from local_engine.checkpoint import open_checkpoint
from local_engine.errors import SetupError
from local_engine.hub import HubId, models_folder, parse_hub_id, read_record, resolve_model, verify
from tests.local_engine.hub_server import COMMIT, REPO, Hub, hub_of, serving

FETCHED = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def hub(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the `tiny` checkpoint as `openai/tiny`."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Whole chunks of 10 MB are kept of a download that breaks off; these files are smaller.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    with serving(hub_of(tiny["hf"])) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


class Fetching:
    """Resolves names into one folder of models, and keeps what was said."""

    def __init__(self, models: Path) -> None:
        self.models = models
        self.said: list[str] = []

    def __call__(self, text: str) -> Path:
        return resolve_model(text, self.said.append, self.models)

    def refusal(self, text: str) -> str:
        with pytest.raises(SetupError) as refused:
            self(text)
        return str(refused.value)


@pytest.fixture
def fetching(tmp_path: Path) -> Fetching:
    """An empty folder of models."""
    return Fetching(tmp_path / "models")


def test_ids_are_told_from_paths() -> None:
    assert parse_hub_id("openai/gpt-oss-20b") == HubId("openai/gpt-oss-20b", None)
    assert parse_hub_id("openai/gpt-oss-20b@refs/pr/3") == HubId("openai/gpt-oss-20b", "refs/pr/3")
    for path in ("demo", "./a/b", "/a/b", "a/b/c", "../b", "a/b@", "~/b"):
        assert parse_hub_id(path) is None


def test_what_exists_is_a_path_even_if_it_looks_like_an_id(
    fetching: Fetching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openai" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert fetching(REPO) == Path(REPO)
    assert fetching.said == []


def test_what_is_neither_a_path_nor_an_id_is_told_both(fetching: Fetching) -> None:
    assert fetching.refusal("/no/such") == (
        "`/no/such` is neither a folder here nor the id of a model on the hub, like `openai/gpt-oss-20b`"
    )


def test_a_model_is_fetched_once_pinned_and_recorded(
    hub: Hub, fetching: Fetching, tiny: dict[str, Path]
) -> None:
    folder = fetching(REPO)
    record = read_record(folder)
    again = fetching(f"{REPO}@{COMMIT}")

    assert folder == again == fetching.models / "openai--tiny" / COMMIT
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FETCHED, "hub.json", ".lock"])
    assert (folder / "model.safetensors").read_bytes() == (tiny["hf"] / "model.safetensors").read_bytes()
    assert open_checkpoint(folder).config == open_checkpoint(tiny["hf"]).config
    assert (record.repo, record.commit, record.revisions) == (REPO, COMMIT, ("main",))
    assert record.endpoint == hub.url
    assert sorted(record.files) == FETCHED
    assert fetching.said[0] == f"{REPO} is commit {COMMIT}"
    assert fetching.said[1].startswith("fetching 4 files, ")
    assert fetching.said[2:] == ["checked 4 files against the hub's checksums"]
    assert hub.asked == [(name, None) for name in FETCHED]
    assert verify(folder) == FETCHED


def test_a_file_on_its_way_has_a_progress_bar(
    hub: Hub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Asks for bars also where no terminal is.
    monkeypatch.setenv("TQDM_POSITION", "-1")
    fetching(REPO)
    bars = capsys.readouterr().err

    for name in FETCHED:
        assert f"{name}: 100%" in bars


def test_the_config_comes_first_so_that_another_architecture_costs_no_download(
    hub: Hub, fetching: Fetching
) -> None:
    hub.files["config.json"] = b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'

    assert "`model_type` is `llama` (`LlamaForCausalLM`)" in fetching.refusal(REPO)
    assert hub.asked == [("config.json", None)]


def test_a_connection_that_breaks_off_goes_on_where_it_was(hub: Hub, fetching: Fetching) -> None:
    hub.cut_after, hub.cuts = 100_000, 2
    folder = fetching(REPO)

    assert [asked for asked in hub.asked if asked[0] == "model.safetensors"] == [
        ("model.safetensors", None),
        ("model.safetensors", "bytes=100000-"),
        ("model.safetensors", "bytes=200000-"),
    ]
    assert verify(folder) == FETCHED


def test_a_later_run_goes_on_where_the_last_one_ended(hub: Hub, fetching: Fetching) -> None:
    # The first retry meets a hub that is down, so the first run gives up with a part of the file.
    hub.cut_after, hub.cuts = 100_000, 1
    whole = hub.files["model.safetensors"]
    weights = f"/{REPO}/resolve/{COMMIT}/model.safetensors"

    class Falling(dict[str, tuple[int, str]]):
        def items(self):  # type: ignore[no-untyped-def]
            return [(weights, (503, ""))] if hub.cuts == 0 else []

    hub.status = Falling()
    refusal = fetching.refusal(REPO)
    partial = fetching.models / "openai--tiny" / COMMIT / "model.safetensors.partial"

    assert refusal == (
        f"the hub answered 503 for `{REPO}`: run the command again later; what has come is kept"
    )
    assert partial.read_bytes() == whole[:100_000]
    hub.status, hub.asked = {}, []
    folder = fetching(REPO)
    assert ("model.safetensors", "bytes=100000-") in hub.asked
    assert ("config.json", None) not in hub.asked
    assert (folder / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_refused_and_fetched_anew(hub: Hub, fetching: Fetching, name: str) -> None:
    hub.damaged = name
    refusal = fetching.refusal(REPO)
    folder = fetching.models / "openai--tiny" / COMMIT

    assert refusal == (
        f"`{name}` of `{REPO}` arrived damaged: its checksum is not the hub's; run the command again to "
        "fetch that file anew"
    )
    assert not (folder / name).exists()
    assert not (folder / "hub.json").exists()
    hub.damaged = None
    assert verify(fetching(REPO)) == FETCHED


def test_a_file_that_changed_on_disk_is_found(hub: Hub, fetching: Fetching) -> None:
    folder = fetching(REPO)
    weights = folder / "model.safetensors"
    data = weights.read_bytes()

    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(SetupError, match=r"model\.safetensors` is not what was fetched: remove it"):
        verify(folder)
    weights.write_bytes(data[:-1])
    fetching(REPO)
    assert weights.read_bytes() == data


def test_a_branch_that_moved_is_another_folder(hub: Hub, fetching: Fetching) -> None:
    first = fetching(REPO)
    hub.commit = "d" * 40
    second = fetching(f"{REPO}@main")

    assert (first.name, second.name) == (COMMIT, "d" * 40)
    assert verify(first) == verify(second) == FETCHED


def test_without_the_hub_what_was_fetched_is_used(
    hub: Hub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetching(REPO)
    fetched = read_record(folder).fetched
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetching.said.clear()

    assert fetching(REPO) == folder
    assert fetching.said == [f"{REPO}: `HF_HUB_OFFLINE` is set; taking commit {COMMIT}, fetched {fetched}"]
    assert "is no folder here and was not fetched before" in fetching.refusal(f"{REPO}@v2")


def test_a_machine_without_the_hub_is_told_the_command_for_another(
    fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    reached = fetching.refusal("openai/gpt-oss-20b@v1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = fetching.refusal("openai/gpt-oss-20b")

    assert reached == (
        "`openai/gpt-oss-20b@v1` is no folder here and was not fetched before, and `http://127.0.0.1:1` "
        "cannot be reached (ConnectError). On a machine with access run\n"
        '  hf download openai/gpt-oss-20b --revision v1 --include "*.json" "*.safetensors" '
        '--exclude "original/*" "metal/*" --local-dir gpt-oss-20b\n'
        "copy the folder `gpt-oss-20b` here, and name it: `--model ./gpt-oss-20b`"
    )
    assert "and `HF_HUB_OFFLINE` is set. On a machine with access run\n  hf download" in offline


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        (
            "openai/other",
            {},
            "there is no folder `openai/other` here, and the hub shows no model of that name",
        ),
        (f"{REPO}@v9", {}, "`openai/tiny` has no revision `v9`: name a branch, tag or commit"),
        (REPO, {f"/{REPO}/resolve": (403, "GatedRepo")}, f"`{REPO}` is gated: accept its conditions at http"),
        (REPO, {"/api": (500, "")}, f"the hub answered 500 for `{REPO}`: run the command again later"),
    ],
    ids=["unknown", "revision", "gated", "down"],
)
def test_a_refusal_of_the_hub_says_what_to_do(
    hub: Hub, fetching: Fetching, asked: str, status: dict[str, tuple[int, str]], message: str
) -> None:
    hub.status = status

    assert message in fetching.refusal(asked)


def test_repositories_that_cannot_be_run_are_refused_before_anything_is_fetched(
    hub: Hub, fetching: Fetching
) -> None:
    whole = dict(hub.files)
    hub.files = {"model.gguf": b"gguf", "README.md": b""}
    gguf = fetching.refusal(REPO)
    hub.files = whole | {"adapter_config.json": b"{}"}
    adapter = fetching.refusal(REPO)

    assert gguf == f"`{REPO}` holds no `config.json` with `*.safetensors` at its root: it cannot be run"
    assert adapter.startswith(f"`{REPO}` is an adapter, which this engine does not apply: merge it")
    assert f"M.from_pretrained('{REPO}', dtype='bfloat16').merge_and_unload()" in adapter
    assert hub.asked == []


def test_a_disk_without_room_is_told_before_and_while_it_fills(
    hub: Hub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(1000, 0, 1000))
        before = fetching.refusal(REPO)
        assert hub.asked == []

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.http_get", full)
        during = fetching.refusal(REPO)

    assert "more on disk, but `" in before
    assert "has 1000 B free: make room, or set `XDG_CACHE_HOME` to a larger disk" in before
    assert "is full: make room and run the command again, it goes on where it stopped" in during


def test_a_folder_that_was_not_fetched_has_nothing_to_verify(tiny: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "hub.json").write_text(json.dumps({"repo": REPO}))

    for folder in (tiny["hf"], tmp_path):
        with pytest.raises(SetupError, match=r"has no `hub\.json`, which notes the checksums"):
            verify(folder)


def test_models_are_kept_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models_folder() == tmp_path / "douane" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert models_folder() == tmp_path / "home" / ".cache" / "douane" / "models"
