// A list of any length with rows of one height: only those in sight are in the page.

import { h, soon } from "./dom.js"

let lists = 0

export class VirtualList {
  // row(item): the row's children. pick(item): a row was chosen by mouse or keyboard.
  constructor({ label, height = 24, row, pick }) {
    Object.assign(this, { height, row, pick, items: [], chosen: null, nodes: new Map(), sticks: true })
    this.prefix = `row-${(lists += 1)}-`
    this.space = h("div", { class: "virtual-space" })
    this.element = h("div", { class: "virtual", tabIndex: 0, role: "listbox", ariaLabel: label }, this.space)
    this.draw = this.draw.bind(this)
    this.element.addEventListener("scroll", () => this.scrolled(), { passive: true })
    this.element.addEventListener("keydown", (event) => this.key(event))
    this.element.addEventListener("click", (event) => this.clicked(event))
    new ResizeObserver(() => soon(this.draw)).observe(this.element)
  }

  show(items) {
    this.items = items
    soon(this.draw)
  }

  scrolled() {
    const { scrollTop, clientHeight, scrollHeight } = this.element
    this.sticks = scrollTop + clientHeight >= scrollHeight - this.height
    soon(this.draw)
  }

  draw() {
    if (!this.element.clientHeight) return
    this.space.style.height = `${this.items.length * this.height}px`
    if (this.sticks) this.element.scrollTop = this.element.scrollHeight
    const first = Math.max(0, Math.floor(this.element.scrollTop / this.height) - 8)
    const last = Math.min(this.items.length, first + Math.ceil(this.element.clientHeight / this.height) + 16)
    const seen = new Set(this.items.slice(first, last))
    for (const [item, node] of this.nodes) if (!seen.has(item)) (node.remove(), this.nodes.delete(item))
    for (let index = first; index < last; index += 1) this.place(this.items[index], index)
  }

  place(item, index) {
    let node = this.nodes.get(item)
    if (!node) {
      node = h("div", { class: "row", role: "option" }, this.row(item))
      node.item = item
      this.nodes.set(item, node)
      this.space.append(node)
    }
    node.id = this.prefix + index
    node.style.transform = `translateY(${index * this.height}px)`
    node.setAttribute("aria-selected", String(item === this.chosen))
    node.setAttribute("aria-posinset", String(index + 1))
    node.setAttribute("aria-setsize", String(this.items.length))
  }

  clicked(event) {
    const node = event.target.closest(".row")
    if (node && !String(getSelection())) this.choose(node.item)
  }

  choose(item) {
    this.chosen = item
    const index = this.items.indexOf(item)
    this.element.setAttribute("aria-activedescendant", this.prefix + index)
    soon(this.draw)
    this.pick?.(item)
  }

  key(event) {
    const at = this.items.indexOf(this.chosen)
    const page = Math.floor(this.element.clientHeight / this.height) - 1
    const last = this.items.length - 1
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: last }
    const to = moves[event.key]
    if (to === undefined || last < 0) return
    event.preventDefault()
    const index = Math.max(0, Math.min(last, to))
    const top = index * this.height
    if (top < this.element.scrollTop) this.element.scrollTop = top
    const lowest = top + this.height - this.element.clientHeight
    if (lowest > this.element.scrollTop) this.element.scrollTop = lowest
    this.choose(this.items[index])
  }

  toEnd() {
    this.sticks = true
    soon(this.draw)
  }
}
