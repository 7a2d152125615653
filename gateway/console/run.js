// One run: follows its feed, and draws what changed once a frame.

import { follow } from "../tailrace.js"
import { eventsUrl, readState, Refused } from "./api.js"
import { AskBox } from "./ask.js"
import { h, soon } from "./dom.js"
import { timeOf } from "./format.js"
import { End } from "./end.js"
import { Events } from "./events.js"
import { Header, statusOf } from "./header.js"
import { Logs } from "./logs.js"
import { ENDED, gapWords, RunModel } from "./model.js"
import { Output } from "./output.js"
import { UsageCard, ValueCard } from "./side.js"
import { Tabs } from "./tabs.js"
import { Timeline } from "./timeline.js"

export class RunPane {
  // onStatus(status): it became another; onFilter(text): show the runs that this text finds.
  constructor(run, { onStatus, onFilter }) {
    Object.assign(this, { run, onStatus, state: null, model: new RunModel(), skew: 0, ended: false })
    this.parts = {
      header: new Header(run, onFilter),
      ask: new AskBox(run),
      output: new Output(),
      timeline: new Timeline(),
      input: new ValueCard("Input", (model) => model.input),
      state: new ValueCard("State", (model) => model.state),
      usage: new UsageCard(),
      logs: new Logs(),
      events: new Events(eventsUrl(run)),
    }
    const { header, ask, output, timeline, input, state, usage, logs, events } = this.parts
    this.gaps = h("div", { class: "gaps" })
    this.trouble = h("div", { class: "trouble", role: "alert", hidden: true })
    this.text = h("div", { class: "scroll" }, output.element)
    const side = h("aside", { class: "side" }, input.element, state.element, usage.element, timeline.element)
    this.overview = h("div", { class: "overview" }, this.text, side)
    this.tabs = new Tabs({ Overview: this.overview, Logs: logs.element, Events: events.element })
    this.element = h("div", { class: "run" }, header.element, this.gaps, this.trouble, ask.element, this.tabs.element)
    this.ends = [new End(output.element, [this.text, this.overview, this.element]), new End(timeline.element, [side])]
    this.draw = this.draw.bind(this)
    this.tabs.onShow = () => soon(this.draw)
  }

  open() {
    this.closed = new AbortController()
    this.refresh()
    this.follow()
    this.clock = setInterval(() => !this.ended && soon(this.draw), 500)
  }

  // Lets go of the connection; open() goes on behind the last event.
  close() {
    this.closed.abort()
    clearInterval(this.clock)
  }

  async follow() {
    const { signal } = this.closed
    if (this.ended) return
    try {
      for await (const view of follow(eventsUrl(this.run), { after: this.model.last ?? "", signal }))
        this.take(view.events)
    } catch (refused) {
      if (!signal.aborted) this.refuse(refused.cause ?? { title: refused.message })
    }
  }

  take(events) {
    const before = this.model.status
    const wasLive = this.model.caughtUp
    for (const event of events) {
      this.model.add(event)
      if (event.type === "tailrace.end") this.ended = true
      if (event.type === "tailrace.caught_up") this.first()
    }
    if (wasLive && events.some((event) => event.id)) this.compareClocks()
    if (this.model.caughtUp && this.model.status !== before) this.refresh()
    soon(this.draw)
  }

  // How far this machine's clock is ahead of the server's: what is live was appended a moment ago.
  compareClocks() {
    const ahead = Date.now() - timeOf(this.model.last)
    this.skew = this.compared ? Math.min(this.skew, ahead) : ahead
    this.compared = true
  }

  // All that was there is read: a run that only logs shows its log, one that still runs the end of its text.
  first() {
    const { model } = this
    this.toEnd = !ENDED.has(model.status)
    if (!model.texts.length && !model.spans.length && model.logged) this.tabs.suggest("Logs")
  }

  async refresh() {
    const { signal } = this.closed
    try {
      this.know(await readState(this.run, signal))
    } catch (refused) {
      if (refused instanceof Refused && refused.problem.status !== 404) this.refuse(refused.problem)
    }
  }

  // A newer RunState, from the list or asked for.
  know(state) {
    this.state = state
    if (this.isMissing) this.again()
    soon(this.draw)
  }

  refuse(problem) {
    this.isMissing = problem.type === "unknown-run"
    const again = h("button", { type: "button", on: { click: () => this.again() } }, "Try again")
    const text = [problem.detail ?? problem.title ?? "The feed cannot be read.", problem.remedy]
      .filter(Boolean)
      .join(" ")
    this.trouble.hidden = false
    soon(this.draw)
    this.trouble.replaceChildren(h("p", null, text), again)
  }

  again() {
    this.isMissing = false
    this.trouble.hidden = true
    this.close()
    this.open()
  }

  draw() {
    const { model, state, parts } = this
    const now = Date.now() - this.skew
    const status = statusOf(state, model)
    if (status !== this.status) this.onStatus((this.status = status), state?.task ?? this.run)
    const ends = this.model.caughtUp && !ENDED.has(status) ? this.ends.filter((end) => this.toEnd || end.isSeen()) : []
    parts.header.draw(state, model, now)
    this.element.classList.toggle("unknown", !this.trouble.hidden && !model.events)
    parts.ask.draw(status === "waiting" ? (model.asking ?? askOf(state)) : null)
    if (this.tabs.active === "Overview") this.drawOverview(now)
    if (this.tabs.active === "Logs") parts.logs.draw(model)
    if (this.tabs.active === "Events") parts.events.draw(model)
    this.drawGaps()
    this.tabs.number("Logs", model.logged)
    this.tabs.number("Events", model.events)
    for (const end of ends) end.show()
    this.toEnd = false
  }

  drawOverview(now) {
    const { output, timeline, input, state, usage } = this.parts
    output.draw(this.model)
    timeline.draw(this.model, now)
    input.draw(this.model)
    state.draw(this.model)
    usage.draw(this.model)
    const isBare = this.ended && [timeline, input, state, usage].every((card) => card.isEmpty)
    this.overview.classList.toggle("bare", isBare)
  }

  drawGaps() {
    const { gaps } = this.model
    if (gaps.length === this.shownGaps) return
    this.shownGaps = gaps.length
    this.gaps.replaceChildren(...gaps.slice(-3).map((gap) => h("p", { class: "notice gap" }, gapWords(gap))))
  }
}

const askOf = (state) => (state?.ask ? { ask: state.ask, question: state.waiting_for ?? "" } : null)
