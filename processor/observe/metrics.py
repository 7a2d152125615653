"""What the process counts, in prometheus-client's default registry. No label per run: their number has no bound."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

__all__ = [
    "CONTENT_TYPE",
    "append_batch_events",
    "append_to_send_seconds",
    "appends_total",
    "claimed_entries_total",
    "exposition",
    "frames_total",
    "gaps_filled_total",
    "gaps_told_total",
    "groups_dead",
    "groups_delayed",
    "groups_lag",
    "groups_members",
    "groups_oldest_seconds",
    "groups_pending",
    "inlet_entries_total",
    "inlet_missed_total",
    "lost_entries_total",
    "promoted_total",
    "put_off_total",
    "reactions_total",
    "reconnects_total",
    "refills_total",
    "requests_total",
    "resubscriptions_total",
    "resumes_total",
    "slow_fallbacks_total",
    "subscribers",
    "tasks_delayed",
    "tasks_oldest_seconds",
    "tasks_pending",
    "tasks_waiting",
]

CONTENT_TYPE = CONTENT_TYPE_LATEST

# --- writing
appends_total = Counter("tailrace_appends_total", "Events by the outcome of their append", ["outcome"])
refills_total = Counter("tailrace_refills_total", "Events sent again that the server had acknowledged and lost")
append_batch_events = Histogram(
    "tailrace_append_batch_events",
    "Events in one call of the append script",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
reactions_total = Counter(
    "tailrace_reactions_total", "Events that a group's reactions handled, by outcome", ["group", "outcome"]
)
reconnects_total = Counter("tailrace_reconnects_total", "Connections to the server made anew", ["connection"])

# --- following
subscribers = Gauge("tailrace_subscribers", "Open connections that follow a run")
frames_total = Counter("tailrace_frames_total", "Event frames handed to subscribers")
gaps_filled_total = Counter("tailrace_gaps_filled_total", "Holes in live events that were read from the feed")
gaps_told_total = Counter("tailrace_gaps_told_total", "Gaps told to subscribers, by reason", ["reason"])
resumes_total = Counter("tailrace_resumes_total", "Streams that began with a cursor")
slow_fallbacks_total = Counter(
    "tailrace_slow_fallbacks_total", "Subscribers that left the live path with a full buffer"
)
append_to_send_seconds = Histogram(
    "tailrace_append_to_send_seconds",
    "From the append (server's clock) to the write to subscribers, of the oldest event of a flush",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
resubscriptions_total = Counter(
    "tailrace_resubscriptions_total", "Channels that were subscribed again after a connection was lost"
)

# --- executing
claimed_entries_total = Counter(
    "tailrace_claimed_entries_total", "Work entries taken over from consumers that were gone"
)
promoted_total = Counter(
    "tailrace_promoted_total", "Retries, late starts and deferred entries that were due and queued"
)
put_off_total = Counter(
    "tailrace_put_off_total",
    "Work entries put off by the rate or limit of their task, or as nobody could be asked",
    ["reason"],
)
lost_entries_total = Counter(
    "tailrace_lost_entries_total", "Work entries whose body was gone: their runs are never executed"
)

# --- taking in
inlet_entries_total = Counter(
    "tailrace_inlet_entries_total", "Entries of an inlet's stream by what became of them", ["inlet", "outcome"]
)
inlet_missed_total = Counter(
    "tailrace_inlet_missed_total", "Entries that were trimmed or deleted before the inlet read them", ["inlet"]
)

# --- of the namespace, by the process that is elected to count
tasks_waiting = Gauge("tailrace_task_waiting", "Runs of a task that no worker has taken", ["task"])
tasks_pending = Gauge("tailrace_task_pending", "Runs of a task that workers have", ["task"])
tasks_delayed = Gauge("tailrace_task_delayed", "Runs of a task that wait for their time", ["task"])
tasks_oldest_seconds = Gauge(
    "tailrace_task_oldest_seconds", "How long the run in front waits for a worker, 0 where none does", ["task"]
)
groups_lag = Gauge("tailrace_group_lag", "Events that a group was not given yet", ["group"])
groups_pending = Gauge("tailrace_group_pending", "Events that members of a group have", ["group"])
groups_delayed = Gauge("tailrace_group_delayed", "Events that a group tries again when their time comes", ["group"])
groups_oldest_seconds = Gauge(
    "tailrace_group_oldest_seconds",
    "How old the first event is that a group has still to handle, 0 without one",
    ["group"],
)
groups_members = Gauge("tailrace_group_members", "Live workers that run a group's reactions", ["group"])
groups_dead = Gauge("tailrace_group_dead", "Dead letters of a group", ["group"])

# --- asking
requests_total = Counter("tailrace_http_requests_total", "Requests by route and status", ["route", "status"])


def exposition() -> bytes:
    """Prometheus's text format, of this process alone."""
    return generate_latest()
