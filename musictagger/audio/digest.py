"""The identity of a track: a digest of its audio payload that does not change when the file is retagged.

The format, recognised by content and never by name, decides which bytes are audio: see `Format.hash_payload` in
`musictagger.audio.formats.base`. The format's name is hashed first, so that two formats never collide. A file that
does not follow the format its first bytes announce is hashed as a whole.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

from musictagger.audio.formats.base import MalformedError, hash_span, open_bytes
from musictagger.audio.formats.table import sniff


def audio_digest(path: Path, beat: Callable[[], None] = lambda: None) -> str:
    """SHA-256, as 64 hex digits, of the audio payload of the file at `path`, without its tags.

    Reads the file once, in blocks of 1 MiB; memory does not grow with the file. `beat` is called for every block, so
    that a watchdog can distinguish a slow disk from a hung one. Raises OSError and nothing else.
    """
    with open_bytes(path, beat) as file:
        try:
            format_, start = sniff(file)
            digest = hashlib.sha256(format_.name.encode() + b"\0")
            payload_bytes = format_.hash_payload(file, start, digest)
        except (MalformedError, struct.error):
            payload_bytes = 0
        if not payload_bytes:
            digest = hashlib.sha256(b"whole\0")
            hash_span(file, 0, file.size, digest)
    return digest.hexdigest()
