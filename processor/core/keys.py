"""The only place that spells a Redis key or channel."""

from __future__ import annotations

from processor.core.partition import partition_of, root_of

__all__ = ["Keyspace", "PartitionKeys", "topology_key"]


def topology_key(namespace: str) -> str:
    return f"tr:{{{namespace}}}:topology"


class PartitionKeys:
    """Keys of one partition: one hash tag, hence one slot."""

    __slots__ = ("deadlines", "delayed", "delayed_body", "index", "log", "meta", "owners", "prefix")

    def __init__(self, namespace: str, partition: int) -> None:
        prefix = f"tr:{{{namespace}:{partition}}}:"
        self.prefix = prefix
        self.meta = prefix + "meta"
        self.log = prefix + "log"
        self.index = prefix + "index"
        self.owners = prefix + "owners"
        self.deadlines = prefix + "deadlines"
        self.delayed = prefix + "delayed"
        self.delayed_body = prefix + "delayed:body"

    @property
    def ctl(self) -> str:
        return self.prefix + "ctl"

    def run(self, run: str) -> str:
        return f"{self.prefix}run:{run}"

    def feed(self, run: str) -> str:
        return f"{self.prefix}feed:{run}"

    def channel(self, run: str) -> str:
        return f"{self.prefix}ch:{run}"

    def thread(self, run: str) -> str:
        """Of the run's root, which is the thread where the run belongs to one."""
        return f"{self.prefix}thread:{root_of(run)}"

    def work(self, task: str) -> str:
        return f"{self.prefix}work:{task}"

    def dead_task(self, task: str) -> str:
        """Dead letters of a task."""
        return f"{self.prefix}dead:task:{task}"

    def dead_group(self, group: str) -> str:
        """Dead letters of a group's reactions."""
        return f"{self.prefix}dead:group:{group}"

    def lease(self, group: str) -> str:
        """Which member of an ordered group reads this partition."""
        return f"{self.prefix}lease:{group}"

    @property
    def outbox(self) -> str:
        """Settled events for other partitions."""
        return self.prefix + "outbox"

    @property
    def marks(self) -> str:
        """Per source partition, the last outbox entry taken from it."""
        return self.prefix + "marks"


class Keyspace:
    """Keys of a namespace with a known number of partitions."""

    __slots__ = ("layout", "namespace", "partitions")

    def __init__(self, namespace: str, layout: str) -> None:
        """layout: `<partitions> <nonce>`, as the topology holds it."""
        self.namespace = namespace
        self.layout = layout
        self.partitions = [PartitionKeys(namespace, p) for p in range(int(layout.partition(" ")[0]))]

    def number(self, run: str) -> int:
        return partition_of(run, len(self.partitions))

    def of(self, run: str) -> PartitionKeys:
        return self.partitions[partition_of(run, len(self.partitions))]

    @property
    def any_dead_task(self) -> str:
        """Matches the dead letters of every task, in any partition and perhaps elsewhere."""
        return f"tr:{{{self.namespace}:*}}:dead:task:*"

    @property
    def any_dead_group(self) -> str:
        """Matches the dead letters of every group, as any_dead_task those of tasks."""
        return f"tr:{{{self.namespace}:*}}:dead:group:*"

    @property
    def groups(self) -> str:
        """Groups by name, with their mode."""
        return f"tr:{{{self.namespace}}}:groups"

    def group(self, name: str) -> str:
        """What a group is, and what its members bound (group.lua)."""
        return f"tr:{{{self.namespace}}}:group:{name}"

    def members(self, group: str) -> str:
        """Live members of an ordered group."""
        return f"tr:{{{self.namespace}}}:members:{group}"

    @property
    def workers(self) -> str:
        """Live workers with their tasks (written by workers)."""
        return f"tr:{{{self.namespace}}}:workers"

    @property
    def schedules(self) -> str:
        return f"tr:{{{self.namespace}}}:schedules"

    def inlet(self, name: str) -> str:
        """How far an inlet is (inlet.lua)."""
        return f"tr:{{{self.namespace}}}:inlet:{name}"

    def rate(self, name: str) -> str:
        return f"tr:{{{self.namespace}}}:rate:{name}"

    def limit(self, name: str) -> str:
        return f"tr:{{{self.namespace}}}:limit:{name}"

    def cache(self, name: str, digest: str) -> str:
        """A cached result; also the channel of those who wait for it. Spread over the partitions, whose channels a
        namespace's user may use."""
        return f"{self.partitions[partition_of(digest, len(self.partitions))].prefix}cache:{name}:{digest}"

    def lock(self, name: str) -> str:
        """Of a singleton, at each lock server."""
        return f"tr:{{{self.namespace}}}:lock:{name}"
