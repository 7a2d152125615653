// The page: which run is shown (the URL's hash says), keys, and connections only while somebody looks.

import { namespace } from "./api.js"
import { say, soon } from "./dom.js"
import { RunPane } from "./run.js"
import { Runs } from "./runs.js"
import { welcome } from "./welcome.js"

const by = (id) => document.getElementById(id)
const detail = by("detail")
const text = by("text")
const status = by("status")
const isWide = matchMedia("(min-width: 800px)")

const runs = new Runs(
  { list: by("runs"), nothing: by("nothing"), older: by("older"), live: by("live") },
  {
    onChange: (state) => state.run === pane?.run && pane.know(state),
    onFirst: () => {
      if (!chosen() && isWide.matches && runs.neighbour(0)) history.replaceState(null, "", hashOf(runs.neighbour(0)))
      show()
    },
  },
)
let pane = null

const hashOf = (run) => `#run=${encodeURIComponent(run)}`

function chosen() {
  try {
    return decodeURIComponent(/^#run=(.+)$/.exec(location.hash)?.[1] ?? "")
  } catch {
    return "" // a hash that somebody typed, with a lone %
  }
}

function show() {
  const run = chosen()
  document.body.classList.toggle("has-run", Boolean(run))
  document.body.classList.toggle("is-empty", runs.known === true && runs.states.size === 0)
  runs.choose(run)
  if (pane && pane.run === run) return
  pane?.close()
  pane = null
  if (!run) {
    document.title = "tailrace"
    detail.replaceChildren(runs.known ? welcome(runs.states.size > 0) : "")
    return
  }
  pane = new RunPane(run, { onStatus: tell, onFilter: find })
  detail.replaceChildren(pane.element)
  pane.open()
}

function tell(state, name) {
  if (!state) return
  document.title = `${MARKS[state] ?? "·"} ${name} · tailrace`
  say(by("said"), `${name}: ${state}`)
}

const MARKS = { queued: "○", running: "●", waiting: "?", succeeded: "✓", failed: "✗", cancelled: "–" }

function find(words) {
  text.value = words
  runs.filter({ text: words })
  if (!isWide.matches) location.hash = ""
}

let soonShown
function move(step) {
  const run = runs.neighbour(step)
  if (!run) return
  history.replaceState(null, "", hashOf(run))
  runs.choose(run)
  soon(() => runs.focus(run))
  clearTimeout(soonShown)
  soonShown = setTimeout(show, 120) // who holds j down passes by runs without opening them
}

function escape() {
  if (document.activeElement === text && text.value) return find("")
  if (document.activeElement !== document.body && document.activeElement !== detail)
    return document.activeElement.blur()
  if (chosen() && !isWide.matches) location.hash = ""
}

const KEYS = { j: () => move(1), k: () => move(-1), "/": () => text.focus(), Escape: escape }

addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select") && event.key !== "Escape"
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return
  const act = KEYS[event.key]
  if (!act) return
  event.preventDefault()
  act()
})

by("filters").addEventListener("submit", (event) => event.preventDefault())
text.addEventListener("input", () => runs.filter({ text: text.value }))
status.addEventListener("change", () => runs.filter({ status: status.value }))
addEventListener("hashchange", show)

// A hidden tab lets go of its connections: over HTTP/1.1 a browser has six for all tabs of a host together.
let hidden
document.addEventListener("visibilitychange", () => {
  clearTimeout(hidden)
  if (document.hidden) hidden = setTimeout(() => (runs.close(), pane?.close(), (hidden = "closed")), 10_000)
  else if (hidden === "closed") (runs.open(), pane?.open(), (hidden = null))
})

say(by("where"), namespace === "default" ? "" : namespace)
show()
runs.open()
