"""Prints what was measured: medians over the rounds, and ratios within the rounds."""

import json
import platform
import statistics
import subprocess

GROWTH = [
    ("a broadcast delivered, one under way", [f"fanout-n{n}-w1-24b" for n in (100, 1000, 10000)]),
    ("a broadcast delivered, 16 under way", [f"fanout-n{n}-w16-24b" for n in (100, 1000, 10000)]),
    ("joining or leaving a room", [f"membership-c100-d16-crowd{n}" for n in (10, 10000)]),
    ("connect, join, disconnect", [f"churn-k32-crowd{n}" for n in (10, 10000)]),
]
# Those that no other table needs.
GROWTH_ONLY = {s for _, scenarios in GROWTH for s in scenarios if "-n1000-" not in s}
WORKERS = ["echo-c100-d16", "fanout-n1000-w16-24b"]


class Table:
    def __init__(self, records, servers, base):
        self.servers, self.base = servers, base
        self.cells = {}
        self.scenarios = list(dict.fromkeys(r["scenario"] for r in records))
        for r in records:
            self.cells.setdefault((r["scenario"], r["server"]), []).append(r)

    def values(self, scenario, server, field):
        return {
            r["round"]: r[field]
            for r in self.cells.get((scenario, server), [])
            if r.get(field) is not None
        }

    def ratio(self, values, base):
        pairs = [v / base[r] for r, v in values.items() if base.get(r)]
        return statistics.median(pairs) if pairs else None

    def cell(self, scenario, server, field, digits, ratio):
        values = self.values(scenario, server, field)
        if not values:
            return "–"
        text = f"{statistics.median(values.values()):,.{digits}f}"
        if ratio:
            base = self.ratio(values, self.values(scenario, self.base, field))
            text += f" ({base:.2f}×)" if base is not None else ""
        errors = sum(r["errors"] for r in self.cells[scenario, server])
        return text + (f" **{errors} errors**" if errors else "")

    def compared(self, title, field, digits, rows, ratio=True):
        rows = [s for s in rows if any(self.values(s, name, field) for name in self.servers)]
        cells = [[self.cell(s, name, field, digits, ratio) for name in self.servers] for s in rows]
        return markdown(title, ["scenario", *self.servers], [[s, *c] for s, c in zip(rows, cells)])

    def fairness(self):
        rows = [
            [s, name, *(self.cell(s, name, field, digits, True) for field, digits in
                        [("p50_us", 0), ("p99_us", 0), ("max_us", 0), ("echoes", 0),
                         ("cpu_us_per_op", 2)])]
            for s in self.scenarios if s.startswith("fairness-")
            for name in self.servers if self.values(s, name, "p99_us")
        ]
        head = ["scenario", "server", "p50, µs", "p99, µs", "longest, µs", "echoes",
                "CPU, µs per broadcast delivered"]
        return markdown("Fairness: echoes of one client while the others receive broadcasts",
                        head, rows)

    def growth(self):
        field = "cpu_us_per_op"
        rows = []
        for what, scenarios in GROWTH:
            sizes = ", ".join(size_of(s) for s in scenarios)
            for name in self.servers:
                small, large = (self.values(s, name, field) for s in (scenarios[0], scenarios[-1]))
                ratio = self.ratio(large, small)
                if ratio is not None:
                    cells = ", ".join(self.cell(s, name, field, 2, False) for s in scenarios)
                    rows.append([f"{what} ({sizes})", name, cells, f"{ratio:.2f}×"])
        head = ["operation", "server", "CPU, µs", "last to first"]
        return markdown("Growth: what an operation costs beside few and beside many", head, rows)

    def workers(self):
        rows = []
        for scenario in WORKERS:
            one, two = (f"{scenario}-workers{n}" for n in (1, 2))
            for name in self.servers:
                cpu_one, cpu_two = (self.values(s, name, "cpu_us_per_op") for s in (one, two))
                ratio = self.ratio(cpu_one, cpu_two)
                if ratio is None:
                    continue
                ops = (self.values(s, name, "ops_per_s") for s in (two, one))
                rows.append([
                    scenario, name, *(self.cell(s, name, "cpu_us_per_op", 2, False)
                                      for s in (one, two)),
                    f"{2 * ratio:.2f}×", f"{self.ratio(*ops):.2f}×",
                    *(self.busy(s, name) for s in (one, two)),
                ])
        head = ["scenario", "server", "CPU, µs, 1 worker", "2 workers", "load that 2 serve",
                "operations per second", "busy, 1 worker", "busy, 2 workers"]
        return markdown("Two workers", head, rows)

    def busy(self, scenario, server):
        """What part of the time the busiest threads ran."""
        last = self.cells[scenario, server][-1].get("threads") or []
        return ", ".join(f"{part:.0%}" for part in last if part >= 0.05)

    def calls(self):
        rows = []
        for (scenario, server), records in self.cells.items():
            calls = records[-1].get("calls_per_op")
            if calls:
                text = ", ".join(f"{k} {v:g}" for k, v in calls.items() if v >= 0.005)
                rows.append([scenario, server, text])
        return markdown("Calls per operation", ["scenario", "server", "calls"], rows)

    def spreads(self, field="cpu_us_per_op", limit=0.15):
        wide = []
        for scenario, server in self.cells:
            values = list(self.values(scenario, server, field).values())
            if len(values) > 1:
                spread = (max(values) - min(values)) / statistics.median(values)
                if spread > limit:
                    wide.append(f"{server} {scenario} {spread:.0%}")
        return wide


def markdown(title, head, rows):
    if not rows:
        return ""
    text = sum(name in ("scenario", "server", "operation", "calls") for name in head)
    lines = [f"### {title}", "", row(head), "|" + "---|" * text + "---:|" * (len(head) - text)]
    return "\n".join(lines + [row(cells) for cells in rows]) + "\n"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def size_of(scenario):
    """The number of those that the scenario has in its name."""
    part = next(p for p in scenario.split("-") if p.startswith(("n", "crowd")))
    return f"{int(part.lstrip('ncrowd')):,}"


def merge(files):
    """The records of several runs, their rounds numbered on."""
    records, offset = [], 0
    for path in files:
        run = [json.loads(line) for line in path.read_text().splitlines()]
        for record in run:
            record["round"] += offset
        offset = max((r["round"] for r in run), default=offset)
        records += run
    return records


def report(records, servers, base, when):
    table = Table(records, servers, base)
    idle = [s for s in table.scenarios if s.startswith("idle-")]
    active = [s for s in table.scenarios
              if not s.startswith(("idle-", "fairness-")) and "-workers" not in s
              and s not in GROWTH_ONLY]
    loads = [r["load_avg"] for r in records if "load_avg" in r]
    contended = [r.get("contended") or 0 for r in records]
    versions = [f"Linux {platform.release()}", subprocess.getoutput("rustc --version"),
                f"node {subprocess.getoutput('node --version')}"]
    wide = table.spreads()
    parts = [
        f"{when}, {len({r['round'] for r in records})} rounds, base `{base}`. "
        f"Load average {min(loads, default=0):.1f} to {max(loads, default=0):.1f}; "
        f"others used {statistics.median(contended):.1%} of a core in a window (median), "
        f"{max(contended):.1%} at most.",
        "; ".join(versions) + ".",
        "Each cell: median (ratio to the base, the median of the ratios within each round).\n",
        table.compared("Server CPU, µs per operation", "cpu_us_per_op", 2, active),
        table.compared("of which in user space, µs", "user_us_per_op", 2, active),
        table.compared("Operations per second", "ops_per_s", 0, active),
        table.compared("Latency p50, µs", "p50_us", 0, active, ratio=False),
        table.compared("Latency p99, µs", "p99_us", 0, active, ratio=False),
        table.compared("Memory, KiB RSS per connection above the empty server",
                       "rss_per_conn_kib", 2, idle),
        table.compared("Idle connections, server CPU µs per step", "cpu_us_per_op", 2, idle),
        table.compared("Messages that overtook an earlier one", "overtakes", 0, active,
                       ratio=False),
        table.fairness(),
        table.growth(),
        table.workers(),
        table.calls(),
        "CPU figures that spread by more than 15 %: " + "; ".join(wide) + ".\n" if wide else "",
    ]
    return "\n".join(part for part in parts if part)
