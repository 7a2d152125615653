// Small cards beside the text: the run's input and state, and what its models used.

import { count } from "./format.js"
import { h } from "./dom.js"
import { json } from "./json.js"

// A value of the run's model, member by member; hidden while there is none.
export class ValueCard {
  // pick(model): the value.
  constructor(title, pick) {
    this.pick = pick
    this.body = h("div")
    this.element = h("section", { class: "card", hidden: true, ariaLabel: title }, h("h2", null, title), this.body)
    this.isEmpty = true
  }

  draw(model) {
    const value = this.pick(model)
    if (value === this.shown) return
    this.shown = value
    this.isEmpty = value === undefined || (Object(value) === value && !Object.keys(value).length)
    this.element.hidden = this.isEmpty
    if (!this.isEmpty) this.body.replaceChildren(members(value))
  }
}

function members(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return json(value)
  const pairs = Object.entries(value).slice(0, 100)
  return h(
    "dl",
    { class: "pairs" },
    pairs.flatMap(([key, member]) => [h("dt", null, key), h("dd", null, json(member, false))]),
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
