// The box in which a person answers what a run asks.

import { answer } from "./api.js"
import { h } from "./dom.js"

export class AskBox {
  constructor(run) {
    this.run = run
    this.element = h("form", {
      class: "ask",
      hidden: true,
      ariaLabel: "Answer",
      on: { submit: (event) => this.submit(event) },
    })
    this.shown = null
  }

  // asking: {ask, question, schema} of the open question, or null.
  draw(asking) {
    const key = asking && JSON.stringify(asking)
    if (key === this.shown) return
    this.shown = key
    this.asking = asking
    this.element.hidden = !asking
    if (asking) this.build(asking)
  }

  build({ question, schema }) {
    const field = fieldFor(Object(schema))
    this.read = field.read
    this.error = h("p", { class: "error-text", role: "alert" })
    const text = question || "The run waits for an answer."
    const label = field.buttons
      ? h("p", { class: "question" }, text)
      : h("label", { class: "question", htmlFor: "answer" }, text)
    const send = field.buttons ? null : h("button", { class: "primary" }, "Answer")
    const row = h(
      "div",
      { class: "ask-row", role: field.buttons ? "group" : null, ariaLabel: field.buttons ? text : null },
      field.nodes,
      send,
    )
    this.element.replaceChildren(label, row, this.error)
  }

  async submit(event) {
    event.preventDefault()
    this.error.textContent = ""
    try {
      await answer(this.run, this.asking.ask, this.read(event.submitter))
    } catch (refused) {
      this.error.textContent = refused instanceof SyntaxError ? `This is not JSON: ${refused.message}` : refused.message
    }
  }
}

// The control that fits the answer's JSON schema: {nodes, read(submitter), buttons}
function fieldFor(schema) {
  if (schema.type === "boolean")
    return choices([
      ["Yes", true],
      ["No", false],
    ])
  if (Array.isArray(schema.enum)) return oneOf(schema.enum)
  if (schema.type === "integer" || schema.type === "number") {
    const input = h("input", {
      id: "answer",
      type: "number",
      required: true,
      step: schema.type === "integer" ? "1" : "any",
    })
    return { nodes: [input], read: () => input.valueAsNumber }
  }
  if (schema.type === "string" || !Object.keys(schema).length) {
    const area = h("textarea", { id: "answer", rows: 2, required: true })
    return { nodes: [area], read: () => area.value }
  }
  const area = h("textarea", { id: "answer", class: "mono", rows: 5, value: JSON.stringify(skeleton(schema), null, 2) })
  return { nodes: [area], read: () => JSON.parse(area.value) }
}

function oneOf(values) {
  const pairs = values.map((value) => [typeof value === "string" ? value : JSON.stringify(value), value])
  if (pairs.length <= 6) return choices(pairs)
  const select = h(
    "select",
    { id: "answer" },
    pairs.map(([label], index) => h("option", { value: String(index) }, label)),
  )
  return { nodes: [select], read: () => values[Number(select.value)] }
}

function choices(pairs) {
  const nodes = pairs.map(([label], index) =>
    h("button", { value: String(index), class: index ? "" : "primary" }, label),
  )
  return { nodes, buttons: true, read: (submitter) => pairs[Number(submitter?.value ?? 0)][1] }
}

const EMPTY = {
  __proto__: null,
  string: "",
  integer: 0,
  number: 0,
  boolean: false,
  array: [],
  object: {},
}

function skeleton({ type, properties }) {
  if (type !== "object") return EMPTY[type] ?? null
  return Object.fromEntries(
    Object.entries(Object(properties)).map(([name, of]) => [name, of?.default ?? EMPTY[of?.type] ?? null]),
  )
}
