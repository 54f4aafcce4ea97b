"""The published weights: where they lie, under which licence, and fetching them.

Downloads go through ``huggingface_hub``, so ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and proxies
mean what they mean everywhere else, and a file that ``transformers`` fetched is not fetched again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datool.errors import DatoolError, lookup
from datool.models.specs import MODELS, WEIGHT_FILES

APACHE = "Apache-2.0"
NON_COMMERCIAL = "CC-BY-NC-4.0"
# Their authors state none for these weights; the code of V1 is Apache-2.0.
UNSTATED = "unstated"
OFFLINE = "--offline or HF_HUB_OFFLINE is set"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Published:
    """One published weight file.

    Args:
        repo: repository on the Hugging Face hub.
        revision: commit that is fetched, so that the bytes cannot change.
        licence: of the weights.
        size_mb: to download, in 10^6 bytes.
        sha256: of the file; empty where unknown (then the hub's own hash is checked).
        file: its name in the repository.
    """

    repo: str
    revision: str
    licence: str
    size_mb: int
    sha256: str = ""
    file: str = WEIGHT_FILES[0]


def resolve(name: str) -> str | None:
    """Return the row that a name, a short name (``v2-small``) or a hub id of the table stands for; None if none."""
    names = _names()
    if name in names:
        return names[name]
    ids = {entry.repo.lower(): key for key, entry in PUBLISHED.items()}
    plain = {repo.removesuffix("-hf"): key for repo, key in ids.items()}
    aliases = {"hypersim": "indoor", "vkitti": "outdoor"}
    asked = re.sub("hypersim|vkitti", lambda match: aliases[match[0]], name.lower())
    return ids.get(asked) or plain.get(asked) or _V1_ORIGINALS.get(asked)


def published(name: str) -> Published:
    """Return where the weights of a row lie.

    Raises:
        DatoolError: unknown row, or weights that nobody published.
    """
    name = known(name)
    if name in PUBLISHED:
        return PUBLISHED[name]
    reason = UNPUBLISHED.get(name, "it comes with datool, there is nothing to fetch")
    raise DatoolError(f"no weights of {name} on the hub: {reason}.", "`datool models` lists what can be fetched.")


def known(name: str) -> str:
    """Return the row that a name or a short name stands for.

    Raises:
        DatoolError: no such name; the nearest one is named.
    """
    return lookup(_names(), name, "model")


def _names() -> dict[str, str]:
    """Return the row behind each name and each short name."""
    return {name: key for key in MODELS for name in (key, short_name(key))}


def short_name(name: str) -> str:
    """Return a row's name as people type it: ``v2-small`` for ``depth-anything-v2-small``."""
    return name.removeprefix("depth-anything-")


def cached(name: str) -> Path | None:
    """Return the weight file of a row in the local cache; None if it is not there. Touches no network."""
    from huggingface_hub import try_to_load_from_cache

    entry = PUBLISHED.get(name)
    found = try_to_load_from_cache(entry.repo, entry.file, revision=entry.revision) if entry else None
    return Path(found) if isinstance(found, str) else None


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Return the weight file of a row, downloaded if it is not cached.

    Raises:
        DatoolError: never published, or any failure of the download; the cache is as it was, a rerun starts again.
    """
    entry = published(name)
    if path := cached(name):
        return path
    if progress:
        progress(f"{name}: licence of the weights: {entry.licence}")
        progress(f"{name}: downloading {entry.size_mb} MB from {_address(entry.repo, entry.revision)}")
    path = download(entry.repo, entry.file, entry.revision, progress)
    # Files above a few MB carry their SHA-256 as the hub's tag, and the cache names the blob after it.
    blob = path.resolve()
    expected = entry.sha256 or (blob.name if re.fullmatch("[0-9a-f]{64}", blob.name) else "")
    got = sha256_of(path)
    if expected and got != expected:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise DatoolError(
            f"downloaded {name}, but its SHA-256 is {got}, expected {expected}; the file was removed.",
            "Run the same command again; if it happens again, HF_ENDPOINT or a proxy changes files.",
        )
    return path


def download(
    repo: str, file: str, revision: str, progress: Progress | None = None, kind: Literal["model", "dataset"] = "model"
) -> Path:
    """Return a file of a hub repository, downloaded if it is not cached.

    Args:
        repo, file, revision: which.
        progress: gets a line a second.
        kind: of the repository.
    Raises:
        DatoolError: offline, unreachable, not found, gated, cut off, full disk or no permission in the cache.
    """
    from huggingface_hub import hf_hub_download

    try:
        # The library reads its own switch once, when it is imported.
        found = hf_hub_download(
            repo, file, repo_type=kind, revision=revision, local_files_only=offline(), tqdm_class=_bar(progress)
        )
        return Path(found)
    except _failures() as error:
        reason, hint = _explain(error, repo, file, revision, kind)
        raise DatoolError(f"cannot download {file} of {repo}: {reason}.", hint) from error


def offline() -> bool:
    """Tell whether the network is not to be asked: ``--offline``, or ``HF_HUB_OFFLINE`` is set."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES


def unreachable(name: str, timeout_s: float) -> str:
    """Return why a row's weights cannot be fetched now, in plain words; empty if they can.

    One HEAD request in a daemon thread with a hard deadline: name resolution and proxies that swallow packets have no
    timeout of their own. Under ``HF_HUB_OFFLINE`` nothing is sent.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    entry = published(name)
    if offline():
        return OFFLINE
    answer: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask() -> None:
        try:
            url = hf_hub_url(entry.repo, entry.file, revision=entry.revision)
            get_hf_file_metadata(url, timeout=timeout_s + 5)  # the deadline below comes first
        except _failures() as error:
            answer.put(_explain(error, entry.repo, entry.file, entry.revision)[0])
        else:
            answer.put("")

    threading.Thread(target=ask, name="datool-probe", daemon=True).start()
    try:
        return answer.get(timeout=timeout_s)
    except queue.Empty:
        return f"no answer from {constants.ENDPOINT} within {timeout_s:g} s"


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256 of a file's content, or of several one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _address(repo: str, revision: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo} @ {revision[:12]}"


def _failures() -> tuple[type[Exception], ...]:
    """What ``huggingface_hub`` raises when a transfer fails (``hf_xet`` raises bare RuntimeErrors)."""
    from huggingface_hub import errors

    return (OSError, errors.HTTPError, errors.EntryNotFoundError, errors.XetDownloadError, RuntimeError, ValueError)


def _bar(progress: Progress | None, every_s: float = 1.0) -> type:
    """Return a progress-bar class for ``huggingface_hub`` that draws nothing and reports a line a second."""
    from huggingface_hub.utils import tqdm

    class Lines(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"disable": True}))
            self.total, self.done, self.said = options.get("total"), options.get("initial") or 0, time.monotonic()

        def update(self, n: float | None = 1) -> bool | None:
            self.done += int(n or 0)
            now = time.monotonic()
            if progress and now - self.said >= every_s:
                self.said = now
                total = f" of {self.total / 1e6:.0f}" if isinstance(self.total, (int, float)) else ""
                progress(f"{self.done / 1e6:.0f}{total} MB")
            return None

    return Lines


def _explain(error: BaseException, repo: str, file: str, revision: str, kind: str = "model") -> tuple[str, str]:
    """Return the reason of a failed transfer in plain words, and the next step."""
    from huggingface_hub import constants, errors

    hub, here = constants.ENDPOINT, _address(repo, revision)
    by_hand = "Or fetch it elsewhere and give the file: --model NAME=FILE."
    if kind == "dataset":
        by_hand = f"Or fetch {hub}/datasets/{repo}/resolve/{revision}/{file} elsewhere, and give its folder by --root."
    names: dict[type[BaseException], str] = {
        errors.RepositoryNotFoundError: "repository",
        errors.RevisionNotFoundError: "revision",
        errors.RemoteEntryNotFoundError: "file",
    }
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for link in chain:
        if offline() and isinstance(link, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
            return f"{OFFLINE} and the file is not cached", f"Run it once with a network. {by_hand}"
        if isinstance(link, errors.GatedRepoError):
            return "access is gated", f"Ask for access at {hub}/{repo}, then `hf auth login`. {by_hand}"
        if type(link) in names:
            return f"{names[type(link)]} not found at {here}", f"Check the name and HF_ENDPOINT. {by_hand}"
        if isinstance(link, errors.HfHubHTTPError):
            status = getattr(link.response, "status_code", "?")
            hint = "Log in with `hf auth login`." if status in (401, 403) else "Run the same command again later."
            return f"{hub} answered {status}", f"{hint} {by_hand}"
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"disk full at {constants.HF_HUB_CACHE}", "Free some space or set HF_HOME, then run it again."
        if isinstance(link, OSError) and link.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return (
                f"no permission to write to {constants.HF_HUB_CACHE}",
                "Set HF_HOME to a folder that you may write to.",
            )
        if isinstance(link, OSError) and link.filename:
            reason = f"cannot write {link.filename}: {link.strerror}"
            return reason, "Set HF_HOME to a folder that you may write to."
    words = " ".join(str(chain[-1]).split()) or type(chain[-1]).__name__
    if "Consistency check failed" in str(error) or "RemoteProtocol" in type(error).__name__:
        return "the connection was cut off half-way", "Run the same command again."
    if "refused" in words.lower():
        return f"{hub} refused the connection", f"Check the network, HF_ENDPOINT and proxies. {by_hand}"
    return f"{hub} cannot be reached ({words})", f"Check the network, HF_ENDPOINT and proxies. {by_hand}"


_V1_ORIGINALS = {
    "liheyoung/depth_anything_vits14": "depth-anything-v1-small",
    "liheyoung/depth_anything_vitb14": "depth-anything-v1-base",
    "liheyoung/depth_anything_vitl14": "depth-anything-v1-large",
}

UNPUBLISHED = {
    "depth-anything-v2-giant": "not released by its authors",
    "metric-nyu-large": "to be trained by the recipe metric-nyu",
    "metric-kitti-large": "to be trained by the recipe metric-kitti",
    "tiny-teacher": "to be trained by the recipe of that name",
    "tiny-student": "to be trained by the recipe of that name",
    "nano": "for tests, never trained",
    "nano-conv": "for tests, never trained",
    "nano-metric": "for tests, never trained",
}

# Revisions and hashes as other public repositories pin them; none was checked against the hub from here. UNVERIFIED: no
# pinned revision of V1 Base was found, so it follows the branch.
PUBLISHED: dict[str, Published] = {
    "depth-anything-v1-small": Published(
        "LiheYoung/depth-anything-small-hf", "25216a913fa218ccb7d58cce818d52b728b6c1f6", UNSTATED, 99
    ),
    "depth-anything-v1-base": Published("LiheYoung/depth-anything-base-hf", "main", UNSTATED, 390),
    "depth-anything-v1-large": Published(
        "LiheYoung/depth-anything-large-hf", "27ccb0920352c0c37b3a96441873c8d37bd52fb6", UNSTATED, 1341
    ),
    "depth-anything-v2-small": Published(
        "depth-anything/Depth-Anything-V2-Small-hf",
        "5426e4f0f36572d16453bbda7a8389317b1bef99",
        APACHE,
        99,
        "3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
    ),
    "depth-anything-v2-base": Published(
        "depth-anything/Depth-Anything-V2-Base-hf", "b1958afc87fb45a9e3746cb387596094de553ed8", NON_COMMERCIAL, 390
    ),
    "depth-anything-v2-large": Published(
        "depth-anything/Depth-Anything-V2-Large-hf",
        "7581137eff8d4e94f6e796d3baea0e9fa79b22d2",
        NON_COMMERCIAL,
        1341,
        "4e01e34ed5549b529b70b92d53226bc370f03041977b390d3dde45d47f516cf9",
    ),
    "depth-anything-v2-metric-indoor-small": Published(
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
        "8078d68a9c75a972131914f6afd0c1723be0da7f",
        UNSTATED,
        99,
        "e990eb82fbf11b05b7813261196a2b841bdcf5a05f64396724a8987fa90504a3",
    ),
    "depth-anything-v2-metric-indoor-base": Published(
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Base-hf",
        "c6d9784685727bfc6d0a7b5452ce94afaee1e7f5",
        UNSTATED,
        390,
        "8b902f5d9a8c8a9520f3a8c6a00afe442b464eff5aaf0cb405d1da721cd9f79f",
    ),
    "depth-anything-v2-metric-indoor-large": Published(
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Large-hf",
        "d2fc6a93601aabb1139a3bf0ebfcb4e89c67817f",
        UNSTATED,
        1341,
        "04d3295ff4f9cbee72b8998a85930fe870b45ba4431e7af47415fbded02388ca",
    ),
    "depth-anything-v2-metric-outdoor-small": Published(
        "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
        "fd2c22027eaf20374204f14099b8341e1925ad39",
        UNSTATED,
        99,
        "ad065c77a7421ca55159a1f0db9433397a607690f2d76bb8a6fc54b1be7a3124",
    ),
    "depth-anything-v2-metric-outdoor-base": Published(
        "depth-anything/Depth-Anything-V2-Metric-Outdoor-Base-hf",
        "5b575fded0346068343a6d96d0ce3ab6dbc9fb49",
        UNSTATED,
        390,
        "1f2e9ed13ee39126686994669f8d1bfd9cd8f093a4d2a0891e5a0e5263b480c9",
    ),
    "depth-anything-v2-metric-outdoor-large": Published(
        "depth-anything/Depth-Anything-V2-Metric-Outdoor-Large-hf",
        "4eab4cf1983c2801c515804005214de56a4b67cc",
        UNSTATED,
        1341,
        "15f7de4b22f1b1194847ea694ee9ed6395563ba5cd52b70b87901f183c232c9a",
    ),
}
