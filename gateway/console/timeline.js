// Steps, tool calls and questions as rows with their times; a row opens to show arguments and result.

import { clock, duration, running, words } from "./format.js"
import { h, say } from "./dom.js"
import { json } from "./json.js"

const MOST = 1000 // rows

export class Timeline {
  constructor() {
    this.list = h("ol", { class: "spans" })
    this.note = h("p", { class: "nothing" }, "No steps or tool calls so far.")
    this.title = h("h2", null, "Timeline")
    this.element = h("section", { class: "card timeline", ariaLabel: "Timeline" }, this.title, this.note, this.list)
    this.reset()
  }

  reset() {
    this.rows = new Map()
    this.list.replaceChildren()
    this.drawn = 0
    this.attempt = 0
  }

  draw(model, now) {
    if (model.generation !== this.generation) this.reset()
    this.generation = model.generation
    for (; this.drawn < model.spans.length; this.drawn += 1) this.append(model.spans[this.drawn], model)
    for (const [span, row] of this.rows) if (span.changed) (row.draw(), (span.changed = false))
    for (const row of this.rows.values()) row.element.classList.toggle("void", model.isVoid(row.span))
    while (this.rows.size > MOST) this.dropFirst()
    this.isEmpty = this.rows.size === 0
    this.note.hidden = !this.isEmpty
    this.tick(model, now)
  }

  append(span, model) {
    if (span.attempt > this.attempt) {
      this.attempt = span.attempt
      if (model.attempt > 1) this.list.append(h("li", { class: "mark" }, `Attempt ${span.attempt}`))
    }
    const row = new SpanRow(span)
    this.rows.set(span, row)
    this.list.append(row.element)
  }

  dropFirst() {
    const [span, row] = this.rows.entries().next().value
    row.element.remove()
    this.rows.delete(span)
    say(this.title, `Timeline, the last ${MOST}`)
  }

  // Bars stand relative to the whole; what is open grows until now.
  tick(model, now) {
    if (model.from === null) return
    const ended = model.open.length === 0
    const until = Math.max(model.to, ended ? model.to : now, model.from + 1)
    this.list.style.setProperty("--all", until - model.from)
    for (const span of model.open) this.rows.get(span)?.grow(now)
    for (const row of this.rows.values()) row.stand(model.from)
  }
}

class SpanRow {
  constructor(span) {
    this.span = span
    this.name = h("span", { class: "span-name" }, span.name)
    this.brief = h("span", { class: "span-brief" })
    this.took = h("span", { class: "span-took" })
    this.bar = h("span", { class: "bar-fill" })
    const icon = h("span", { class: "span-icon", ariaHidden: "true" })
    const lane = h("span", { class: "bar-lane", ariaHidden: "true" }, this.bar)
    this.summary = h("summary", null, icon, this.name, this.brief, this.took, lane)
    this.more = h("div", { class: "span-more" })
    const details = h("details", { on: { toggle: () => this.fill() } }, this.summary, this.more)
    this.details = details
    this.element = h("li", { class: "span", data: { kind: span.kind } }, details)
    this.element.style.setProperty("--depth", span.depth)
    this.draw()
  }

  draw() {
    const { span } = this
    this.element.dataset.state = stateOf(span)
    say(this.brief, brief(span))
    if (span.to !== null) say(this.took, duration(span.to - span.from))
    this.summary.title = `${span.kind} ${span.name}, ${clock(span.from)}`
    this.fill()
  }

  grow(now) {
    say(this.took, running(now - this.span.from))
  }

  stand(start) {
    const { from, to } = this.span
    if (this.stood === `${start} ${to}`) return
    this.stood = `${start} ${to}`
    this.bar.style.setProperty("--from", from - start)
    this.bar.style.setProperty("--for", to === null ? "calc(var(--all) - var(--from))" : String(to - from))
  }

  fill() {
    if (!this.details.open) return
    const { span } = this
    const parts = [["Began", clock(span.from)]]
    if (span.id !== undefined) parts.push(["ID", span.id])
    if (span.args !== undefined) parts.push(["Arguments", json(span.args)])
    else if (span.typed) parts.push(["Arguments so far", h("pre", { class: "code" }, span.typed)])
    if (span.hasValue) parts.push([span.kind === "ask" ? "Answer" : "Result", json(span.value ?? null)])
    if (span.error !== undefined) parts.push(["Error", h("span", { class: "error-text" }, words(span.error))])
    if (span.wasCut) parts.push(["", "It was cut off when its attempt ended."])
    this.more.replaceChildren(
      h(
        "dl",
        null,
        parts.flatMap(([name, value]) => [h("dt", null, name), h("dd", null, value)]),
      ),
    )
  }
}

function stateOf(span) {
  if (span.error !== undefined && span.error !== null) return "failed"
  if (span.wasCut) return "cut"
  return span.to === null ? "running" : "done"
}

// The arguments in a few words: {"path": "a.py", "first": 1} → a.py, 1
function brief({ args, typed, kind }) {
  if (kind !== "tool") return ""
  if (args === undefined) return (typed ?? "").slice(0, 80)
  const values = args !== null && typeof args === "object" ? Object.values(args) : [args]
  return values.map(words).join(", ").slice(0, 120)
}
