"""Downloads the paper's conversation files, and checks that they are the published ones, bit for bit."""

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import requests
from tqdm import tqdm

from pedalign.core.errors import UserError, nearest

REPOSITORY = "https://raw.githubusercontent.com/luffycodes/Tutorbot-Spock/main/datasets"

# file → git blob id, the sha1 of "blob <bytes>\0<content>" (arXiv 2402.05000, branch main of that repository)
PUBLISHED = {
    "bio-dataset-1.json": "7d8016e5a24f6858ee4c9d208e0c57d02f679208",
    "bio-dataset-2.json": "7b985b5485dc18aebc1b4564fcaf498446a9b4cc",
    "bio-dataset-3.json": "7fdc1ededbf6896326f9d01932257fa3594a5c35",
    "bio-dataset-ppl.json": "f185a8b1a237a2e9ea959b8adda06278aa463f2f",
}
_MAX_BYTES = 200_000_000  # far more than any of them has
_TRY_AGAIN = (408, 425, 429)  # client errors that may pass


def published_blob(name: str) -> str:
    """The git blob id of a published file. Raises UserError if no file of this name is published."""
    if name not in PUBLISHED:
        raise UserError(f"datasets/published: the paper published no file {name}", nearest(name, PUBLISHED))
    return PUBLISHED[name]


def blob_id(path: Path) -> str:
    """The id that git gives to the file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def check_published(paths: Iterable[Path]) -> None:
    """Raise UserError if one of the files is not the paper's, bit for bit. Missing files are skipped."""
    for path in paths:
        wanted = published_blob(path.name)
        found = blob_id(path) if path.is_file() else "none, as it is no file"
        if path.exists() and found != wanted:
            raise UserError(
                f"{path}: is not the published file: git blob {found}, not {wanted}",
                "move it away and it is downloaded; for a file of your own set 'source' in config.yaml to its folder",
            )


def fetch(url: str, path: Path, wanted: str, tries: int = 6, pause: float = 2.0, timeout: float = 30.0) -> None:
    """Download `url` to `path`, which appears whole and with the blob id `wanted`, or not at all.

    Received bytes stay in a hidden sibling of `path`, from where the next of the `tries` or the next call goes on.
    `pause` (seconds) doubles with each try; a connection that is silent for `timeout` (seconds) is given up. Raises
    UserError if the server has no such file or sends other bytes, or if all tries fail.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    reason = ""
    for number in range(tries):
        if reason:
            print(f"{url}: {reason}; trying again", flush=True)
            time.sleep(pause * 2 ** (number - 1))
        resumed = part.exists()
        try:
            _download(url, part, timeout)
        except requests.RequestException as error:
            reason = str(error) or type(error).__name__
            continue
        found = blob_id(part)
        if found == wanted:
            os.replace(part, path)
            return
        part.unlink()
        reason = f"these are not the published bytes (git blob {found}, published is {wanted})"
        if not resumed:
            raise UserError(
                f"{path}: {url} sent other bytes than those published: git blob {found}, not {wanted}",
                "nothing was kept; check 'published_url' in config.yaml, or the proxy that the download went through",
            )
    kept = f"{part.stat().st_size} bytes are kept, run again to go on; or " if part.exists() else ""
    raise UserError(
        f"{path}: {url} could not be fetched in {tries} tries: {reason}",
        f"{kept}check the connection, or download the file elsewhere and put it there",
    )


def _download(url: str, part: Path, timeout: float) -> None:
    """Download what `part` lacks. Raises requests' errors if it ends early, UserError if another try is useless."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        status = response.status_code
        if status == requests.codes.requested_range_not_satisfiable:
            return  # the part is whole already
        if 400 <= status < 500 and status not in _TRY_AGAIN:
            raise UserError(
                f"{url}: the server answers {status} {response.reason}", "check 'published_url' in config.yaml"
            )
        response.raise_for_status()
        if status == requests.codes.partial_content:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                part.unlink()
                raise requests.ConnectionError(f"asked from byte {start} on, the server sent another part")
        else:
            start = 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(
                desc=part.name[1:].removesuffix(".part"), initial=start, total=total, unit="B", unit_scale=True,
                mininterval=1, disable=False,
            ) as bar,
        ):  # fmt: skip
            for chunk in response.iter_content(2**16):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > _MAX_BYTES:
                    raise UserError(
                        f"{url}: does not end within {_MAX_BYTES} bytes", "check 'published_url' in config.yaml"
                    )
            file.flush()
            os.fsync(file.fileno())
