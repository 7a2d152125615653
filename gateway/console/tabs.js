// Tabs as the ARIA practices have them: arrows move, one panel shows.

import { count } from "./format.js"
import { h, say } from "./dom.js"

export class Tabs {
  // panels: {name: element}; the first one shows.
  constructor(panels) {
    this.panels = panels
    this.buttons = {}
    this.chosenByHand = false
    const bar = h("div", {
      class: "tab-bar",
      role: "tablist",
      ariaLabel: "Parts of the run",
      on: { keydown: (event) => this.key(event) },
    })
    for (const [name, panel] of Object.entries(panels)) bar.append(this.button(name, panel))
    this.element = h("div", { class: "tabs" }, bar, ...Object.values(panels))
    this.show(Object.keys(panels)[0])
  }

  button(name, panel) {
    panel.id = `panel-${name}`
    panel.setAttribute("role", "tabpanel")
    panel.setAttribute("aria-labelledby", `tab-${name}`)
    const number = h("span", { class: "tab-number" })
    const choose = () => {
      this.chosenByHand = true
      this.show(name)
    }
    const button = h(
      "button",
      { type: "button", role: "tab", id: `tab-${name}`, class: "tab", on: { click: choose } },
      name,
      number,
    )
    button.setAttribute("aria-controls", panel.id)
    this.buttons[name] = { button, number }
    return button
  }

  show(name) {
    this.active = name
    for (const [other, { button }] of Object.entries(this.buttons)) {
      button.setAttribute("aria-selected", String(other === name))
      button.tabIndex = other === name ? 0 : -1
      this.panels[other].hidden = other !== name
    }
    this.onShow?.(name)
  }

  // What would be best to see first; the reader's own choice stands.
  suggest(name) {
    if (!this.chosenByHand) this.show(name)
  }

  number(name, value) {
    say(this.buttons[name].number, value ? count(value) : "")
  }

  key(event) {
    const names = Object.keys(this.panels)
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (!step) return
    const name = names[(names.indexOf(this.active) + step + names.length) % names.length]
    this.buttons[name].button.click()
    this.buttons[name].button.focus()
  }
}
