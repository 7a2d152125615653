// Log lines, filtered by level and words; the chosen one in full below.

import { h, say } from "./dom.js"
import { count, preciseClock } from "./format.js"
import { json } from "./json.js"
import { VirtualList } from "./virtual.js"

const LEVELS = ["trace", "debug", "info", "warning", "error", "critical"]
const ALIASES = {
  __proto__: null,
  warn: "warning",
  err: "error",
  fatal: "critical",
  notice: "info",
  stderr: "warning",
  stdout: "info",
}

const levelOf = (line) => ALIASES[line.level] ?? line.level
const rank = (line) => {
  const at = LEVELS.indexOf(levelOf(line))
  return at === -1 ? 2 : at
}

export class Logs {
  constructor() {
    this.level = h("select", { on: { change: () => this.filter() } }, h("option", { value: "0" }, "all levels"))
    for (const name of LEVELS.slice(1))
      this.level.append(h("option", { value: String(LEVELS.indexOf(name)) }, `${name} and above`))
    this.search = h("input", { type: "search", placeholder: "Find in lines", on: { input: () => this.filter() } })
    this.number = h("span", { class: "number", role: "status" })
    this.newest = h("button", { type: "button", class: "quiet", on: { click: () => this.list.toEnd() } }, "Newest")
    this.list = new VirtualList({ label: "Log lines", row: rowOf, pick: (line) => this.pick(line) })
    this.chosen = h("div", { class: "chosen", hidden: true })
    const tools = h(
      "div",
      { class: "tools" },
      labelled("Level", this.level),
      labelled("Find", this.search),
      this.number,
      this.newest,
    )
    this.element = h("section", { class: "lines" }, tools, this.list.element, this.chosen)
    this.shown = []
    this.source = []
  }

  filter() {
    const least = Number(this.level.value)
    const wanted = this.search.value.toLowerCase()
    this.fits = (line) =>
      "mark" in line || (rank(line) >= least && (!wanted || line.text.toLowerCase().includes(wanted)))
    this.shown = this.all() ? this.source : this.source.filter(this.fits)
    this.read = this.source.length
    this.show()
  }

  all() {
    return this.level.value === "0" && !this.search.value
  }

  draw(model) {
    const restarted = model.lines !== this.source || model.drops !== this.drops
    this.source = model.lines
    this.drops = model.drops
    if (restarted || this.all()) return this.filter()
    for (; this.read < this.source.length; this.read += 1) {
      if (this.fits(this.source[this.read])) this.shown.push(this.source[this.read])
    }
    return this.show()
  }

  show() {
    this.list.show(this.shown)
    const some = this.shown.length === this.source.length ? "" : ` of ${count(this.source.length)}`
    say(this.number, this.source.length ? `${count(this.shown.length)}${some} lines` : "No log lines so far.")
  }

  pick(line) {
    this.chosen.hidden = "mark" in line
    if (this.chosen.hidden) return
    const about = [levelOf(line), preciseClock(line.ms), line.logger, line.attempt && `attempt ${line.attempt}`]
    const close = h(
      "button",
      { type: "button", class: "quiet", on: { click: () => (this.chosen.hidden = true) } },
      "Close",
    )
    const head = h("div", { class: "chosen-head" }, about.filter(Boolean).join(" · "), close)
    const fields = line.fields === undefined ? null : json(line.fields)
    this.chosen.replaceChildren(head, h("pre", { class: "code" }, line.text), fields ?? "")
  }
}

export const labelled = (text, control) => h("label", null, h("span", { class: "visually-hidden" }, text), control)

function rowOf(line) {
  if ("mark" in line) return h("span", { class: line.gap ? "mark gap" : "mark" }, line.mark)
  return [
    h("span", { class: "row-time" }, preciseClock(line.ms)),
    h("span", { class: "row-level", data: { level: LEVELS[rank(line)] } }, levelOf(line)),
    h("span", { class: "row-text", data: { level: LEVELS[rank(line)] } }, line.text.slice(0, 2000)),
  ]
}
