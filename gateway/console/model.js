// What the events of one run add up to. No DOM, no I/O: events in, plain values out.
//
// Of failed attempts the text and state are void, their steps, logs and usage stay to be looked at (WIRE 7).

import { patch } from "./patch.js"
import { timeOf, withoutEscapes } from "./format.js"

export const MOST_LINES = 50_000 // log lines kept; older ones are dropped, the feed still has them
export const MOST_ROWS = 20_000 // events kept as they came

export const ENDED = new Set(["succeeded", "failed", "cancelled"])

const STATUS = new Map([
  ["run.queued", "queued"],
  ["run.started", "running"],
  ["run.waiting", "waiting"],
  ["run.resumed", "running"],
  ["run.retrying", "queued"],
  ["run.finished", "succeeded"],
  ["run.failed", "failed"],
  ["run.cancelled", "cancelled"],
])

export class RunModel {
  constructor() {
    this.events = 0
    this.last = null // ID of the newest event
    this.caughtUp = false
    this.generation = 0 // raised when all is void
    this.drops = 0 // how often old lines or rows were dropped
    this.clear()
  }

  // All that is known of the run is void: its history was rewritten.
  clear() {
    this.generation += 1
    this.status = null
    this.attempt = 0
    this.attempts = [] // {attempt, from, to, reason, error} of those that failed and of the present one
    this.texts = [] // {kind, id, role, attempt, text, done, from, to}
    this.spans = [] // {kind, id, name, attempt, depth, from, to, error, …}
    this.open = [] // spans that have not ended
    this.logged = 0 // log lines, also those that were dropped
    this.lines = [] // {level, text, ms, attempt, event} or {mark}
    this.rows = [] // events, and {mark}
    this.usage = new Map() // model → {input, output, estimated, calls}
    this.state = undefined
    this.lasting = undefined // the state less what attempts wrote: where a new attempt begins
    this.input = undefined
    this.result = undefined
    this.failure = null
    this.cancelling = false
    this.asking = null // {ask, question, schema}
    this.gaps = []
    this.from = null
    this.to = null
  }

  add(event) {
    if (!event.id) return this.control(event)
    this.events += 1
    this.last = event.id
    const ms = timeOf(event.id)
    this.from ??= ms
    this.to = ms
    if (event.attempt > this.attempt) this.begin(event.attempt, ms)
    this.status = STATUS.get(event.type) ?? this.status
    this.keep(this.rows, event, MOST_ROWS)
    this.understand(event, ms)
    if (ENDED.has(this.status)) this.end(ms)
  }

  // Anybody may write events: one that is not as it should be must not hide those behind it.
  understand(event, ms) {
    try {
      HANDLERS.get(event.type)?.(this, Object(event.data), event, ms)
    } catch (error) {
      console.warn("event not understood", event.id, event.type, error)
    }
  }

  control({ type, data }) {
    if (type === "tailrace.caught_up") this.caughtUp = true
    if (type !== "tailrace.gap") return
    if (data.reason === "rewritten" || data.reason === "corrupt") this.clear()
    this.gaps.push(data)
    const mark = { mark: gapWords(data), gap: true }
    this.keep(this.rows, mark, MOST_ROWS)
    this.keep(this.lines, mark, MOST_LINES)
  }

  begin(attempt, ms) {
    this.cut(ms, attempt)
    this.attempt = attempt
    this.state = this.lasting
    this.asking = null
    this.attempts.push({ attempt, from: ms, to: null })
    if (attempt > 1) {
      const mark = { mark: `Attempt ${attempt}` }
      this.keep(this.rows, mark, MOST_ROWS)
      this.keep(this.lines, mark, MOST_LINES)
    }
  }

  // Whatever is open when its attempt or the run ends was cut off there.
  cut(ms, attempt = Infinity) {
    const ends = (part) => (part.attempt === undefined ? attempt === Infinity : part.attempt < attempt)
    for (const span of this.open.filter(ends)) Object.assign(span, { to: ms, wasCut: true, changed: true })
    this.open = this.open.filter((span) => span.to === null)
    for (const text of this.texts) if (text.to === null && ends(text)) text.to = ms
    for (const past of this.attempts) if (past.to === null) past.to = ms
  }

  end(ms) {
    this.cut(ms)
    this.asking = null
  }

  // Drops a tenth at once, so that dropping costs little.
  keep(list, item, most) {
    list.push(item)
    if (list.length > most * 1.1) {
      const gone = list.length - most
      this.drops += 1
      list.splice(0, gone + 1, { mark: `Earlier ones are not shown` })
    }
  }

  // An attempt's text is void once another one began.
  isVoid(part) {
    return part.attempt < this.attempt
  }
}

export function gapWords({ from, to, reason }) {
  const which = from === to ? `Event ${from}` : `Events ${from} to ${to}`
  const why = {
    trimmed: "are gone: the feed keeps a limited number of events.",
    expired: "have expired; only the run's state is left.",
    rewritten: "were replaced: the server lost its end and the history goes on differently. All is read anew.",
    corrupt: "cannot be read: the run's record is damaged. What is left is read anew.",
  }
  return `${which} ${why[reason] ?? `are missing (${reason}).`}`
}

const text = (value) => (typeof value === "string" ? value : undefined)

function openText(model, kind, data, event, ms) {
  const opened = {
    kind,
    id: text(data[kind]),
    role: text(data.role),
    attempt: event.attempt,
    text: "",
    from: ms,
    to: null,
  }
  model.texts.push(opened)
  return opened
}

// The one that is named, else the one opened last in this attempt.
function findText(model, kind, id, attempt) {
  return model.texts.findLast((t) => t.kind === kind && t.attempt === attempt && (id === undefined || t.id === id))
}

const started = (kind) => (model, data, event, ms) => openText(model, kind, data, event, ms)

const delta = (kind) => (model, data, event, ms) => {
  if (text(data.text) === undefined) return
  const target = findText(model, kind, text(data[kind]), event.attempt) ?? openText(model, kind, data, event, ms)
  target.text += data.text
}

const finished = (kind) => (model, data, event, ms) => {
  const target = findText(model, kind, text(data[kind]), event.attempt)
  if (target) target.to = ms
}

function openSpan(model, span) {
  span.depth = Math.min(model.open.filter((other) => other.kind === "step" && other.attempt === span.attempt).length, 5)
  Object.assign(span, { to: null, changed: true })
  model.spans.push(span)
  model.open.push(span)
  return span
}

function spanOf(model, kind, id, { attempt }) {
  const mine = (span) => span.kind === kind && span.attempt === attempt && (id === undefined || span.id === id)
  return model.open.findLast(mine)
}

function closeSpan(model, span, ms, more) {
  if (!span) return
  Object.assign(span, more, { to: ms, changed: true })
  model.open.splice(model.open.indexOf(span), 1)
}

const openStep = (model, data, event, from) =>
  openSpan(model, { kind: "step", id: text(data.step), name: text(data.name) ?? "step", attempt: event.attempt, from })

const closeStep = (model, data, event, ms) =>
  closeSpan(model, spanOf(model, "step", text(data.step), event), ms, { error: data.error })

const openTool = (model, data, event, from) =>
  openSpan(model, {
    kind: "tool",
    id: text(data.tool),
    name: text(data.name) ?? "tool",
    attempt: event.attempt,
    from,
    typed: "",
  })

function tool(model, data, event, ms) {
  return spanOf(model, "tool", text(data.tool), event) ?? openTool(model, data, event, ms)
}

function typeArgs(model, data, event, ms) {
  const span = tool(model, data, event, ms)
  span.typed += text(data.text) ?? ""
  span.changed = true
}

const giveArgs = (model, data, event, ms) =>
  Object.assign(tool(model, data, event, ms), { args: data.args, changed: true })

const giveResult = (model, data, event, ms) =>
  closeSpan(model, tool(model, data, event, ms), ms, { value: data.value, hasValue: true })

const giveError = (model, data, event, ms) =>
  closeSpan(model, tool(model, data, event, ms), ms, { error: data.error ?? "error" })

function wait(model, data, event, from) {
  model.asking = { ask: text(data.ask), question: text(data.question) ?? "", schema: data.schema }
  const name = model.asking.question || "waiting for an answer"
  openSpan(model, { kind: "ask", id: model.asking.ask, name, attempt: event.attempt, from })
}

function resume(model, data, event, ms) {
  model.asking = null
  const span = model.open.findLast((open) => open.kind === "ask")
  closeSpan(model, span, ms, { value: data.value, hasValue: true })
}

function log(model, data, event, ms) {
  const level = text(data.level)?.toLowerCase() ?? "info"
  const lines = Array.isArray(data.lines) ? data.lines : []
  for (const line of lines) {
    if (typeof line !== "string") continue
    const shown = withoutEscapes(line)
    const entry = {
      level,
      text: shown,
      ms,
      attempt: event.attempt,
      logger: text(data.logger),
      fields: data.fields,
      event,
    }
    model.keep(model.lines, entry, MOST_LINES)
    model.logged += 1
  }
}

function setState(model, event, next) {
  model.state = next(model.state)
  if (event.attempt === undefined) model.lasting = next(model.lasting)
}

function patchState(model, data, event) {
  if (!Array.isArray(event.data)) return
  const operations = event.data.filter((operation) => typeof operation?.path === "string")
  setState(model, event, (old) => patch(old ?? {}, operations))
}

function use(model, data) {
  const name = text(data.model) ?? "unknown"
  const sum = model.usage.get(name) ?? { input: 0, output: 0, calls: 0 }
  sum.input += Number(data.input_tokens) || 0
  sum.output += Number(data.output_tokens) || 0
  sum.calls += 1
  sum.source = text(data.source)
  model.usage.set(name, sum)
}

function retry(model, data, event) {
  const failed = model.attempts.findLast((past) => past.attempt < event.attempt)
  if (failed) Object.assign(failed, { reason: data.reason, error: data.error })
}

function giveInput(model, data) {
  model.input ??= data.input
}

function start(model, data, event, ms) {
  giveInput(model, data)
  const present = model.attempts.at(-1)
  if (present && present.attempt === event.attempt) present.from = ms // less the backoff before it
}

const HANDLERS = new Map([
  ["run.queued", giveInput],
  ["run.started", start],
  ["run.waiting", wait],
  ["run.resumed", resume],
  ["run.retrying", retry],
  ["run.cancel_requested", (model) => (model.cancelling = true)],
  ["run.finished", (model, data) => (model.result = data.result)],
  ["run.failed", (model, data) => (model.failure = data)],
  ["message.started", started("message")],
  ["message.delta", delta("message")],
  ["message.finished", finished("message")],
  ["reasoning.started", started("reasoning")],
  ["reasoning.delta", delta("reasoning")],
  ["reasoning.finished", finished("reasoning")],
  ["step.started", openStep],
  ["step.finished", closeStep],
  ["tool.started", openTool],
  ["tool.args", typeArgs],
  ["tool.ready", giveArgs],
  ["tool.result", giveResult],
  ["tool.error", giveError],
  ["log", log],
  ["state.set", (model, data, event) => setState(model, event, () => event.data)],
  ["state.patch", patchState],
  ["usage", use],
])
