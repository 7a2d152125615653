// The gateway's routes, relative to this page's own address.

const meta = document.querySelector('meta[name="tailrace-api"]').content
export const base = new URL(`${meta.replace(/\/+$/, "")}/`, document.baseURI)
export const namespace = /(?:^|\/)api\/([^/]+)\/?$/.exec(meta)?.[1] ?? ""

const address = (path) => new URL(path, base).href
const part = encodeURIComponent

export const eventsUrl = (run) => address(`runs/${part(run)}/events`)
export const liveUrl = address("live")

// What the gateway refused; `problem` as RFC 9457 has it.
export class Refused extends Error {
  constructor(problem) {
    super([problem.detail ?? problem.title, problem.remedy].filter(Boolean).join(" "))
    this.problem = problem
  }
}

async function ask(path, options) {
  const reply = await fetch(address(path), options)
  const body = await reply.json().catch(() => null)
  if (!reply.ok) throw new Refused({ title: `The gateway answered ${reply.status}.`, ...body, status: reply.status })
  return body
}

const post = (path, body) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })

export const readState = (run, signal) => ask(`runs/${part(run)}`, { signal })
export const cancel = (run, reason) => post(`runs/${part(run)}/cancel`, reason ? { reason } : {})
export const answer = (run, askId, value) => post(`runs/${part(run)}/inputs`, askId ? { ask: askId, value } : { value })

export function listRuns({ status = "", after = "" } = {}) {
  const query = new URLSearchParams({ limit: "100" })
  if (status) query.set("status", status)
  if (after) query.set("after", after)
  return ask(`runs?${query}`)
}
