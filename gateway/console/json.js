// A JSON value to look into: objects and arrays open on demand, so a large one costs nothing until then.

import { h } from "./dom.js"

const MOST = 200 // members drawn at once

export function json(value, open = true) {
  if (value === null || typeof value !== "object") return leaf(value)
  const entries = Object.entries(value)
  if (!entries.length) return h("span", { class: "json-punctuation" }, Array.isArray(value) ? "[ ]" : "{ }")
  const details = h("details", { class: "json", open }, h("summary", null, summary(value, entries.length)))
  const fill = () => details.childElementCount === 1 && details.append(members(entries, Array.isArray(value)))
  if (open) fill()
  details.addEventListener("toggle", fill)
  return details
}

function members(entries, isArray) {
  const list = h("ul", { class: "json-members" })
  let shown = 0
  const more = h("button", { type: "button", class: "quiet", on: { click: grow } })
  function grow() {
    const next = entries.slice(shown, shown + MOST)
    shown += next.length
    more.remove()
    list.append(...next.map(([key, value]) => member(key, value, isArray)))
    if (shown === entries.length) return
    more.textContent = `${(entries.length - shown).toLocaleString()} more`
    list.append(h("li", null, more))
  }
  grow()
  return list
}

const member = (key, value, isArray) =>
  h("li", null, h("span", { class: isArray ? "json-index" : "json-key" }, key), json(value, false))

function summary(value, size) {
  const text = JSON.stringify(value)
  const preview = text.length > 90 ? `${text.slice(0, 90)}…` : text
  return [
    h("span", { class: "json-size" }, Array.isArray(value) ? `[${size}]` : `{${size}}`),
    h("span", { class: "json-preview" }, preview),
  ]
}

function leaf(value) {
  if (typeof value === "string") {
    const node = h("span", { class: "json-string" }, value)
    return value.includes("\n") || value.length > 120 ? h("div", { class: "json-text" }, node) : node
  }
  return h("span", { class: `json-${value === null ? "null" : typeof value}` }, String(value))
}
