// Above a run: what it is, how it stands, what can be done with it.

import { cancel } from "./api.js"
import { copyButton, h, say } from "./dom.js"
import { count, date, duration, inLocalTime, moment, running, words } from "./format.js"
import { inline } from "./markdown.js"
import { ENDED } from "./model.js"
import { progressOf } from "./side.js"

export class Header {
  // onFilter(text): show the runs that this text finds.
  constructor(run, onFilter) {
    Object.assign(this, { run, onFilter })
    this.back = h("a", { href: "#", class: "back" }, "All runs")
    this.title = h("h1", null, run)
    this.status = h("span", { class: "status" })
    this.id = h("code", { class: "id" }, run)
    this.facts = h("ul", { class: "facts" })
    this.labels = h("ul", { class: "labels" })
    this.notice = h("p", { class: "notice", hidden: true })
    this.error = h("div", { class: "notice error", hidden: true })
    this.progress = h("progress", { max: 1, hidden: true, ariaLabel: "Progress" })
    this.stop = h("button", { type: "button", class: "danger", on: { click: () => this.askCancel() } }, "Cancel run")
    this.refusal = h("p", { class: "error-text", role: "alert" })
    const actions = h(
      "div",
      { class: "actions" },
      copyButton("Copy ID", run),
      copyButton("Copy link", () => location.href),
      this.stop,
    )
    const top = h("div", { class: "title" }, this.status, this.title, actions)
    this.element = h(
      "header",
      { class: "head" },
      this.back,
      top,
      h("div", { class: "about" }, this.id, this.facts, this.labels),
      this.progress,
      this.refusal,
      this.notice,
      this.error,
    )
  }

  // state: RunState of WIRE 5, or null until it is read; now: the server's time.
  draw(state, model, now) {
    const status = statusOf(state, model)
    this.status.dataset.status = status ?? ""
    say(this.status, status ?? "reading")
    say(this.title, state?.task ?? this.run)
    this.id.hidden = !state?.task
    this.stop.hidden = !status || ENDED.has(status)
    this.drawFacts(state ?? {}, model, status, now)
    this.drawLabels(state ?? {})
    this.drawNotice(state, status, model)
    this.drawError(state, model, status)
    const share = ENDED.has(status) ? null : progressOf(model.state)
    this.progress.hidden = share === null
    if (share !== null) this.progress.value = share
  }

  drawFacts(state, model, status, now) {
    const created = state.created ? Date.parse(state.created) : model.from
    const ended = state.ended ? Date.parse(state.ended) : ENDED.has(status) ? model.to : null
    const attempt = Math.max(model.attempt, state.attempt ?? 0)
    const facts = [
      attempt > 1 && [`attempt ${attempt}`],
      created !== null && [`began ${moment(created, now)}`, date(created)],
      created !== null && [ended === null ? `for ${running(now - created)}` : `took ${duration(ended - created)}`],
      [model.events === 1 ? "1 event" : `${count(model.events)} events`],
    ].filter(Boolean)
    const key = JSON.stringify(facts)
    if (key === this.shownFacts) return
    this.shownFacts = key
    this.facts.replaceChildren(...facts.map(([text, title]) => h("li", { title: title ?? "" }, text)))
  }

  drawLabels({ labels, thread }) {
    const pairs = Object.entries(labels ?? {}).map(([name, value]) => [`${name}: ${value}`, value])
    if (thread) pairs.unshift([`thread ${thread}`, thread])
    const key = JSON.stringify(pairs)
    if (key === this.shownLabels) return
    this.shownLabels = key
    const chip = ([text, find]) =>
      h(
        "li",
        null,
        h(
          "button",
          { type: "button", class: "chip", title: "Show runs with it", on: { click: () => this.onFilter(find) } },
          text,
        ),
      )
    this.labels.replaceChildren(...pairs.map(chip))
  }

  // An open question has its own box.
  drawNotice(state, status, model) {
    const text = ENDED.has(status) || (status === "waiting" && model.asking) ? "" : noticeOf(state, model)
    if (text === this.shownNotice) return
    this.shownNotice = text
    this.notice.hidden = !text
    this.notice.replaceChildren(...inline(text))
  }

  drawError(state, model, status) {
    const text = status === "failed" ? words(state?.error ?? model.failure?.error ?? "It failed without a word.") : ""
    const key = text + String(model.failure?.traceback)
    if (key === this.shownError) return
    this.shownError = key
    this.error.hidden = !text
    const traceback = model.failure?.traceback
    const more =
      typeof traceback === "string" &&
      h("details", null, h("summary", null, "Traceback"), h("pre", { class: "code" }, traceback))
    this.error.replaceChildren(h("strong", null, REASONS[model.failure?.reason] ?? "Failed"), " ", text, more || "")
  }

  askCancel() {
    const reason = h("input", { id: "reason", placeholder: "Reason, for the record", autocomplete: "off" })
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", null, "Cancel this run?"),
      h("label", { htmlFor: "reason" }, "The function is asked to stop; what it wrote stays."),
      reason,
    )
    form.append(
      h(
        "div",
        { class: "actions" },
        h("button", { value: "", formNoValidate: true }, "Keep it running"),
        h("button", { value: "cancel", class: "danger" }, "Cancel run"),
      ),
    )
    const dialog = h("dialog", { ariaLabel: "Cancel this run?" }, form)
    dialog.addEventListener("close", () => {
      dialog.remove()
      if (dialog.returnValue === "cancel") this.sendCancel(reason.value.trim())
    })
    // Enter in the field means what the field is for.
    reason.addEventListener(
      "keydown",
      (event) => event.key === "Enter" && (event.preventDefault(), dialog.close("cancel")),
    )
    document.body.append(dialog)
    dialog.showModal()
    reason.focus()
  }

  async sendCancel(reason) {
    say(this.refusal, "")
    try {
      await cancel(this.run, reason)
    } catch (refused) {
      say(this.refusal, refused.message)
    }
  }
}

const REASONS = {
  __proto__: null,
  timeout: "Timed out:",
  given_up: "Given up:",
  poison: "Its process died too often:",
  owner_lost: "Its process was lost:",
  shutdown: "Its process was stopped:",
  silent: "Silent for too long:",
  error: "Failed:",
}

function noticeOf(state, model) {
  if (model.cancelling) return "A cancel was asked for; the function has not stopped yet."
  return state?.waiting_for ? `Waits for ${inLocalTime(state.waiting_for)}.` : ""
}

// What the feed says, once all of it is read; until then what the gateway says.
export function statusOf(state, model) {
  return (model.caughtUp && model.status) || state?.status || model.status
}
