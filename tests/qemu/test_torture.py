"""Everything at once: a guest overwrites its memory while policies move its pages, and limits,
snapshots and commits come and go; QEMU is killed. What was acknowledged is there, of one moment.

PCOW_SECONDS says for how long, PCOW_TEST_SEED repeats what was chosen, not how threads take turns.
"""

import os
import random
import time

import harness
from held_memfill import HeldMemfill

PAGES = 4096
SECONDS = float(os.environ.get("PCOW_SECONDS", "20"))
LIFE_SECONDS = (2, 12)
EPOCHS = ",persistence=epoch,epoch-min-ms=100,epoch-max-ms=100"
# 16 MiB are in use: with the first limits pages have to leave, with the last some come back.
LIMITS = ("4M", "8M", "12M", "64M")
POLICIES = ("off", "static", "age", "heat", "cmq")
SNAPSHOTS_MAX = 6


class Life:
    """One QEMU, from its start until it is killed or quits, and what is known of its image."""

    def __init__(self, test, machine, randomness):
        self._test = test
        self._machine = machine
        self._random = randomness
        self._held = HeldMemfill(machine, PAGES)
        self._moments = {}  # by a snapshot's name, the fills it can be of: first and last
        self.filled = 1     # the newest fill that is complete
        self.begun = 1
        self.acked = 1      # the newest that a commit answered for
        self.counts = dict.fromkeys(("fills", "commits", "policies", "snapshots", "deletions"), 0)
        self._held.start(1)
        test.assertEqual(self._held.finish(), PAGES)
        machine.qmp.execute("pcow-commit")

    def run(self, seconds):
        actions = (self._commit, self._set_policy, self._take_snapshot, self._delete_snapshot)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.begun += 1
            self._held.begin(f"fill {self.begun}")
            for _ in range(self._random.randrange(4)):
                time.sleep(self._random.uniform(0, 0.1))
                self._random.choice(actions)()
            self._test.assertEqual(self._held.finish(), PAGES, "the guest lost a store")
            self.filled = self.begun
            self.counts["fills"] += 1
        self._test.assertEqual(self._machine.qmp.events, [])

    def kill(self):
        """In the middle of a fill and, mostly, of an epoch."""
        self.begun += 1
        self._held.begin(f"fill {self.begun}")
        time.sleep(self._random.uniform(0, 0.3))
        moved = self._machine.qmp.execute("query-pcow-policy")[0].get("moves", {})
        self._machine.kill()
        return moved

    def quit(self):
        moved = self._machine.qmp.execute("query-pcow-policy")[0].get("moves", {})
        self._test.assertEqual(self._machine.quit(), 0, self._machine.stderr())
        self.acked = self.filled
        return moved

    def check(self):
        """Image and snapshots; returns how many snapshots there were."""
        self._test.newest_seed(self.acked, self.begun, PAGES)
        for name, (first, last) in self._moments.items():
            self._test.newest_seed(first, last, PAGES, name)
        return len(self._moments)

    def _commit(self):
        self._machine.qmp.execute("pcow-commit")
        self.acked = self.filled
        self.counts["commits"] += 1

    def _set_policy(self):
        self._test.tierctl("policy", "set", "pm0", self._random.choice(POLICIES), "--dram-size",
                           self._random.choice(LIMITS))
        self.counts["policies"] += 1

    def _take_snapshot(self):
        if len(self._moments) == SNAPSHOTS_MAX:
            return
        name = f"s{self.begun}-{self.counts['snapshots']}"
        self._test.tierctl("snapshot", "create", name)
        self.acked = self.filled
        self._moments[name] = (self.filled, self.begun)
        self.counts["snapshots"] += 1

    def _delete_snapshot(self):
        # One after the other; what is said otherwise is test_snapshot's.
        node = self._machine.qmp.execute("query-pcow-snapshots")[0]
        if not self._moments or node["deleting"]:
            return
        name = self._random.choice(sorted(self._moments))
        self._test.tierctl("snapshot", "delete", name)
        del self._moments[name]
        self.counts["deletions"] += 1


class Torture(harness.QemuTest):
    def test_everything_at_once(self):
        seed = int(os.environ.get("PCOW_TEST_SEED", random.randrange(1 << 32)))
        print(f"seed {seed}")
        randomness = random.Random(seed)
        totals = {}

        def add(counts):
            for name, count in counts.items():
                totals[name] = totals.get(name, 0) + count

        end = time.monotonic() + SECONDS
        lives = 0
        while lives < 2 or time.monotonic() < end:
            self.image = self.path(f"node{lives}.pcow")
            self.create_image()
            machine = self.start_guest(options=EPOCHS + ",tier-policy=heat", dram_mib=8,
                                       extra=self.monitor_arguments)
            life = Life(self, machine, randomness)
            life.run(randomness.uniform(*LIFE_SECONDS))
            is_killed = lives % 4 != 3
            moved = life.kill() if is_killed else life.quit()
            add({"lives": 1, "kills": int(is_killed), "checked": life.check(),
                 "demoted": moved.get("demoted-pages", 0),
                 "promoted": moved.get("promoted-pages", 0)})
            add(life.counts)
            # The next writable opening recovers the image for good.
            machine = self.start(["-S", *harness.vm.node_arguments(self.image, harness.NODE_MIB)])
            self.assertEqual(machine.quit(), 0, machine.stderr())
            self.expect_sound()
            life.check()
            os.unlink(self.image)
            lives += 1
        print(" ".join(f"{name}={count}" for name, count in totals.items()))
        for name in ("fills", "commits", "policies", "snapshots", "demoted"):
            self.assertGreater(totals[name], 0, f"{name}: idle")


if __name__ == "__main__":
    harness.main()
