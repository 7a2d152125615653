// The list of runs: live, newest change first, filtered by status and words.

import { listRuns, liveUrl } from "./api.js"
import { h, say, soon } from "./dom.js"
import { ago, date, duration } from "./format.js"
import { ENDED } from "./model.js"

const MOST = 500 // rows drawn
const PAGE = 50 // runs in the first frame, if there are so many

export class Runs {
  // elements: {list, nothing, older, live}; onChange(state): a run changed; onFirst(): the first page, or the first run, is there.
  constructor(elements, { onChange, onFirst }) {
    Object.assign(this, elements, { onChange, onFirst })
    this.states = new Map() // run → RunState, newest change first
    this.rows = new Map()
    this.wanted = { text: "", status: "" }
    this.pages = new Map() // status → cursor of its next page; null behind the last
    this.current = null
    this.draw = this.draw.bind(this)
    this.older.addEventListener("click", () => this.more())
    setInterval(this.draw, 5000)
  }

  open() {
    clearTimeout(this.retry)
    this.source?.close()
    this.source = new EventSource(liveUrl)
    this.source.onopen = () => this.began()
    this.source.onmessage = ({ data }) => this.take(JSON.parse(data).runs)
    this.source.onerror = () => this.broke()
  }

  close() {
    clearTimeout(this.retry)
    this.source?.close()
    this.link("paused")
  }

  // An EventSource gives up for good on any refusal: it is begun again here.
  broke() {
    this.link("connecting")
    if (this.source.readyState === EventSource.CLOSED) this.retry = setTimeout(() => this.open(), 2000)
  }

  link(state) {
    this.live.dataset.state = state
    say(this.live, { live: "live", connecting: "connecting…", paused: "paused" }[state])
  }

  began() {
    this.link("live")
    this.isFirst = true
  }

  // The first frame of a connection is the whole first page, in order. Later on a run comes first when its status
  // changed, and stays where it is when only its feed grew.
  take(runs) {
    const wasEmpty = this.states.size === 0
    const comes = (state) => this.isFirst || this.states.get(state.run)?.status !== state.status
    const ahead = new Map(runs.filter(comes).map((state) => [state.run, state]))
    for (const state of runs) if (!ahead.has(state.run)) this.states.set(state.run, state)
    for (const [run, state] of this.states) if (!ahead.has(run)) ahead.set(run, state)
    this.states = ahead
    if (this.isFirst && runs.length < PAGE) this.pages.set("", null)
    this.isFirst = false
    for (const state of runs) this.onChange(state)
    const isNew = !this.known || (wasEmpty && runs.length > 0)
    this.known = true
    if (isNew) this.onFirst()
    soon(this.draw)
  }

  // Older runs go to the end; those that are known stay where they are.
  append(runs) {
    for (const state of runs) if (!this.states.has(state.run)) this.states.set(state.run, state)
    this.known = true
    soon(this.draw)
  }

  async more() {
    const { status } = this.wanted
    const before = this.states.size
    while (this.pages.get(status) !== null && this.states.size === before) {
      const page = await listRuns({ status, after: this.pages.get(status) }).catch(() => null)
      if (!page) return
      this.pages.set(status, page.next ?? null)
      this.append(page.runs)
    }
    soon(this.draw)
  }

  filter(wanted) {
    Object.assign(this.wanted, wanted)
    if (this.wanted.status && !this.pages.has(this.wanted.status)) this.more()
    soon(this.draw)
  }

  choose(run) {
    this.current = run
    soon(this.draw)
  }

  visible() {
    const { status } = this.wanted
    const words = this.wanted.text.toLowerCase().split(/\s+/).filter(Boolean)
    const fits = (state) =>
      (!status || state.status === status) && words.every((word) => haystack(state).includes(word))
    return [...this.states.values()].filter(fits).slice(0, MOST)
  }

  // The run above or below the chosen one, or null.
  neighbour(step) {
    const shown = this.visible()
    const at = shown.findIndex((state) => state.run === this.current)
    return shown[at === -1 ? 0 : at + step]?.run ?? null
  }

  draw() {
    const shown = this.visible()
    const kept = new Set(shown.map((state) => state.run))
    for (const [run, row] of this.rows) if (!kept.has(run)) (row.remove(), this.rows.delete(run))
    let at = this.list.firstElementChild
    for (const state of shown) {
      const row = this.row(state)
      if (row === at) at = at.nextElementSibling
      else this.list.insertBefore(row, at)
    }
    this.nothing.hidden = shown.length > 0 || !this.known
    const filtered = this.wanted.text || this.wanted.status
    say(this.nothing, filtered ? "No run fits this filter." : "No runs yet.")
    this.older.hidden = !this.known || !this.states.size || this.pages.get(this.wanted.status) === null
  }

  row(state) {
    let row = this.rows.get(state.run)
    if (!row) this.rows.set(state.run, (row = newRow(state.run)))
    const { link, name, id, status, time } = row.parts
    say(name, state.task ?? state.run)
    say(
      id,
      state.task
        ? state.run
        : Object.entries(state.labels ?? {})
            .map((pair) => pair.join(": "))
            .join(", "),
    )
    status.dataset.status = state.status
    say(status, state.status)
    say(time, timeWords(state))
    time.title = date(Date.parse(state.updated ?? state.created))
    if (state.run === this.current) link.setAttribute("aria-current", "true")
    else link.removeAttribute("aria-current")
    return row
  }

  focus(run) {
    this.rows.get(run)?.parts.link.focus()
  }
}

function newRow(run) {
  const parts = {
    name: h("span", { class: "run-name" }),
    id: h("span", { class: "run-id" }),
    status: h("span", { class: "status" }),
    time: h("span", { class: "run-time" }),
  }
  parts.link = h("a", { href: `#run=${encodeURIComponent(run)}` }, parts.name, parts.status, parts.id, parts.time)
  return Object.assign(h("li", null, parts.link), { parts })
}

function timeWords({ status, created, ended, updated }) {
  if (ENDED.has(status) && ended)
    return `${duration(Date.parse(ended) - Date.parse(created))} · ${ago(Date.parse(ended))}`
  return ago(Date.parse(updated ?? created))
}

const haystack = (state) =>
  [
    state.run,
    state.task,
    state.thread,
    state.status,
    state.error,
    ...Object.entries(state.labels ?? {}).map((pair) => pair.join(":")),
  ]
    .join(" ")
    .toLowerCase()
