// for await (const view of follow("/runs/ID/events")) out.textContent = view.text
// view: text and messages of the current attempt, status, attempt, last (event), events (new ones), the latest
// tailrace.* frames: open, caught_up, gap, end. after: ID to go on behind. renew: async () => new URL.
// Resumes by itself, ends with the run; throws a refusal, with the problem as cause.
export async function* follow(url, { after, signal, renew } = {}) {
	let view, retry = 2000
	const clear = () => view = { ...view, messages: [], status: null, attempt: 0 }
	clear()

	const take = e => {
		const { id, type, attempt } = e, data = Object(e.data), [kind, verb] = type.split(".")
		if (id) view.last = e, after = id
		if (/^run\.(queued|started|waiting|resumed|retrying|finished|failed|cancelled)$/.test(type))
			view.status = STATUS[verb] ?? verb
		if (attempt > view.attempt) { // older are void
			view.messages = view.messages.filter(m => !(m.attempt < attempt))
			view.attempt = attempt
		}
		if (/^message\.(started|delta)$/.test(type)) {
			let m = view.messages.findLast(m => m.attempt == attempt && (data.message ?? m.message) == m.message)
			if (!m || verb == "started") view.messages.push(m = { ...data, attempt, text: "" })
			if (data.text?.trim) m.text += data.text
		}
		if (kind == "tailrace") {
			if (/rewritten|corrupt/.test(data.reason)) clear()
			view[verb] = data
			if (verb == "end") view.status = data.status
			if (verb == "caught_up") view.status ??= view.open.status, view.attempt ||= view.open.attempt
		}
		return e
	}

	while (!signal?.aborted) {
		const headers = { accept: "text/event-stream", ...after && { "last-event-id": after } }
		const reply = await fetch(url, { signal, headers }).catch(() => null)
		if (reply?.status == 204) return
		view.denied = reply?.status < 500 && !reply.ok && await reply.json()
		let rest = ""
		if (reply?.ok) for await (const text of read(reply.body)) {
			const frames = (rest + text).split("\n\n")
			rest = frames.pop()
			view.events = frames.map(frame => {
				const f = Object.fromEntries(frame.split("\n").map(l => l.split(/: (.*)/s)))
				retry = f.retry ?? retry
				const data = JSON.parse(f.data)
				return take(f.event ? { type: f.event, data } : data)
			})
			if (frames[0]) yield { ...view, text: view.messages.map(m => m.text).filter(t => t).join("\n\n") }
			if (view.end) return
		}
		if (renew && view.denied.type == "token-expired") url = await renew()
		else if (view.denied) throw Error(view.denied.detail, { cause: view.denied })
		await new Promise(go => setTimeout(go, retry * (1 + Math.random())))
	}
}

const STATUS = { started: "running", resumed: "running", retrying: "queued", finished: "succeeded" }

async function* read(body) {
	const reader = body.pipeThrough(new TextDecoderStream()).getReader()
	const stop = () => reader.cancel().catch(() => 0)
	try {
		for (;;) {
			const late = setTimeout(stop, 6e4) // 4 heartbeats
			const { value } = await reader.read().catch(() => 0)
			clearTimeout(late)
			if (!value) return
			yield value
		}
	} finally { stop() }
}
