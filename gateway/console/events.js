// Every event as it came; the chosen one in full below.

import { copyButton, h, say } from "./dom.js"
import { count, preciseClock, seqOf, timeOf } from "./format.js"
import { labelled } from "./logs.js"
import { json } from "./json.js"
import { VirtualList } from "./virtual.js"

export class Events {
  constructor(url) {
    this.search = h("input", { type: "search", placeholder: "Type, such as tool", on: { input: () => this.filter() } })
    this.number = h("span", { class: "number", role: "status" })
    this.newest = h("button", { type: "button", class: "quiet", on: { click: () => this.list.toEnd() } }, "Newest")
    this.list = new VirtualList({ label: "Events", row: rowOf, pick: (event) => this.pick(event) })
    this.chosen = h("div", { class: "chosen", hidden: true })
    const raw = h("a", { href: url, target: "_blank", rel: "noreferrer", class: "quiet" }, "JSON")
    const tools = h("div", { class: "tools" }, labelled("Type", this.search), this.number, raw, this.newest)
    this.element = h("section", { class: "lines" }, tools, this.list.element, this.chosen)
    this.shown = []
    this.source = []
  }

  fits(event) {
    return "mark" in event || event.type.includes(this.search.value.trim())
  }

  filter() {
    this.shown = this.search.value.trim() ? this.source.filter((event) => this.fits(event)) : this.source
    this.read = this.source.length
    this.show()
  }

  draw(model) {
    const restarted = model.rows !== this.source || model.drops !== this.drops
    this.source = model.rows
    this.drops = model.drops
    if (restarted || !this.search.value.trim()) return this.filter()
    for (; this.read < this.source.length; this.read += 1) {
      if (this.fits(this.source[this.read])) this.shown.push(this.source[this.read])
    }
    return this.show()
  }

  show() {
    this.list.show(this.shown)
    const some = this.shown.length === this.source.length ? "" : ` of ${count(this.source.length)}`
    say(this.number, `${count(this.shown.length)}${some} events`)
  }

  pick(event) {
    this.chosen.hidden = "mark" in event
    if (this.chosen.hidden) return
    const close = h(
      "button",
      { type: "button", class: "quiet", on: { click: () => (this.chosen.hidden = true) } },
      "Close",
    )
    const copy = copyButton("Copy", () => JSON.stringify(event))
    this.chosen.replaceChildren(
      h("div", { class: "chosen-head" }, `${event.type} · ${event.id}`, copy, close),
      json(event),
    )
  }
}

function rowOf(event) {
  if ("mark" in event) return h("span", { class: event.gap ? "mark gap" : "mark" }, event.mark)
  return [
    h("span", { class: "row-seq" }, String(seqOf(event.id))),
    h("span", { class: "row-time" }, preciseClock(timeOf(event.id))),
    h("span", { class: "row-type", data: { family: event.type.split(".")[0] } }, event.type),
    h("span", { class: "row-text" }, preview(event.data)),
  ]
}

function preview(data) {
  if (data === null || data === undefined) return ""
  return JSON.stringify(data).slice(0, 400)
}
