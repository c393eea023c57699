"""What is told of a running guest: status, top, events, the log and its level, OpenMetrics."""

import json
import re
import subprocess

import harness
from held_memfill import HeldMemfill

PAGES = 4096
EPOCHS = ",persistence=epoch,epoch-min-ms=100,epoch-max-ms=100"
MIB = 1 << 20
PAGE = 4096


class Telemetry(harness.QemuTest):
    def setUp(self):
        super().setUp()
        self.listener = self.path("listener")
        self.extra = [*self.monitor_arguments,
                      "-qmp", f"unix:{self.listener},server=on,wait=off"]

    def follow_events(self, *arguments):
        return subprocess.Popen([harness.built("bin", "tierctl"), "events", "--qmp", self.listener,
                                 *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True)

    def test_a_guest_is_told_of(self):
        self.create_image()
        machine = self.start_guest(options=EPOCHS + ",tier-policy=heat", dram_mib=64,
                                   extra=self.extra)
        self.assertEqual(self.tierctl("log-level").stdout, "warning\n")
        self.assertEqual(self.tierctl("log-level", "info").stdout, "info\n")
        events = self.follow_events("--count", "2")
        held = HeldMemfill(machine, PAGES)
        held.start(1)
        self.assertEqual(held.finish(), PAGES)
        self.tierctl("commit")
        self.tierctl("snapshot", "create", "monday")
        self.tierctl("policy", "set", "pm0", "age")

        # A guest under load is held now and then, which is told as well.
        lines = events.communicate(timeout=60)[0].splitlines()
        self.assertEqual(events.returncode, 0)
        for line in lines:
            self.assertRegex(line, r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d log: '.*': (snapshot 'monday' "
                             r"created|policy age, |held its guest for )")

        node = json.loads(self.tierctl("status", "--output", "json").stdout)[0]
        self.assertGreaterEqual(node["changed"], PAGES * PAGE)
        self.assertGreaterEqual(sum(node["stored"].values()), PAGES * PAGE)
        self.assertGreater(node["stored"]["log"], 0)
        pauses = node["epochs"]["pauses"]
        self.assertEqual([bucket["up-to-ns"] for bucket in pauses],
                         sorted({bucket["up-to-ns"] for bucket in pauses}))
        self.assertLessEqual(abs(sum(bucket["count"] for bucket in pauses) -
                                 node["epochs"]["epochs"]), 2)  # one is under way
        print(self.tierctl("status").stdout)

        metrics = self.tierctl("metrics").stdout
        self.assertRegex(metrics, r'pcow_stored_bytes_total\{node="pm0",cause="log"\} [1-9]')
        counts = [int(count) for count in re.findall(
            r'pcow_barrier_pause_seconds_bucket\{node="pm0",le="[^"]*"\} (\d+)', metrics)]
        self.assertEqual(counts, sorted(counts))
        self.assertGreater(counts[-1], 0)

        lines = self.tierctl("top", "--interval", "0.5", "--count", "3").stdout.splitlines()
        self.assertEqual([line.split()[0] for line in lines], ["node", "pm0", "pm0", "pm0"])
        rates = json.loads(self.tierctl("top", "--interval", "0.5", "--count", "1", "--output",
                                        "json").stdout)
        self.assertEqual(rates[0]["id"], "pm0")
        self.assertIn("stored-per-s", rates[0])

        self.tierctl("log-level", "off")
        events = self.follow_events()
        self.tierctl("snapshot", "delete", "monday")
        self.assertEqual(machine.quit(), 0, machine.stderr())
        told, errors = events.communicate(timeout=60)
        self.assertEqual(told, "")
        self.assertEqual(events.returncode, 1)
        self.assertIn("closed", errors)
        self.assertIn("tiering: info: ", machine.stderr())

    def test_a_volatile_node(self):
        self.create_image()
        machine = self.start(["-S", *self.extra, *harness.vm.node_arguments(
            self.image, harness.NODE_MIB, 64)])
        self.tierctl("commit")
        node = json.loads(self.tierctl("status", "--output", "json").stdout)[0]
        self.assertEqual(set(node["stored"]), {"log", "checkpoint", "pages", "copies", "metadata"})
        self.assertNotIn("epochs", node)
        self.assertNotIn("barrier_pause", self.tierctl("metrics").stdout)
        done = self.tierctl("log-level", "loud", ok=False)
        self.assertIn("debug, info, warning, error, off", done.stderr)
        self.assertEqual(machine.quit(), 0, machine.stderr())


if __name__ == "__main__":
    harness.main()
