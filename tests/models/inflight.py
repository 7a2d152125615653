"""One producer with two calls in flight on one connection, by the chain rule; refusals, broken connections, late copies, a server that loses writes.

`producer.py` with a window of two: each call carries one event (prev, number); the second call names the first one's number as prev. The server executes
a connection's calls in order and answers in order. A connection may break at any time: what was under way may still be executed, in order, later.
The producer then takes a new connection and asks first (an append without events answers the stored number).
Flags:
  wait     after a hole or a refusal nothing goes out until both calls are answered, then what the last hole said is believed | no: each hole is believed at once
  prev     first: the second call names the first one's number | known: it names the last number known as accepted
           | highest: the higher of the two (an event that was refused when it was sent again goes once more, though later ones are accepted)
  ask      after a reconnect an empty append asks what is stored | no: it goes on from what it knows
  keep     how many acknowledged events the producer keeps for a refill
Checked: applied once, in order; acknowledged events are in the feed, or told as lost, or will be sent again; no later event beside a silent hole; always able to finish.
"""

from mc import check

EVENTS = 4  # event i has number i for ever


def model(name, wait=True, prev="highest", ask=True, keep=3, full=0, cut=0, crash=0, window=2):
    # server: stored, feed; the same one write ago; calls under way, answers under way, calls of broken connections
    # producer: next new, last known accepted, in flight, to send again, kept, draining, what a hole said, acknowledged, given up, told lost, phase
    prod = (1, 0, (), (), (), False, None, frozenset(), frozenset(), frozenset(), "go")
    init = ((0, ()), None, (), (), (), prod, (full, cut, crash))

    def serve(server, req):
        stored, feed = server
        before, number = req
        if number <= stored:
            return server, "duplicate"
        if before != stored:
            return server, ("hole", stored)
        return (number, feed + (number,)), "appended"

    def believe(prod, have):
        """What the server has: acknowledged events behind it go again, those that are no longer kept are told as lost."""
        nxt, last, flight, again, kept, drain, said, acked, given, lost, phase = prod
        refill = {n for n in kept if n > have}
        gone = {n for n in acked if n > have} - refill - set(again) - set(flight)
        again = tuple(sorted(set(again) | refill - set(flight)))
        return (nxt, have, flight, again, kept, drain, None, acked, given, lost | gone, phase)

    def answered(prod, answer):
        nxt, last, flight, again, kept, drain, said, acked, given, lost, phase = prod
        number, flight = flight[0], flight[1:]
        if answer in ("appended", "duplicate"):
            if number not in kept:
                kept = tuple(sorted(kept + (number,)))[-keep:] if keep else ()
            last, acked, lost = max(last, number), acked | {number}, lost - {number}
        elif answer == "full" and number not in acked:
            given, drain = given | {number}, True
        else:
            again, drain = tuple(sorted(set(again) | {number})), True
            if answer != "full":
                said = answer[1]
        prod = (nxt, last, flight, again, kept, drain, said, acked, given, lost, phase)
        if drain and (not flight or not wait):
            prod = (*prod[:5], False, *prod[6:])
            if said is not None:
                prod = believe(prod, said)
        return prod

    def broken(prod):
        nxt, last, flight, again, kept, drain, said, acked, given, lost, phase = prod
        again = tuple(sorted(set(again) | set(flight)))
        return (nxt, last, (), again, kept, False, None, acked, given, lost, "ask" if ask else "go")

    def steps(state):
        server, old, wire, replies, late, prod, (full, cut, crash) = state
        nxt, last, flight, again, kept, drain, said, acked, given, lost, phase = prod
        if phase == "ask":
            yield (f"new connection: what do you have? {server[0]}", (server, old, wire, replies, late, (*believe(prod, server[0])[:10], "go"), (full, cut, crash)))
        if phase == "go" and not drain and len(flight) < window and (again or nxt <= EVENTS):
            number = again[0] if again else nxt
            before = {"known": last, "first": (*flight, last)[0], "highest": max(flight + (last,))}[prev]
            after = (nxt + (not again), last, flight + (number,), again[1:], kept, drain, said, acked, given, lost, phase)
            yield (f"producer sends {number} after {before}", (server, old, wire + ((before, number),), replies, late, after, (full, cut, crash)))
        if wire:
            after, answer = serve(server, wire[0])
            prior = server if crash and after != server else old
            yield (f"server executes {wire[0][1]} after {wire[0][0]}: {answer}", (after, prior, wire[1:], replies + (answer,), late, prod, (full, cut, crash)))
            if full and answer == "appended":
                yield (f"server executes {wire[0][1]}: full", (server, old, wire[1:], replies + ("full",), late, prod, (full - 1, cut, crash)))
        if replies:
            yield (f"answer for {flight[0]}: {replies[0]}", (server, old, wire, replies[1:], late, answered(prod, replies[0]), (full, cut, crash)))
        if cut and (wire or replies):
            yield ("the connection breaks; what was under way still is", (server, old, (), (), late + wire, broken(prod), (full, cut - 1, crash)))
        if late:
            after, answer = serve(server, late[0])
            prior = server if crash and after != server else old
            yield (f"late: {late[0][1]} after {late[0][0]}: {answer}", (after, prior, wire, replies, late[1:], prod, (full, cut, crash)))
        if crash and old is not None:
            yield ("the server crashes and comes back without its last write", (old, None, (), (), (), broken(prod), (full, cut, crash - 1)))
            if wire:
                yield ("failover without the last write; what was under way still is", (old, None, (), (), late + wire, broken(prod), (full, cut, crash - 1)))

    def bad(state):
        (stored, feed), old, wire, replies, late, prod, budgets = state
        nxt, last, flight, again, kept, drain, said, acked, given, lost, phase = prod
        if len(set(feed)) != len(feed):
            return f"an event was applied twice: feed {feed}"
        if list(feed) != sorted(feed):
            return f"out of order: feed {feed}"
        missing = [n for n in sorted(acked) if n not in feed and n not in lost]
        if [n for n in missing if any(f > n for f in feed)]:
            return f"a silent hole: {missing} acknowledged and lost by the server, a later event is in the feed: {feed}"
        if missing and budgets[2] == crash:
            return f"acknowledged but not in the feed: {missing}, feed {feed}"
        if phase == "go" and not flight and not again and missing and ask:
            return f"the producer forgets what the server lost: {missing}"
        return None

    def done(state):
        (stored, feed), old, wire, replies, late, prod, budgets = state
        nxt, last, flight, again, kept, drain, said, acked, given, lost, phase = prod
        return phase == "go" and nxt > EVENTS and not flight and not again and len(acked | given) == EVENTS

    return check(name, init, steps, bad, done)


if __name__ == "__main__":
    model("two in flight, no faults")
    model("the second names what is known as accepted", prev="known")
    model("the second names the first one's number", prev="first", crash=2, cut=1, full=1)
    model("each hole is believed at once; a refusal", wait=False, full=1)
    model("each hole is believed at once; a lost write, cut connections", wait=False, cut=2, crash=1)
    model("nobody asks after a reconnect; lost writes", ask=False, crash=2)
    print("all fixes in")
    model("refusals", full=3)
    model("refusals, cut connections with late copies", full=2, cut=2)
    model("a lost write, keeps 3", crash=1, cut=2)
    model("two lost writes, a refusal, cut connection", crash=2, cut=1, full=1)
    model("two lost writes, cut connections", crash=2, cut=2)
    model("keeps 1; what is gone is told", crash=2, cut=1, keep=1)
    model("one in flight, the same faults", window=1, crash=2, cut=2, full=1)
