// Numbers and times for eyes.

export function duration(ms) {
  if (!(ms >= 0)) return ""
  if (ms < 1000) return `${Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`
  const minutes = Math.floor(ms / 60_000)
  if (minutes < 60) return `${minutes} min ${Math.floor((ms % 60_000) / 1000)} s`
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

// Of what still goes on: whole seconds, which can be read while they change.
export const running = (ms) => (ms < 60_000 ? `${Math.max(0, Math.floor(ms / 1000))} s` : duration(ms))

export function ago(ms, now = Date.now()) {
  const seconds = Math.max(0, Math.round((now - ms) / 1000))
  if (seconds < 5) return "now"
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`
  return `${Math.floor(seconds / 86_400)} d`
}

const clockFormat = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hour12: false,
})
const dateFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" })

export const clock = (ms) => clockFormat.format(ms)
export const preciseClock = (ms) => `${clockFormat.format(ms)}.${String(ms % 1000).padStart(3, "0")}`
export const date = (ms) => dateFormat.format(ms)
const isToday = (ms, now) => new Date(ms).toDateString() === new Date(now).toDateString()
export const moment = (ms, now = Date.now()) => (isToday(ms, now) ? clock(ms) : date(ms))

// Sentences of the server have UTC times as 2026-11-24T11:02:13Z; a person has a time of his own.
export const inLocalTime = (text, now = Date.now()) =>
  text.replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z/g, (utc) => moment(Date.parse(utc), now))

export const count = (number) => number.toLocaleString()

// An event's time and number are in its ID, "<seq>-<ms>".
export const timeOf = (id) => Number(id.slice(id.indexOf("-") + 1))
export const seqOf = (id) => Number(id.slice(0, id.indexOf("-")))

// Colours and cursor movements that programs write for terminals.
export const withoutEscapes = (text) =>
  text.replace(/\u001b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\))/g, "")

export const words = (value) => (typeof value === "string" ? value : (JSON.stringify(value) ?? ""))
