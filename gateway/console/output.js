// The run's text as it grows: messages and reasoning, those of failed attempts folded away above.

import { blockEnds, blockOf } from "./markdown.js"
import { copyButton, h, say } from "./dom.js"
import { duration, words } from "./format.js"
import { json } from "./json.js"

const MOST_BLOCKS = 600 // of one message; what stands before is still in its copied text
const MOST_TEXTS = 300

export class Output {
  constructor() {
    this.formatted = localStorage.getItem("tailrace.plain") !== "yes"
    this.toggle = h("button", { type: "button", class: "quiet", on: { click: () => this.switchForm() } })
    this.copy = copyButton("Copy text", () => this.plainText())
    this.tools = h("div", { class: "tools" }, this.toggle, this.copy)
    this.past = h("div", { class: "past" })
    this.body = h("div", { class: "texts" })
    this.empty = h("p", { class: "nothing" })
    this.result = h("div", { class: "result", hidden: true })
    this.element = h(
      "section",
      { class: "output", ariaLabel: "Text" },
      this.tools,
      this.past,
      this.body,
      this.empty,
      this.result,
    )
    this.reset()
  }

  reset() {
    this.views = new Map()
    this.pasts = new Map()
    this.past.replaceChildren()
    this.body.replaceChildren()
    this.shownResult = undefined
    say(this.toggle, this.formatted ? "Plain" : "Formatted")
  }

  switchForm() {
    this.formatted = !this.formatted
    localStorage.setItem("tailrace.plain", this.formatted ? "no" : "yes")
    this.reset()
    this.draw(this.model)
  }

  plainText() {
    const kept = this.model.texts.filter((text) => text.kind === "message" && !this.model.isVoid(text))
    return kept.map((text) => text.text).join("\n\n")
  }

  draw(model) {
    if (model.generation !== this.generation) this.reset()
    this.model = model
    this.generation = model.generation
    for (const text of model.texts.slice(-MOST_TEXTS)) this.drawText(text)
    while (this.body.childElementCount > MOST_TEXTS) this.body.firstElementChild.remove()
    for (const past of model.attempts) if (past.attempt < model.attempt) this.drawPast(past)
    this.drawEmpty()
    this.drawResult()
  }

  drawText(text) {
    let view = this.views.get(text)
    if (!view) {
      view = new TextView(text, this.formatted)
      this.views.set(text, view)
      this.body.append(view.element)
    }
    view.draw(text === this.model.texts.at(-1) && this.model.status === "running")
    if (this.model.isVoid(text) && !view.voided) {
      view.voided = true
      this.pastOf(text.attempt).append(view.element)
    }
  }

  pastOf(attempt) {
    const found = this.pasts.get(attempt)
    if (found) return found
    const box = h("details", { class: "attempt" }, h("summary"))
    this.pasts.set(attempt, box)
    this.past.append(box)
    return box
  }

  drawPast(past) {
    const took = past.to === null ? "" : ` after ${duration(past.to - past.from)}`
    const why = past.error === undefined ? (REASONS[past.reason] ?? "") : words(past.error)
    const summary = this.pastOf(past.attempt).firstElementChild
    say(summary, `Attempt ${past.attempt} ended${took}${why && `: ${why}`}. What it wrote is void.`)
  }

  drawEmpty() {
    const { model } = this
    const none = !model.texts.some((text) => !model.isVoid(text) && text.text)
    this.empty.hidden = !none || (model.to !== null && model.result !== undefined)
    this.tools.hidden = none
    this.result.classList.toggle("alone", none && this.empty.hidden)
    say(this.empty, model.logged && !model.spans.length ? "No text so far, but log lines." : "No text so far.")
  }

  drawResult() {
    const { result } = this.model
    if (result === undefined || result === this.shownResult) return
    this.shownResult = result
    this.result.hidden = result === null || result === this.plainText()
    if (!this.result.hidden) this.result.replaceChildren(h("h3", null, "Result"), json(result))
  }
}

const REASONS = {
  __proto__: null,
  later: "to be tried later",
  owner_lost: "its process was lost",
}

class TextView {
  constructor(text, formatted) {
    Object.assign(this, { text, formatted, at: 0, seen: 0, voided: false })
    this.blocks = h("div", { class: formatted ? "prose" : "prose plain" })
    this.tail = h("div", { class: "block" })
    this.blocks.append(this.tail)
    const reasoning = text.kind === "reasoning"
    this.label = h(reasoning ? "summary" : "div", { class: "role" })
    this.element = h(
      reasoning ? "details" : "article",
      { class: `text ${text.kind}`, data: { role: text.role ?? "assistant" } },
      this.label,
      this.blocks,
    )
  }

  // isGrowing: more of it may come at any moment.
  draw(isGrowing) {
    const { text } = this.text
    this.element.classList.toggle("growing", isGrowing && this.text.to === null)
    say(this.label, this.labelText())
    if (text.length === this.seen) return
    this.seen = text.length
    for (const end of blockEnds(text, this.at)) this.close(text.slice(this.at, end), end)
    this.tail.replaceChildren(...this.render(text.slice(this.at)))
    while (this.blocks.childElementCount > MOST_BLOCKS) this.blocks.firstElementChild.remove()
  }

  labelText() {
    const { kind, role, from, to } = this.text
    if (kind === "reasoning") return to === null ? "Reasoning…" : `Reasoning, ${duration(to - from)}`
    return role === undefined || role === "assistant" ? "" : role
  }

  close(source, end) {
    this.tail.before(h("div", { class: "block" }, this.render(source)))
    this.at = end
  }

  render(source) {
    if (!source.trim()) return []
    return this.formatted ? blockOf(source) : [source]
  }
}
