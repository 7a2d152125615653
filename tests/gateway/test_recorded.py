"""Recorded streams and logs go through the gateway over HTTP and come back byte for byte, in every form."""

from __future__ import annotations

import httpx
import orjson

from tests.support.recorded import chunks, log_files, stream_files

NDJSON = {"content-type": "application/x-ndjson"}


def _bodies(lines: list[bytes], type: bytes) -> list[bytes]:
    """NDJSON bodies within the limits of one request: 256 events, 1 MiB."""
    bodies: list[list[bytes]] = [[]]
    for line in lines:
        event = b'{"type":"%b","data":%b}\n' % (type, line)
        if len(bodies[-1]) == 256 or sum(map(len, bodies[-1])) + len(event) > 1_000_000:
            bodies.append([])
        bodies[-1].append(event)
    return [b"".join(body) for body in bodies]


async def _post(http: httpx.AsyncClient, run: str, lines: list[bytes], type: bytes) -> None:
    for body in _bodies(lines, type):
        answer = await http.post(f"/runs/{run}/events", content=body, headers=NDJSON)
        assert answer.status_code == 200, answer.text


def _data(envelopes: list[bytes], run: str, type: bytes) -> list[bytes]:
    """What each envelope carries, the rest of it checked."""
    found = []
    for seq, envelope in enumerate(envelopes, 1):
        assert envelope.startswith(b'{"id":"%d-' % seq)
        _, marker, data = envelope.partition(b'","run":"%b","type":"%b","data":' % (run.encode(), type))
        assert marker
        found.append(data[:-1])
    return found


async def test_chunks_come_back(http: httpx.AsyncClient) -> None:
    """What NDJSON brings, NDJSON and SSE give back: the bytes between the tokens around `data`."""
    files = [file for file in stream_files() if max(map(len, chunks(file))) < 60_000]
    for number, file in enumerate(files):
        lines, run = chunks(file), f"stream-{number}"
        await _post(http, run, lines, b"openai.chunk")
        ndjson = await http.get(f"/runs/{run}/events", headers={"accept": "application/x-ndjson"})
        assert _data(ndjson.content.splitlines(), run, b"openai.chunk") == lines, file.name
    run = "stream-0"
    end = {"type": "run.finished", "data": {"result": None}}
    assert (await http.post(f"/runs/{run}/events", json=end)).status_code == 200
    sse = await http.get(f"/runs/{run}/events", headers={"accept": "text/event-stream"})
    frames = [frame.split(b"\n") for frame in sse.content.split(b"\n\n")]
    envelopes = [lines[1].removeprefix(b"data: ") for lines in frames if lines[0].startswith(b"id: ")]
    assert _data(envelopes[:-1], run, b"openai.chunk") == chunks(files[0])


async def test_logs_come_back(http: httpx.AsyncClient) -> None:
    """Log lines posted as JSON strings are the lines of the file again."""
    for number, file in enumerate(log_files()[:3]):
        lines, run = [orjson.dumps(line.decode()) for line in file.read_bytes().split(b"\n")][:6000], f"file-{number}"
        await _post(http, run, lines, b"log")
        ndjson = await http.get(f"/runs/{run}/events", headers={"accept": "application/x-ndjson"})
        assert _data(ndjson.content.split(b"\n")[:-1], run, b"log") == lines
