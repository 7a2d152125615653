"""The console in a real browser, in front of the real gateway."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from gateway.app import Gateway, standalone
from gateway.auth import everyone
from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.core.backoff import Retry
from processor.store.workers import announce, tell_stopped, worker_here
from tests.gateway.serving import under_uvicorn
from tests.support.servers import TestServer
from tests.support.until import until

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed: no browser test runs")
expect = playwright.expect
expect.set_options(timeout=15_000)  # of milliseconds: a loaded machine takes its time

FOLDER = Path(__file__).parents[2] / "gateway" / "console"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the console is not tried")

EVIL = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"


@asynccontextmanager
async def page_of(
    address: str,
    *,
    width: int = 1400,
    height: int = 900,
    scheme: Literal["light", "dark"] = "light",
    quiet: bool = True,
) -> AsyncIterator[Any]:
    """The console in a browser of its own. quiet: anything that the page reports as an error fails the test."""
    async with playwright.async_playwright() as driver:
        chromium = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        try:
            size = {"width": width, "height": height}
            page = await chromium.new_page(viewport=size, color_scheme=scheme)
            page.set_default_timeout(10_000)
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
            await page.goto(address)
            try:
                yield page
            except AssertionError as failed:
                failed.add_note(f"errors of the page: {errors}")
                raise
            assert not quiet or [error for error in errors if "responded with a status" not in error] == []
        finally:
            await chromium.close()


@asynccontextmanager
async def console(tail: Tailrace, **options: Any) -> AsyncIterator[tuple[str, Any]]:
    """A standalone gateway with its console: its address, and a page that shows it."""
    async with under_uvicorn(standalone(tail, console=True)) as address, page_of(address, **options) as page:
        yield address, page


def shows(page: Any, run: str) -> str:
    return f"{page.url.partition('#')[0]}#run={run}"


def plain(events: int, lines: int) -> list[list[dict[str, object]]]:
    """Bodies of 200 log events each, `lines` lines an event."""
    every: list[dict[str, object]] = [
        {"type": "log", "data": {"level": "info", "lines": [f"line {number * lines + k}" for k in range(lines)]}}
        for number in range(events)
    ]
    return [every[at : at + 200] for at in range(0, events, 200)]


async def produce(address: str, namespace: str, run: str, *bodies: list[dict[str, object]]) -> None:
    """Sends events over HTTP, as anybody may."""
    async with httpx.AsyncClient(trust_env=False) as http:
        for body in bodies:
            answer = await http.post(f"{address}/api/{namespace}/runs/{run}/events", json=body)
            assert answer.status_code == 200, answer.text


def test_what_comes_from_feeds_stays_text() -> None:
    """No module of the console makes markup or code from a string."""
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|DOMParser"
    )
    for file in FOLDER.glob("*.js"):
        assert not forbidden.search(file.read_text()), file.name


def test_the_page_is_complete_in_itself() -> None:
    """Nothing is loaded from elsewhere, nothing stands inline: a policy of 'self' suffices, for mounts too."""
    html = (FOLDER / "index.html").read_text()
    assert not re.search(r"https?:|//|<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", html)
    for file in re.findall(r'(?:src|href)="console/([^"]+)"', html):
        assert (FOLDER / file).is_file(), file
    for file in FOLDER.glob("*.js"):
        for found in re.findall(r'from "([^"]+)"', file.read_text()):
            assert (FOLDER / found).resolve().is_file(), (file.name, found)


@pytest.mark.browser
@needs_chromium
async def test_a_run_from_its_beginning_to_its_end(tail: Tailrace) -> None:
    """Without runs the page says how to make one; a run then appears by itself and is shown live to its end."""
    written, go_on = asyncio.Event(), asyncio.Event()

    @tail.task
    async def review(run: Run, folder: str) -> dict[str, int]:
        async with run.step("walk"), run.tool("list_files", {"folder": folder}) as tool:
            tool.result({"files": 12})
        run.log("one file is long", level="warning")
        run.set(progress=0.5)
        await run.write("# Review\n\nI read **12")
        written.set()
        await go_on.wait()
        run.write(" files**.")
        return {"files": 12}

    async with console(tail) as (address, page):
        await expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
        await expect(page.locator(".ways code")).to_contain_text(
            ["tailrace demo", "tailrace exec -- make", f"{address}/api/{tail.settings.namespace}/runs/hello/events"]
        )

        run = await review.options(labels={"user": "ada"}).start_here("src")
        await written.wait()
        await expect(page.locator(".head .status")).to_have_text("running")
        assert page.url.endswith(f"#run={run.id}")
        await expect(page.locator(".texts .heading")).to_have_text("Review")
        await expect(page.locator(".texts")).to_contain_text("I read **12")
        await expect(page.locator("progress")).to_have_attribute("value", "0.5")
        await expect(page.locator('.span[data-kind="step"]')).to_contain_text("walk")
        go_on.set()

        await expect(page.locator(".head .status")).to_have_text("succeeded")
        await expect(page.locator(".texts strong")).to_have_text("12 files")
        await expect(page.locator("#said")).to_have_text("review: succeeded")
        await expect(page.locator(".result")).to_contain_text("files")
        await expect(page.locator(".runs .status")).to_have_text(["succeeded"])
        await page.locator('.span[data-kind="tool"] summary').click()
        await expect(page.locator('.span[data-kind="tool"] dl')).to_contain_text("src")
        await page.get_by_role("tab", name="Logs").click()
        await expect(page.locator("#panel-Logs .row")).to_contain_text("one file is long")
        await page.get_by_role("tab", name="Events").click()
        await page.locator("#panel-Events .row").first.click()
        await expect(page.locator("#panel-Events .chosen")).to_contain_text("run.started")

        await page.reload()
        await expect(page.locator(".texts strong")).to_have_text("12 files")


@pytest.mark.browser
@needs_chromium
async def test_failed_attempts_are_set_apart(tail: Tailrace) -> None:
    """What a failed attempt wrote is folded away with its error; steps stand under their attempt."""

    @tail.task(retry=Retry(attempts=2, base_seconds=0))
    async def charge(run: Run) -> None:
        async with run.step("pay"):
            run.write(f"try {run.attempt}")
            raise TimeoutError(f"bank {run.attempt}")

    run = await charge.options(thread="chat-1").start_here()
    async with console(tail, scheme="dark") as (_, page):
        await page.goto(shows(page, run.id))
        await expect(page.locator(".head .status")).to_have_text("failed")
        await expect(page.locator(".notice.error")).to_contain_text("TimeoutError: bank 2")
        await expect(page.locator(".attempt summary")).to_contain_text("TimeoutError: bank 1")
        await expect(page.locator(".texts")).to_have_text("try 2")
        await expect(page.locator(".spans .mark")).to_have_text(["Attempt 1", "Attempt 2"])
        await page.get_by_role("button", name="thread chat-1").click()
        await expect(page.locator("#text")).to_have_value("chat-1")
        await expect(page.locator(".runs a")).to_have_count(1)


@pytest.mark.browser
@needs_chromium
async def test_a_person_answers_and_cancels(tail: Tailrace) -> None:
    """The box of a question sends the answer in its type; the dialog's button cancels with its reason."""

    @tail.task
    async def book(run: Run) -> int:
        if await run.ask("Take the 8:02?", bool):
            return await run.ask("How many seats?", int)
        return 0

    async with console(tail) as (_, page):
        run = await book.start_here()
        await page.goto(shows(page, run.id))
        await page.get_by_role("group", name="Take the 8:02?").get_by_role("button", name="Yes").click()
        await page.get_by_label("How many seats?").fill("3")
        await page.get_by_role("button", name="Answer").click()
        await expect(page.locator(".head .status")).to_have_text("succeeded")
        assert await run.result() == 3

        second = await book.start_here()
        await page.goto(shows(page, second.id))
        await page.get_by_role("button", name="Cancel run").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("asked to stop").fill("too late")
        await dialog.get_by_role("button", name="Cancel run").click()
        await expect(page.locator(".head .status")).to_have_text("cancelled")
        await expect(page.get_by_role("group", name="Take the 8:02?")).to_be_hidden()
        reasons = [event.data async for event in second.follow() if event.type == "run.cancelled"]
        assert reasons == [{"reason": "too late"}]


@pytest.mark.browser
@needs_chromium
async def test_untrusted_text(tail: Tailrace, namespace: str) -> None:
    """Markup in messages, logs, names, arguments, labels and state is shown as it is written."""
    events: list[dict[str, object]] = [
        {"type": "run.started", "labels": {"l": EVIL[:60]}},
        {"type": "message.started", "data": {"message": EVIL, "role": EVIL}},
        {"type": "message.delta", "data": {"text": f"# {EVIL}\n\n- {EVIL}\n\n| {EVIL} |\n\n**{EVIL}** `{EVIL}`"}},
        {"type": "step.started", "data": {"step": EVIL, "name": EVIL}},
        {"type": "tool.ready", "data": {"tool": "t", "args": {EVIL: EVIL}}},
        {"type": "tool.result", "data": {"tool": "t", "value": EVIL}},
        {"type": "log", "data": {"level": EVIL, "lines": [EVIL], "logger": EVIL, "fields": {EVIL: EVIL}}},
        {"type": "state.set", "data": {EVIL: EVIL, "__proto__": {"polluted": 1}}},
        {"type": "state.patch", "data": [{"op": "add", "path": "/__proto__/polluted", "value": 1}, {"op": "add"}, 5]},
        {"type": "usage", "data": {"model": EVIL}},
        {"type": "message.delta", "data": {"text": 5}},
        {"type": "message.delta", "data": "text"},
        {"type": "log", "data": {"lines": "no list"}},
        {"type": "constructor", "data": None},
        {"type": "run.failed", "data": {"error": EVIL, "reason": "constructor", "traceback": EVIL}},
    ]
    async with console(tail) as (address, page):
        await produce(address, namespace, "evil", events)
        await page.goto(shows(page, "evil"))
        await expect(page.locator(".texts .heading")).to_have_text(EVIL)
        await expect(page.locator(".notice.error")).to_contain_text(EVIL)
        await page.locator(".spans summary").last.click()
        await page.get_by_role("tab", name="Events").click()
        await page.locator("#panel-Events .row").first.click()
        await page.get_by_role("tab", name="Logs").click()
        await page.locator("#panel-Logs .row").first.click()
        await expect(page.locator("#panel-Logs .chosen")).to_contain_text(EVIL)
        assert await page.locator("main img, main script").count() == 0
        assert "hacked" not in await page.title()
        assert await page.evaluate("({}).polluted") is None


@pytest.mark.browser
@needs_chromium
async def test_many_lines_and_increments(tail: Tailrace, namespace: str) -> None:
    """Ten thousand increments and twenty thousand lines are all there, while the page holds few elements and is quick."""
    words: list[dict[str, object]] = [{"type": "message.delta", "data": {"text": f"w{n} "}} for n in range(10_000)]
    async with console(tail) as (address, page):
        await page.evaluate(
            "() => { window.worst = 0; let last = performance.now(); const tick = () => { const now = performance.now();"
            " window.worst = Math.max(window.worst, now - last); last = now; requestAnimationFrame(tick) }; tick() }"
        )
        await page.evaluate("location.hash = 'run=many'")
        await produce(address, namespace, "many", *plain(1000, 20))
        await produce(address, namespace, "many", *(words[at : at + 250] for at in range(0, len(words), 250)))
        await expect(page.locator("#tab-Events .tab-number")).to_have_text("11,000")
        await page.get_by_role("tab", name="Overview").click()
        await expect(page.locator(".texts")).to_contain_text("w9999")
        assert (await page.locator(".texts").inner_text()).split() == [f"w{n}" for n in range(10_000)]
        await page.get_by_role("tab", name="Logs").click()
        await expect(page.locator("#panel-Logs .number")).to_have_text("20,000 lines")
        await expect(page.locator("#panel-Logs .row").last).to_contain_text("line 19999")
        await page.get_by_label("Find").fill("line 1234")
        await expect(page.locator("#panel-Logs .number")).to_have_text("11 of 20,000 lines")
        assert await page.locator("*").count() < 1500
        assert await page.evaluate("window.worst") < 1500, "milliseconds between two frames, on a loaded machine"


@pytest.mark.browser
@needs_chromium
async def test_a_gap_is_told(tail: Tailrace, namespace: str, server: TestServer) -> None:
    """Where the feed lost its beginning, the page says which events are missing and why."""
    async with console(tail) as (address, page):
        await produce(address, namespace, "long", [{"type": "log", "data": {"lines": [str(n)]}} for n in range(9)])
        session = await tail.session()
        with server.client() as redis:
            redis.xtrim(session.keys.of("long").feed("long"), minid="5", approximate=False)
        await page.goto(shows(page, "long"))
        await expect(page.locator(".notice.gap")).to_have_text(re.compile("^Events 1 to 4 are gone"))
        await expect(page.get_by_role("tab", name="Logs")).to_have_attribute("aria-selected", "true")
        await expect(page.locator("#panel-Logs .mark.gap")).to_contain_text("Events 1 to 4")


@pytest.mark.browser
@needs_chromium
async def test_a_queued_run_says_why_it_waits(tail: Tailrace) -> None:
    """No worker, then one that lives, then the one that was the last, in the reader's own time: the page follows by itself."""
    run = await tail.start("answer")
    session = await tail.session()
    async with console(tail) as (_, page):
        await page.goto(shows(page, run.id))
        notice = page.locator(".notice:not(.error):not(.gap)").first
        await expect(notice).to_have_text('Waits for a worker: none that has task "answer" is alive.')
        worker = await announce(session, worker_here("web-1-aaaaaa", ["answer"], places=1))
        await expect(notice).to_contain_text('it is next (1 worker with task "answer" is alive)')
        await tell_stopped(session, worker)
        last = rf"is alive \(last: {worker.name}, stopped \d\d:\d\d:\d\d\)\.$"
        await expect(notice).to_have_text(re.compile(last))


@pytest.mark.browser
@needs_chromium
async def test_keys_filters_and_addresses(tail: Tailrace, namespace: str) -> None:
    """j and k move, / filters, Esc goes back; an unknown run and one with an odd name are answered in words."""
    async with console(tail) as (address, page):
        for name in ("first", "second", "third"):
            await produce(
                address, namespace, name, [{"type": "run.started"}, {"type": "message.delta", "data": {"text": name}}]
            )
        await produce(address, namespace, "first", [{"type": "run.finished"}])
        await expect(page.locator(".runs a")).to_have_count(3)
        await expect(page.locator(".runs .run-name").first).to_have_text("first")
        await page.keyboard.press("j")
        await expect(page.locator("h1")).to_have_text("first")
        await page.keyboard.press("j")
        await page.keyboard.press("j")
        await expect(page.locator("h1")).to_have_text("second")
        await page.keyboard.press("k")
        await expect(page.locator("h1")).to_have_text("third")
        await expect(page.locator(".runs a[aria-current]")).to_have_count(1)
        await expect(page.locator(".runs a:focus .run-name")).to_have_text("third")

        await page.keyboard.press("/")
        await page.keyboard.type("seco")
        await expect(page.locator(".runs a")).to_have_count(1)
        await page.keyboard.press("Escape")
        await expect(page.locator(".runs a")).to_have_count(3)
        await page.locator("#status").select_option("succeeded")
        await expect(page.locator(".runs .run-name")).to_have_text(["first"])

        await page.evaluate("location.hash = 'run=%E0%A4%A'")
        await page.evaluate("location.hash = 'run=' + encodeURIComponent('a/b')")
        await expect(page.locator(".trouble")).to_be_visible()


@pytest.mark.browser
@needs_chromium
async def test_one_thing_at_a_time_on_a_phone(tail: Tailrace, namespace: str) -> None:
    """At phone width the list or the run fills the page, without scrolling sideways."""
    async with console(tail, width=390, height=800) as (address, page):
        await produce(address, namespace, "run-" + "x" * 58, [{"type": "message.delta", "data": {"text": "y" * 600}}])
        await page.locator(".runs a").click()
        await expect(page.locator(".texts")).to_be_visible()
        await expect(page.locator(".list")).to_be_hidden()
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        await page.get_by_role("link", name="All runs").click()
        await expect(page.locator(".list")).to_be_visible()
        await expect(page.locator("main")).to_be_hidden()


@pytest.mark.browser
@needs_chromium
async def test_below_a_mount(tail: Tailrace) -> None:
    """Mounted in an application the console finds files and API relative to its own address."""
    await tail.run("mounted").emit("message.delta", {"text": "here"})
    app = Starlette(routes=[Mount("/deep/tail", Gateway(tail, authorize=everyone, console=True))])
    async with under_uvicorn(app) as address, page_of(f"{address}/deep/tail/") as page:
        await expect(page.locator(".texts")).to_have_text("here")
        await expect(page.locator("#live")).to_have_text("live")


class Relay:
    """Stands between page and gateway: `leave` breaks all connections and refuses new ones, as a dead gateway does."""

    def __init__(self, target: str) -> None:
        self.target = int(target.rpartition(":")[2])
        self.is_away = False
        self.refused = 0
        self.writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_away:
            self.refused += 1
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self.writers |= {writer, back}
        await asyncio.gather(self.pump(reader, back), self.pump(there, writer))

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65536):
                writer.write(chunk)
        except ConnectionError:
            pass  # the other side was cut, which is what this is for
        finally:
            writer.close()

    def leave(self) -> None:
        self.is_away = True
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()


@pytest.mark.browser
@needs_chromium
async def test_the_gateway_goes_and_comes(tail: Tailrace) -> None:
    """While the gateway is away the page says so; when it is back the text goes on, nothing lost, nothing doubled."""
    run = tail.run("cut")
    await run.emit("message.delta", {"text": "before, "})
    async with under_uvicorn(standalone(tail, console=True)) as address:
        relay = Relay(address)
        server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, page_of(f"http://127.0.0.1:{port}", quiet=False) as page:
            await expect(page.locator(".texts")).to_have_text("before, ")
            relay.leave()
            await expect(page.locator("#live")).to_have_text("connecting…")
            await run.emit("message.delta", {"text": "meanwhile, "})
            await until(lambda: relay.refused > 1, "the page asked again", 20)
            relay.is_away = False
            await run.emit("message.delta", {"text": "after"})
            await expect(page.locator(".texts")).to_have_text("before, meanwhile, after", timeout=30_000)
            await expect(page.locator("#live")).to_have_text("live", timeout=30_000)
