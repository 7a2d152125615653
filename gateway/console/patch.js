// RFC 6902 on plain values. Never changes its input, and never follows a prototype.

export function patch(document, operations) {
  return operations.reduce(apply, document)
}

function apply(document, { op, path, from, value }) {
  const to = keys(path)
  if (op === "remove") return edit(document, to, remove)
  if (op === "copy") return edit(document, to, add(find(document, keys(from))))
  if (op === "move") return edit(edit(document, keys(from), remove), to, add(find(document, keys(from))))
  if (op === "replace") return edit(document, to, replace(value))
  return op === "add" ? edit(document, to, add(value)) : document
}

const keys = (path) =>
  path
    .split("/")
    .slice(1)
    .map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"))

const find = (node, path) => path.reduce((at, key) => (Object.hasOwn(Object(at), key) ? at[key] : undefined), node)

// `change(copy, key)` edits the copy of the node that holds the last key; without a key the whole is replaced.
function edit(node, [key, ...rest], change) {
  if (key === undefined) return change({}, "")[""]
  const copy = Array.isArray(node) ? [...node] : { ...node }
  if (!rest.length) return change(copy, key)
  return put(copy, key, edit(find(copy, [key]), rest, change))
}

function put(copy, key, value) {
  Object.defineProperty(copy, key, { value, enumerable: true, configurable: true, writable: true })
  return copy
}

function remove(copy, key) {
  if (Array.isArray(copy)) copy.splice(Number(key), 1)
  else delete copy[key]
  return copy
}

const replace = (value) => (copy, key) => put(copy, key, value)

const add = (value) => (copy, key) => {
  if (!Array.isArray(copy)) return put(copy, key, value)
  copy.splice(key === "-" ? copy.length : Number(key), 0, value)
  return copy
}
