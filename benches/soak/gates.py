"""The gates of a soak: growth, lost messages, and what remains after the last client has left."""

from dataclasses import dataclass, field

MIB = 1024 * 1024
HOUR = 3600
# Limits of the growth in a short window. Smaller growth cannot be distinguished from noise.
GROWTH = {"rss": MIB, "heap": MIB, "tasks": 50, "descriptors": 50}
# The length from which a window has limits by the hour.
LONG = HOUR / 3
# Resident memory also has what the allocator cannot reuse yet, which still grew a little at the end of an hour.
BY_THE_HOUR = {"rss": 4 * MIB, "heap": MIB, "tasks": 50, "descriptors": 50}
NOTHING = ["lost", "duplicated", "reordered", "unexpected", "not_recovered"]
# Counts that must not be zero, or the soak has tested nothing.
SOMETHING = ["left_cleanly", "reset", "polls_aborted", "upgraded", "recovered", "moves"]
LEFT = ["sessions", "sockets", "rooms", "recoverable", "recovery_bytes", "tasks", "descriptors"]
# The heap may be larger by this much after the last client has left, because tables keep their
# capacity.
HEAP_LEFT = 4 * MIB


@dataclass
class Soak:
    """The measurements of a soak."""

    # Figures of the server: "at" in seconds, "rss" and "heap" in bytes, "tasks", "descriptors", and
    # "cpu" in seconds.
    samples: list
    # The samples before the first client and after the last one.
    before: dict
    after: dict
    # The sums of the counts of all processes.
    totals: dict
    clients: int
    # The number of events that the clients send in a second.
    says: float
    # The number of clients that end in a second.
    churn: float
    warmup: float
    # Gates that cannot be judged with few clients.
    without: frozenset = field(default_factory=frozenset)


@dataclass
class Gate:
    name: str
    value: float
    limit: str
    passed: bool


def slope(points):
    """Returns the slope of the least-squares line through points (x, y)."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def warmup(minutes):
    """Returns the seconds before the figures are judged.

    A run of an hour is judged after 35 minutes. Until then the server's hash tables double once: removed
    entries use up free slots, and with more than half of its slots occupied a table grows when none is left.
    """
    return 35 * 60 if minutes >= 60 else min(600, 0.3 * 60 * minutes)


def window(soak):
    """Returns the samples after the warm-up."""
    return [sample for sample in soak.samples if sample["at"] >= soak.warmup]


def growth(soak, what):
    samples = window(soak)
    seconds = samples[-1]["at"] - samples[0]["at"]
    by_second = slope([(sample["at"], sample[what]) for sample in samples])
    unit, scale = ("MiB", MIB) if what in ("rss", "heap") else ("", 1)
    if seconds >= LONG:
        value, limit, per = by_second * HOUR, BY_THE_HOUR[what], "an hour"
    else:
        value, limit, per = by_second * seconds, GROWTH[what], f"{seconds / 60:.0f} minutes"
    name = f"growth of {what} in {per}" + (f", {unit}" if unit else "")
    return Gate(name, value / scale, f"< {limit / scale:g}", value < limit)


def exactly(name, value, expected):
    return Gate(name, value, f"= {expected}", value == expected)


def at_least(name, value, limit):
    return Gate(name, value, f">= {limit:g}", value >= limit)


def judge(soak):
    """Returns all gates of a soak."""
    samples = window(soak)
    if len(samples) < 5:
        return [Gate("samples after the warm-up", len(samples), ">= 5", False)]
    seconds = samples[-1]["at"] - samples[0]["at"]
    cpu = (samples[-1]["cpu"] - samples[0]["cpu"]) / seconds
    said = samples[-1]["said"] - samples[0]["said"]
    opened = samples[-1]["opened"] - samples[0]["opened"]
    connected = min(sample["connected"] for sample in samples)
    gates = [growth(soak, what) for what in GROWTH]
    gates.append(Gate("CPU of the server, cores", cpu, "< 1", cpu < 1))
    gates.append(at_least("clients that are connected, fewest", connected, 0.95 * soak.clients))
    gates.append(at_least("events of the clients in a second", said / seconds, 0.9 * soak.says))
    gates.append(at_least("connections that begin in a second", opened / seconds, 0.9 * soak.churn))
    gates += [exactly(what.replace("_", " "), soak.totals[what], 0) for what in NOTHING]
    gates += [
        at_least(what.replace("_", " "), soak.totals[what], 1) for what in SOMETHING
    ]
    gates += [
        exactly(f"{what.replace('_', ' ')} at the end", soak.after[what], soak.before[what])
        for what in LEFT
    ]
    slow = soak.totals["too_late"] / (soak.totals["upgraded"] + soak.totals["recovered"] or 1)
    gates.append(Gate("upgrades and returns that took too long, of all", slow, "< 0.005", slow < 0.005))
    left = soak.after["heap"] - soak.before["heap"]
    gates.append(
        Gate("heap at the end, MiB more", left / MIB, f"< {HEAP_LEFT / MIB:g}", left < HEAP_LEFT)
    )
    return [gate for gate in gates if gate.name not in soak.without]


def table(gates):
    """Returns the gates as a Markdown table."""
    lines = ["| gate | measured | limit | |", "|---|---:|---:|---|"]
    for gate in gates:
        digits = 4 if 0 < abs(gate.value) < 0.01 else 2
        value = f"{gate.value:.{digits}f}" if isinstance(gate.value, float) else f"{gate.value}"
        verdict = "passed" if gate.passed else "FAILED"
        lines.append(f"| {gate.name} | {value} | {gate.limit} | {verdict} |")
    return "\n".join(lines)
