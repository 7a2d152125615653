// Elements from values, and work that waits for the next animation frame. Text goes in as text nodes only.

export function h(tag, props, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value == null || value === false) continue
    if (name === "on") for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener)
    else if (name === "data") Object.assign(node.dataset, value)
    else if (name === "class") node.className = value
    else if (name in node) node[name] = value
    else node.setAttribute(name, value === true ? "" : value)
  }
  node.append(...children.flat().filter((child) => child != null && child !== false))
  return node
}

// Changes text only where it differs: an unchanged node keeps the reader's selection.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text
}

const due = new Set()
let asked = false

// Runs `work` once before the next paint, however often it is asked for until then.
export function soon(work) {
  due.add(work)
  if (asked) return
  asked = true
  requestAnimationFrame(() => {
    asked = false
    const now = [...due]
    due.clear()
    for (const each of now) each()
  })
}

export function copyButton(label, text) {
  const button = h("button", { type: "button", class: "quiet", on: { click: copy } }, label)
  async function copy() {
    const done = await copyText(typeof text === "function" ? text() : text)
    button.textContent = done ? "Copied" : "Not copied"
    setTimeout(() => (button.textContent = label), 1500)
  }
  return button
}

// The clipboard API exists in secure contexts only; a gateway in a private network often is none.
async function copyText(text) {
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(
      () => true,
      () => false,
    )
  }
  const area = h("textarea", { value: text, class: "visually-hidden" })
  document.body.append(area)
  area.select()
  const done = document.execCommand("copy")
  area.remove()
  return done
}
