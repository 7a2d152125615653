"""Recorded streams and logs go through the library and come back byte for byte."""

from __future__ import annotations

import json

from processor import Tailrace
from processor.core.events import draft
from processor.core.json import loads
from tests.support.recorded import chunks, log_files, stream_files


def _texts(lines: list[bytes]) -> list[str]:
    """Text increments of a chat or Responses stream, in order."""
    found = []
    for line in lines:
        chunk = json.loads(line)
        if chunk.get("type") == "response.output_text.delta":
            found.append(chunk["delta"])
        found += [(choice.get("delta") or {}).get("content") for choice in chunk.get("choices", ())]
    return [text for text in found if isinstance(text, str) and text]


async def test_chunks_come_back(tail: Tailrace) -> None:
    """Each recorded chunk is an event whose envelope holds its very bytes."""
    session = await tail.session()
    for file in stream_files():
        lines = chunks(file)
        run = tail.run()
        drafts = [draft("openai.chunk", line) for line in lines]
        for first in range(0, len(drafts), 200):
            outcomes = await session.producer.append_body(run.id, drafts[first : first + 200])
            assert {outcome.word for outcome in outcomes} == {"appended"}, file.name
        raw = [event.raw async for event in run.follow(live=False)]
        assert len(raw) == len(lines)
        for seq, (envelope, line) in enumerate(zip(raw, lines, strict=True), 1):
            assert envelope.startswith(b'{"id":"%d-' % seq), file.name
            assert envelope.endswith(b'","run":"%b","type":"openai.chunk","data":%b}' % (run.id.encode(), line)), (
                file.name
            )


async def test_written_text_comes_back(tail: Tailrace) -> None:
    """Text written increment by increment is the run's text, whatever characters a model cut it at."""
    for file in stream_files():
        texts = _texts(chunks(file))
        async with tail.run() as run:
            for text in texts:
                await run.write(text)
        assert await run.text() == "".join(texts), file.name


async def _log(tail: Tailrace, name: str, content: bytes) -> None:
    lines = content.decode().split("\n")
    run = tail.run(labels={"file": name})
    last = None
    for at, line in enumerate(lines):
        last = run.log(line)
        if at % 500 == 499:
            await last
    assert last is not None
    await last
    assert "\n".join([event.text async for event in run.follow(live=False)]).encode() == content


async def test_logs_come_back(tail: Tailrace) -> None:
    """27,000 log lines, one event each, are read again as the files that they came from."""
    for file in log_files():
        await _log(tail, file.name, file.read_bytes())


async def test_values_come_back(tail: Tailrace) -> None:
    """What is emitted as a Python value is read as an equal one."""
    for file in stream_files()[:8]:
        values = [json.loads(line) for line in chunks(file)]
        run = tail.run()
        for value in values:
            sent = run.emit("chunk", value)
        await sent
        assert [event.data async for event in run.follow(live=False)] == values
        assert [loads(line) for line in chunks(file)] == values
