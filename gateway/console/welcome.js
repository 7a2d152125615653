// What stands where a run would: how to make the first one.

import { base } from "./api.js"
import { copyButton, h } from "./dom.js"

export function welcome(hasRuns) {
  if (hasRuns) return h("div", { class: "welcome" }, h("p", { class: "nothing" }, "Choose a run to see it live."))
  const body = '[{"type":"message.delta","data":{"text":"Hello"}},{"type":"run.finished"}]'
  const ways = [
    ["A real agent that reviews the folder you are in", "tailrace demo"],
    ["Any program: its output becomes log lines, its exit code decides", "tailrace exec -- make"],
    ["Plain HTTP", `curl ${new URL("runs/hello/events", base).href} -H 'content-type: application/json' -d '${body}'`],
  ]
  return h(
    "div",
    { class: "welcome" },
    h("h1", null, "No runs yet"),
    h(
      "p",
      null,
      "A run is one piece of work with a feed that nobody loses. Make the first one; it appears here at once.",
    ),
    h(
      "ul",
      { class: "ways" },
      ways.map(([about, command]) => h("li", null, h("h2", null, about), commandLine(command))),
    ),
  )
}

const commandLine = (command) => h("div", { class: "command" }, h("code", null, command), copyButton("Copy", command))
