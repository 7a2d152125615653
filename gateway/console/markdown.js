// The little Markdown that models write, as elements. Untrusted text: it becomes text nodes, links stay plain text.

import { h } from "./dom.js"

// Elements of one block, a piece of text without blank lines outside fences.
export function blockOf(source) {
  const lines = source.replace(/^\n+|\n+$/g, "").split("\n")
  const fence = /^\s*(```|~~~)/.exec(lines[0])
  if (fence)
    return [
      h(
        "pre",
        { class: "code" },
        lines
          .slice(1)
          .join("\n")
          .replace(/\n?\s*(```|~~~)\s*$/, ""),
      ),
    ]
  const parts = []
  while (lines.length) parts.push(takePart(lines))
  return parts
}

function takePart(lines) {
  const heading = /^(#{1,6})\s+(.*)$/.exec(lines[0])
  if (heading) {
    lines.shift()
    return h(
      "div",
      { class: `heading h${heading[1].length}`, role: "heading", ariaLevel: String(heading[1].length + 2) },
      inline(heading[2]),
    )
  }
  if (/^\s*(-{3,}|\*{3,})\s*$/.test(lines[0])) return (lines.shift(), h("hr"))
  if (/^\s*\|.*\|\s*$/.test(lines[0])) return table(takeWhile(lines, (line) => /^\s*\|/.test(line)))
  if (/^\s*>/.test(lines[0])) return quote(takeWhile(lines, (line) => /^\s*>/.test(line)))
  if (ITEM.test(lines[0])) return list(takeWhile(lines, (line) => ITEM.test(line) || /^\s{2,}\S/.test(line)))
  return h("p", null, inline(takeWhile(lines, isProse).join("\n")))
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/
const isProse = (line) => !ITEM.test(line) && !/^(#{1,6}\s|\s*\||\s*>)/.test(line)

// At least one line, so that nothing is ever left for ever.
function takeWhile(lines, fits) {
  const taken = [lines.shift()]
  while (lines.length && fits(lines[0])) taken.push(lines.shift())
  return taken
}

function list(lines) {
  const ordered = /^\s*\d/.test(lines[0])
  const items = []
  for (const line of lines) {
    const item = ITEM.exec(line)
    if (item) items.push({ depth: Math.min(Math.floor(item[1].length / 2), 4), mark: item[2], text: item[3] })
    else items.at(-1).text += `\n${line.trim()}`
  }
  const start = ordered ? Number.parseInt(items[0].mark, 10) : null
  return h(
    ordered ? "ol" : "ul",
    start === null ? null : { start },
    items.map(({ depth, text }) => h("li", { class: depth ? `deep${depth}` : "" }, inline(text))),
  )
}

function table(lines) {
  const rows = lines.map((line) =>
    line
      .trim()
      .replace(/^\||\|$/g, "")
      .split("|")
      .map((cell) => cell.trim()),
  )
  const isRule = (row) => row.every((cell) => /^:?-*:?$/.test(cell))
  const hasHead = rows.length > 1 && isRule(rows[1])
  const cells = (row, tag) =>
    h(
      "tr",
      null,
      row.map((cell) => h(tag, null, inline(cell))),
    )
  const body = rows.slice(hasHead ? 2 : 0).map((row) => cells(row, "td"))
  return h(
    "div",
    { class: "table" },
    h("table", null, hasHead && h("thead", null, cells(rows[0], "th")), h("tbody", null, body)),
  )
}

const quote = (lines) => h("blockquote", null, inline(lines.map((line) => line.replace(/^\s*>\s?/, "")).join("\n")))

const INLINE = /(`+)([^`]+?)\1|\*\*(\S(?:[^*]*\S)?)\*\*|(?<![\w*])[*_](\S(?:[^*_\n]*\S)?)[*_](?![\w*])/g

// Text with `code`, **strong** and *emphasis*.
export function inline(text) {
  const parts = []
  let at = 0
  for (const found of text.matchAll(INLINE)) {
    if (found.index > at) parts.push(text.slice(at, found.index))
    if (found[2] !== undefined) parts.push(h("code", null, found[2]))
    else if (found[3] !== undefined) parts.push(h("strong", null, inline(found[3])))
    else parts.push(h("em", null, found[4]))
    at = found.index + found[0].length
  }
  if (at < text.length) parts.push(text.slice(at))
  return parts
}

const MOST = 4000 // characters that an open block may have: it is drawn again with every increment

// Where the blocks of a growing text end, from `from` on; the last one is still open.
export function blockEnds(text, from) {
  const ends = []
  let start = from
  while (start < text.length) {
    const end = endOfBlock(text, start)
    if (end === -1) break
    ends.push(end)
    start = end
  }
  return ends
}

function endOfBlock(text, start) {
  const fenced = /^\n*\s*(```|~~~)/.exec(text.slice(start, start + 200))
  let end
  if (fenced) {
    const close = text.indexOf(`\n${fenced[1]}`, start + fenced[0].length)
    const line = close === -1 ? -1 : text.indexOf("\n", close + 1)
    end = line === -1 ? -1 : line + 1
  } else {
    const first = start + /^\n*/.exec(text.slice(start, start + 1000))[0].length
    const blank = text.indexOf("\n\n", first)
    const fence = /\n(?=```|~~~)/.exec(text.slice(first, first + MOST))
    end = blank === -1 ? -1 : blank + 2
    if (fence && (end === -1 || first + fence.index + 1 < end)) end = first + fence.index + 1
  }
  if (end !== -1 && end - start <= MOST) return end
  if (text.length - start <= MOST) return -1
  for (const mark of ["\n", " "]) {
    const at = text.lastIndexOf(mark, start + MOST - 1)
    if (at > start) return at + 1
  }
  return start + MOST
}
