"""Recorded input that nobody here wrote, where the folder that holds it lies beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.program import ROOT

__all__ = ["chunks", "log_files", "stream_files"]

DATA = ROOT.parent / "shared" / "data"


def _files(folder: str, pattern: str) -> list[Path]:
    """Skips visibly where they are absent."""
    found = sorted((DATA / folder).glob(pattern))
    if not found:
        pytest.skip(f"no recorded data beside the repository ({folder})")
    return found


def stream_files() -> list[Path]:
    """OpenAI chat and Responses streams: one JSON object a line, or raw SSE."""
    return [*_files("recorded-streams", "chat/*.*"), *_files("recorded-streams", "responses/*.jsonl")]


def log_files() -> list[Path]:
    return _files("logs", "*.log")


def chunks(file: Path) -> list[bytes]:
    """The JSON texts of a stream, byte for byte."""
    lines = file.read_bytes().split(b"\n")
    if file.suffix == ".sse":
        lines = [line.removeprefix(b"data: ").rstrip(b"\r") for line in lines if line.startswith(b"data: {")]
    return [line for line in lines if line.strip()]
