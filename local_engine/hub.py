"""A model named by its id on the Hugging Face hub, fetched once and known to be what the hub has.

`openai/gpt-oss-20b@main` is first resolved to a commit, and everything is fetched from that commit into
`<cache>/openai--gpt-oss-20b/<commit>/`, as plain files. A file appears under its name only when its checksum
is the one in the hub's metadata; until then it is `<name>.partial`, where the next try goes on. What was
checked is written to `hub.json` beside the files: a later start compares sizes with it, `verify` the
contents.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from local_engine.checkpoint import ADAPTER, merge_command
from local_engine.config import read_config
from local_engine.errors import SetupError
from local_engine.footprint import size as readable

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

Report = Callable[[str], None]

RECORD = "hub.json"
HUB_ID = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
WANTED = re.compile(
    r"config\.json|generation_config\.json|tokenizer[\w.]*\.json"
    r"|[^/]+\.safetensors|[^/]+\.safetensors\.index\.json"
)
"""Files at a repository's root that the engine reads; the same weights lie in `original/` and `metal/` again.
    """

TIMEOUT_S = 15.0
HASH_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository and a branch, tag or commit of it; None means its main branch."""

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


@dataclass(frozen=True, slots=True)
class Known:
    """Size in bytes and sha256 of a file that was checked."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """What `hub.json` says: which commit the files beside it are, under which names it was asked for."""

    repo: str
    commit: str
    revisions: tuple[str, ...]
    endpoint: str
    fetched: str
    files: dict[str, Known]


def parse_hub_id(text: str) -> HubId | None:
    """`owner/name` or `owner/name@revision`; None for anything else."""
    match = HUB_ID.fullmatch(text)
    if match is None or text.startswith("."):
        return None
    return HubId(match[1], match[2])


def models_folder() -> Path:
    """Where fetched and made checkpoints are kept: `$XDG_CACHE_HOME/douane/models`."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "douane" / "models"


def resolve_model(text: str, report: Report, models: Path | None = None) -> Path:
    """The folder of a checkpoint, given as a path or a hub id. What exists is always a path.

    Raises `SetupError` when it is neither, or cannot be fetched; `report` takes lines for the user.
    """
    path = Path(text).expanduser()
    if path.exists():
        return path
    asked = parse_hub_id(text)
    if asked is None:
        raise SetupError(
            f"`{text}` is neither a folder here nor the id of a model on the hub, like `openai/gpt-oss-20b`"
        )
    return fetch(asked, models or models_folder(), report)


def fetch(asked: HubId, models: Path, report: Report) -> Path:
    """The folder with the model's files, fetched or completed as needed. Raises `SetupError`."""
    home = models / asked.repo.replace("/", "--")
    if asked.revision is not None and COMMIT.fullmatch(asked.revision) and _whole(home / asked.revision):
        return home / asked.revision
    try:
        info = _look_up(asked)
    except _Unreachable as error:
        folder = _last_fetched(home, asked)
        if folder is None:
            raise SetupError(_elsewhere(asked, str(error))) from None
        report(f"{asked}: {error}; taking commit {folder.name}, fetched {read_record(folder).fetched}")
        return folder
    commit = info.sha or ""
    folder = home / commit
    report(f"{asked} is commit {commit}")
    if _whole(folder):
        _record(folder, asked, read_record(folder).files)
        return folder
    with _understood(asked, folder):
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

        folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder / ".lock"):
            _record(folder, asked, _fetch_files(asked, folder, commit, _wanted(asked, info), report))
    return folder


def verify(folder: Path) -> list[str]:
    """Hashes every recorded file again; the names checked. Raises `SetupError` naming what differs."""
    files = read_record(folder).files
    for name, known in files.items():
        path = folder / name
        if not path.is_file() or _sha256(path) != known.sha256:
            raise SetupError(
                f"`{path}` is not what was fetched: remove it, and the next start with the model's hub id "
                "fetches it again"
            )
    return list(files)


def read_record(folder: Path) -> Record:
    """`hub.json` of a fetched model. Raises `SetupError` when there is none."""
    try:
        raw = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = {name: Known(**item) for name, item in raw.pop("files").items()}
        return Record(**raw | {"files": files, "revisions": tuple(raw["revisions"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise SetupError(
            f"`{folder}` has no `{RECORD}`, which notes the checksums of a model fetched by its hub id"
        ) from None


def _record(folder: Path, asked: HubId, files: dict[str, Known]) -> None:
    try:
        earlier = read_record(folder).revisions
    except SetupError:
        earlier = ()
    revisions = tuple(dict.fromkeys([*earlier, asked.revision or "main"]))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = Record(asked.repo, folder.name, revisions, _endpoint(), now, files)
    partial = folder / (RECORD + ".partial")
    partial.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / RECORD)


def _whole(folder: Path) -> bool:
    """Whether every recorded file is there in its size."""
    try:
        files = read_record(folder).files
    except SetupError:
        return False
    paths = {folder / name: known.size for name, known in files.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def _last_fetched(home: Path, asked: HubId) -> Path | None:
    """The latest whole commit that was once this revision, for when the hub cannot be asked."""
    folders = [path.parent for path in home.glob(f"*/{RECORD}") if _whole(path.parent)]
    records = [(read_record(folder), folder) for folder in folders]
    wanted = asked.revision or "main"
    fitting = [
        (record.fetched, folder) for record, folder in records if wanted in (*record.revisions, record.commit)
    ]
    return max(fitting, default=("", None))[1]


class _Unreachable(Exception):
    """The hub cannot be asked at all."""


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _look_up(asked: HubId) -> ModelInfo:
    """The hub's own description: commit, and names, sizes and checksums of files."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as NetworkError  # type: ignore[attr-defined]

    with _understood(asked, Path()):
        try:
            return HfApi(endpoint=_endpoint()).model_info(
                asked.repo, revision=asked.revision, files_metadata=True, timeout=TIMEOUT_S
            )
        except OfflineModeIsEnabled:
            raise _Unreachable("`HF_HUB_OFFLINE` is set") from None
        except HfHubHTTPError:
            raise
        except NetworkError as error:
            raise _Unreachable(f"`{_endpoint()}` cannot be reached ({type(error).__name__})") from None


def _wanted(asked: HubId, info: ModelInfo) -> list[RepoSibling]:
    """The files to fetch, `config.json` first, so that another architecture is refused before its weights."""
    files = {file.rfilename: file for file in info.siblings or []}
    if ADAPTER in files:
        raise SetupError(
            f"`{asked}` is an adapter, which this engine does not apply: merge it into its base model with "
            f"`{merge_command(asked.repo)}` and use the folder `merged`"
        )
    found = [file for name, file in files.items() if WANTED.fullmatch(name)]
    if not any(file.rfilename.endswith(".safetensors") for file in found) or "config.json" not in files:
        raise SetupError(
            f"`{asked}` holds no `config.json` with `*.safetensors` at its root: it cannot be run"
        )
    return sorted(found, key=lambda file: (file.rfilename != "config.json", file.rfilename))


def _fetch_files(
    asked: HubId, folder: Path, commit: str, files: Sequence[RepoSibling], report: Report
) -> dict[str, Known]:
    missing = [file for file in files if not _there(folder / file.rfilename, file)]
    left = sum((file.size or 0) - _partial_bytes(folder / file.rfilename) for file in missing)
    free = shutil.disk_usage(folder).free
    if left > free:
        raise SetupError(
            f"`{asked}` needs {readable(left)} more on disk, but `{folder}` has {readable(free)} free: make "
            "room, or set `XDG_CACHE_HOME` to a larger disk"
        )
    if missing:
        report(f"fetching {len(missing)} files, {readable(left)}, into {folder}")
    for file in missing:
        _fetch_file(asked, folder / file.rfilename, commit, file)
        if file.rfilename == "config.json":
            read_config(folder / "config.json")
    if missing:
        report(f"checked {len(files)} files against the hub's checksums")
    return {file.rfilename: _known(folder / file.rfilename, file) for file in files}


def _known(path: Path, file: RepoSibling) -> Known:
    # Checked when it arrived, so the hub's own sha256 is the file's.
    return Known(path.stat().st_size, file.lfs.sha256 if file.lfs is not None else _sha256(path))


def _there(path: Path, file: RepoSibling) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _partial_bytes(path: Path) -> int:
    partial = _partial(path)
    return partial.stat().st_size if partial.is_file() else 0


def _fetch_file(asked: HubId, path: Path, commit: str, file: RepoSibling) -> None:
    """Fetches one file, from where the last try ended. Raises `SetupError` when its checksum is wrong."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    partial = _partial(path)
    if _partial_bytes(path) > (file.size or 0):
        partial.unlink()
    url = hf_hub_url(asked.repo, file.rfilename, revision=commit, endpoint=_endpoint())
    with partial.open("ab") as out:
        # Its retries within one run keep what has come; so does this file between runs.
        http_get(
            url,
            out,
            resume_size=out.tell(),
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.rfilename,
        )
    if not _is_what_the_hub_has(partial, file):
        partial.unlink()
        raise SetupError(
            f"`{file.rfilename}` of `{asked}` arrived damaged: its checksum is not the hub's; run the "
            "command again to fetch that file anew"
        )
    os.replace(partial, path)


def _is_what_the_hub_has(path: Path, file: RepoSibling) -> bool:
    """Large files carry a sha256; of the others the hub knows git's own hash."""
    if file.lfs is not None:
        return _sha256(path) == file.lfs.sha256
    data = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return blob.hexdigest() == file.blob_id


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(HASH_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _understood(asked: HubId, folder: Path) -> Iterator[None]:
    """Turns what huggingface_hub raises into what the user can do about it."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise SetupError(
            f"`{asked}` is gated: accept its conditions at {_endpoint()}/{asked.repo}, then log in with `hf "
            "auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise SetupError(
            f"`{asked.repo}` has no revision `{asked.revision}`: name a branch, tag or commit"
        ) from None
    except errors.RepositoryNotFoundError:
        raise SetupError(
            f"there is no folder `{asked.repo}` here, and the hub shows no model of that name: check it, or "
            "log in with `hf auth login` if the model is private"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise SetupError(
            f"the hub answered {status} for `{asked}`: run the command again later; what has come is kept"
        ) from None
    except errors.HTTPError as error:  # type: ignore[attr-defined]
        raise SetupError(
            f"the connection to `{_endpoint()}` broke off ({type(error).__name__}): run the command again, "
            "it goes on where it stopped"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SetupError(
                f"the disk of `{folder}` is full: make room and run the command again, it goes on where it "
                "stopped"
            ) from None
        raise SetupError(
            f"`{asked}` could not be fetched "
            f"({error.strerror or 'it came in another size than announced'}): run the command again"
        ) from None


def _elsewhere(asked: HubId, reason: str) -> str:
    """What to do on a machine without the hub."""
    name = asked.repo.partition("/")[2]
    revision = f" --revision {asked.revision}" if asked.revision else ""
    command = (
        f'hf download {asked.repo}{revision} --include "*.json" "*.safetensors" --exclude "original/*" '
        '"metal/*" '
        f"--local-dir {name}"
    )
    return (
        f"`{asked}` is no folder here and was not fetched before, and {reason}. On a machine with access "
        f"run\n  {command}\n"
        f"copy the folder `{name}` here, and name it: `--model ./{name}`"
    )
