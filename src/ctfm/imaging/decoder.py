"""Decode compressed pixels in a process of its own.

Damaged pixels may make native decoders abort, hang or fill the memory. Here that ends a small process, which costs
one series its volume; the program goes on. The process starts with the first request and ends with the series.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pydicom
from pydicom.pixels import iter_pixels

LONGEST_S = 120  # for one frame
LARGEST_BYTES = 2**33  # of address space


class Failed(Exception):
    """The pixels can't be decoded; the message says why."""


class Decoder:
    """A process that decodes; use it as a context."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

    def frames(self, path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the stored values of frames of a file, as ``unpack`` does.

        Raises:
            Failed: they can't be decoded.
        """
        source, target = self._pipes()
        try:
            source.write(json.dumps([str(path.absolute()), list(indices)]).encode() + b"\n")
            source.flush()
        except BrokenPipeError as error:
            raise Failed("the decoder crashed") from error
        for _ in indices:
            told = json.loads(target.readline() or '{"error": "the decoder crashed"}')
            if "error" in told:
                raise Failed(told["error"])
            values = np.empty(told["shape"], told["dtype"])
            if target.readinto(values.data.cast("B")) != values.nbytes:  # type: ignore[attr-defined]
                raise Failed("the decoder crashed")
            yield values

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process is None:
            command = [sys.executable, "-P", "-m", "ctfm.imaging.decoder"]
            pipe, none = subprocess.PIPE, subprocess.DEVNULL
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=none)
        assert self._process.stdin and self._process.stdout
        return self._process.stdin, self._process.stdout


def unpack(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the stored values of frames of a file: (rows, columns), colours last.

    Raises:
        Failed: they can't be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from iter_pixels(pydicom.dcmread(path), indices=indices)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they like
        raise Failed(" ".join(str(error).split())[:200] or type(error).__name__) from error


def main() -> None:
    """Answer requests, one a line: for each frame a line that describes it, and its bytes."""
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST_BYTES, LARGEST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not come between
    for request in sys.stdin.buffer:
        name, indices = json.loads(request)
        signal.alarm(LONGEST_S)
        frames = unpack(Path(name), indices)
        try:
            for _ in indices:
                if (values := next(frames, None)) is None:
                    raise Failed("fewer frames than the header tells")
                _answer(answers, {"shape": values.shape, "dtype": values.dtype.str}, np.ascontiguousarray(values).data)
                signal.alarm(LONGEST_S)
        except Failed as error:
            _answer(answers, {"error": str(error)})
        signal.alarm(0)


def _answer(answers: IO[bytes], told: dict[str, Any], content: Any = b"") -> None:
    answers.write(json.dumps(told).encode() + b"\n")
    answers.write(content)
    answers.flush()


if __name__ == "__main__":
    main()
