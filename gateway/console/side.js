// Small cards beside the text: the run's state, and what its models used.

import { count } from "./format.js"
import { h } from "./dom.js"
import { json } from "./json.js"

export class StateCard {
  constructor() {
    this.body = h("div")
    this.element = h("section", { class: "card", hidden: true, ariaLabel: "State" }, h("h2", null, "State"), this.body)
  }

  draw(model) {
    if (model.state === this.shown && this.isEmpty !== undefined) return
    this.shown = model.state
    this.isEmpty = this.shown === undefined
    this.element.hidden = this.isEmpty
    if (!this.isEmpty) this.body.replaceChildren(members(this.shown))
  }
}

function members(state) {
  if (state === null || typeof state !== "object" || Array.isArray(state)) return json(state)
  const pairs = Object.entries(state).slice(0, 100)
  return h(
    "dl",
    { class: "pairs" },
    pairs.flatMap(([key, value]) => [h("dt", null, key), h("dd", null, json(value, false))]),
  )
}

// A share from 0 to 1 of a state that tells one: {"progress": 0.4} or {"done": 4, "total": 10}; else null.
export function progressOf(state) {
  const { progress, done, total } = Object(state)
  const share = typeof progress === "number" ? (progress > 1 ? progress / 100 : progress) : done / total
  return Number.isFinite(share) ? Math.max(0, Math.min(1, share)) : null
}

export class UsageCard {
  constructor() {
    this.body = h("tbody")
    const head = h(
      "tr",
      null,
      ["Model", "Calls", "In", "Out"].map((name) => h("th", { scope: "col" }, name)),
    )
    const table = h("table", { class: "usage" }, h("thead", null, head), this.body)
    this.element = h(
      "section",
      { class: "card", hidden: true, ariaLabel: "Usage" },
      h("h2", null, "Tokens, all attempts"),
      table,
    )
  }

  draw(model) {
    const sums = [...model.usage]
    const key = JSON.stringify(sums)
    if (key === this.shown) return
    this.shown = key
    this.isEmpty = !sums.length
    this.element.hidden = this.isEmpty
    const rows = sums.map(([name, sum]) =>
      h(
        "tr",
        { title: sum.source ?? "" },
        h("th", { scope: "row" }, name),
        [sum.calls, sum.input, sum.output].map((n) => h("td", null, count(n))),
      ),
    )
    this.body.replaceChildren(...rows)
  }
}
