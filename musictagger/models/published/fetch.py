"""Fetching what others published: a wheel through pip, a file over HTTPS. Both are pinned by SHA-256.

Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

import contextlib
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
from typing import IO

from musictagger.errors import ModelError, printable
from musictagger.models.card import sha256_of
from musictagger.models.published.catalogue import WebFile, Wheel
from musictagger.progress import Progress

_BLOCK_BYTES = 1 << 16
_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Wanted:
    """What is being fetched: the model's name for texts, its source, and what else a user without network can do."""

    name: str
    source: Wheel | WebFile
    otherwise: str


def fetch(wanted: Wanted, downloads: Path, progress: Progress) -> Path:
    """The file of `wanted`, with the right content, in `downloads`: the one kept there, or a fetched one.

    Raises ModelError in one line that says what to do, OSError where nothing can be written. A file over HTTPS that
    came only in part stays as `*.part`, and the next call goes on from there.
    """
    source = wanted.source
    if (kept := _kept(downloads, source)) and sha256_of(kept) == source.sha256:
        return kept
    _check_room(wanted, downloads)
    progress.say(f"fetching {wanted.name} ({source.title}, {source.size_bytes / 1e6:.0f} MB)")
    progress.start(f"fetching {wanted.name}", source.size_bytes, "bytes")
    if isinstance(source, Wheel):
        fetched = _through_pip(wanted, source, downloads, progress)
        served = f"the package index served another {source.package} {source.version} than the authors'"
    else:
        fetched = _over_https(wanted, source, downloads, progress)
        served = f"{source.url} is another file than the one that was verified"
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
    """Raises ModelError where there is no room: for pip's copy and ours, or a file and the model made of it."""
    needed, free = 2 * wanted.source.size_bytes, shutil.disk_usage(downloads).free
    if free < needed:
        raise ModelError(
            f"could not fetch {wanted.name}: no space left in {printable(downloads)}: {needed / 1e6:.0f} MB are "
            f"needed, {free / 1e6:.0f} MB are free; make room"
        )


def _kept(downloads: Path, source: Wheel | WebFile) -> Path | None:
    if isinstance(source, WebFile):
        path = _place(downloads, source)
        return path if path.is_file() else None
    return next(iter(sorted(downloads.glob(f"{source.package}-{source.version}-*.whl"))), None)


def _why_not(wanted: Wanted, said: str) -> str:
    """One line: what went wrong, and what to do."""
    return (
        f"could not fetch {wanted.name}: no network? Run `musictagger weights pull {wanted.name}` where there is one, "
        f"or {wanted.otherwise} ({said})"
    )


# --- over HTTPS --------------------------------------------------------------------------------------------------


def _place(downloads: Path, source: WebFile) -> Path:
    # Files of several models have one name where they are published, so here it is the digest that tells them apart.
    return downloads / f".{source.sha256[:16]}{Path(source.url).suffix}"


class _NetworkError(Exception):
    """What the network did; the cause tells."""


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Around what talks to the network alone: its errors are OSErrors, as those of the disk are."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError from error


def _over_https(wanted: Wanted, source: WebFile, downloads: Path, progress: Progress) -> Path:
    """The file as `*.part`, going on where an earlier try stopped."""
    path = _place(downloads, source)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("ab") as file:
            _into(file, source, progress)
    except _NetworkError as error:
        raise ModelError(_why_not_https(wanted, part, error.__cause__)) from error
    if part.stat().st_size < source.size_bytes:
        raise ModelError(_ended(wanted, part, "the connection ended"))
    return part


def _why_not_https(wanted: Wanted, part: Path, error: BaseException | None) -> str:
    """One line: what the network did, and what to do."""
    if not isinstance(error, urllib.error.HTTPError):
        return _ended(wanted, part, getattr(error, "reason", None) or error)
    error.close()
    if error.code == 416 or not part.stat().st_size:
        # 416: there is nothing after what is here, so this is not the beginning of that file.
        part.unlink()
    answered = f"{wanted.source.title} answers {error.code} {error.reason}"
    return f"could not fetch {wanted.name}: {answered}; try again later, or {wanted.otherwise}"


def _ended(wanted: Wanted, part: Path, reason: object) -> str:
    """Why the file is not here, and how much of it is. A part of nothing is taken away."""
    if size := part.stat().st_size:
        return (
            f"could not fetch {wanted.name}: {reason} after {size} of {wanted.source.size_bytes} bytes; run "
            f"`musictagger weights pull {wanted.name}` again, and it goes on there"
        )
    part.unlink()
    return _why_not(wanted, str(reason))


def _into(file: IO[bytes], source: WebFile, progress: Progress) -> None:
    """Append what is missing of `source`; all of it where the server knows no ranges.

    Of a longer file no more is taken than shows that it is longer. Raises _NetworkError.
    """
    have = file.tell()
    if have >= source.size_bytes:
        return
    request = urllib.request.Request(source.url, headers={"User-Agent": "musictagger"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _network():
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    with answer:
        if have and not _continues(answer, have):
            file.truncate(0)
            have = 0
        while have <= source.size_bytes and (block := _block(answer)):
            file.write(block)
            have += len(block)
            progress.advance(min(have, source.size_bytes))


def _block(answer: http.client.HTTPResponse) -> bytes:
    with _network():
        return answer.read(_BLOCK_BYTES)


def _continues(answer: http.client.HTTPResponse, have: int) -> bool:
    return answer.status == 206 and (answer.headers["Content-Range"] or "").startswith(f"bytes {have}-")


# --- through pip -------------------------------------------------------------------------------------------------


def _through_pip(wanted: Wanted, wheel: Wheel, downloads: Path, progress: Progress) -> Path:
    """The wheel pip fetched, so mirrors, proxies and pip's cache are used as the user set them."""
    code, output = _download(wheel, downloads, progress)
    if code:
        raise ModelError(_why_not_pip(wanted, output, downloads))
    fetched = _kept(downloads, wheel)
    if fetched is None:
        raise ModelError(f"could not fetch {wanted.name}: pip reported success, and left no wheel of {wheel.title}")
    return fetched


def _download(wheel: Wheel, downloads: Path, progress: Progress) -> tuple[int, str]:
    """Run pip; returns its exit code and what it said. Its progress lines are `Progress BYTES of BYTES`."""
    # -P: a folder of music may have a `pip` in it, which is not to be run.
    # Two short tries: someone offline waits seconds for the message, not a minute.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--no-color", "--progress-bar=raw", "--retries=1", "--timeout=15"]
    command += ["--dest", str(downloads), f"{wheel.package}=={wheel.version}"]
    said: list[str] = []
    try:
        with _running(command, downloads) as (process, output):
            for line in output:
                if numbers := re.match(r"Progress (\d+) of \d+", line):
                    progress.advance(int(numbers[1]))
                else:
                    said.append(line.strip())
            return process.wait(), "\n".join(said)
    except OSError as error:
        raise ModelError(f"could not fetch {wheel.title}: pip cannot be run: {error}") from error


@contextlib.contextmanager
def _running(command: list[str], temporary: Path) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A process that does not outlive this block, whatever ends it (Ctrl-C too), with its temporary files there."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process, process.stdout
        finally:
            process.terminate()
            process.wait()


def _why_not_pip(wanted: Wanted, output: str, downloads: Path) -> str:
    """One line: what went wrong with pip, and what to do."""
    start = f"could not fetch {wanted.name}"
    if "No module named pip" in output:
        return f"{start}: this Python has no pip; install it (`uv pip install pip` or `python -m ensurepip`)"
    if "No space left on device" in output or "No usable temporary directory" in output:
        return f"{start}: no space left in {printable(downloads)}; make room, or point TMPDIR elsewhere"
    errors = [line for line in output.splitlines() if line.startswith("ERROR: ")] or output.splitlines()[-1:]
    said = errors[-1].removeprefix("ERROR: ").strip() if errors else "nothing"
    return _why_not(wanted, f"pip said: {said}")
