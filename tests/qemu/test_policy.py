"""Tiering policies of a running guest: what leaves DRAM and comes back, what is refused and told."""

import json
import os
import time

import harness
from held_memfill import HeldMemfill

PAGES = 8192
EPOCHS = ",persistence=epoch,epoch-min-ms=100,epoch-max-ms=100"
MIB = 1 << 20


class Policy(harness.QemuTest):
    def policy(self):
        return json.loads(self.tierctl("policy", "get", "--output", "json").stdout)[0]

    def settings(self):
        """Without what is counted, which goes on."""
        return {key: value for key, value in self.policy().items() if key != "moves"}

    def resident(self, machine):
        return machine.qmp.execute("query-pcow")[0]["dram-resident"]

    def wait_until(self, reached, what, seconds=120):
        deadline = time.monotonic() + seconds
        while not reached():
            self.assertLess(time.monotonic(), deadline, f"{what}: {self.policy()}")
            time.sleep(0.1)

    def test_a_guest_is_followed(self):
        self.create_image()
        machine = self.start_guest(options=EPOCHS + ",tier-policy=heat", dram_mib=64,
                                   extra=self.monitor_arguments)
        held = HeldMemfill(machine, PAGES)
        held.start(1)
        self.assertEqual(held.finish(), PAGES)
        before = self.policy()
        self.assertEqual(before["policy"], "heat")
        self.assertEqual(before["dram-size"], 64 * MIB)

        # What the guest does not use leaves, live.
        self.tierctl("policy", "set", "pm0", "--dram-size", "8M", "--high", "90%", "--low", "80%")
        now = self.policy()
        self.assertEqual((now["policy"], now["dram-size"], now["high-percent"],
                          now["low-percent"]), ("heat", 8 * MIB, 90, 80))
        self.wait_until(lambda: self.resident(machine) <= 8 * MIB, "nothing leaves DRAM")
        self.assertGreater(self.policy()["moves"]["demoted-pages"], 0)

        # What it reads again and again comes back, as far as there is room.
        def is_promoted():
            self.assertEqual(held.do("verify"), PAGES)
            return self.policy()["moves"]["promoted-pages"] > 0
        self.wait_until(is_promoted, "nothing is promoted")
        self.assertEqual(held.do("verify"), PAGES)
        print(self.tierctl("policy", "get").stdout)

        explained = json.loads(self.tierctl("explain", "--output", "json", "pm0",
                                            "0-16383").stdout)
        self.assertEqual(sum(pages["length"] for pages in explained), 64 * MIB)
        self.assertLessEqual({pages["place"] for pages in explained}, {"hole", "image", "dram"})
        self.assertTrue(all("verdict" in pages for pages in explained))
        self.assertTrue(any("heat" in pages for pages in explained))
        self.assertIn("page 0: ", self.tierctl("explain", "pm0", "0").stdout)

        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(1, PAGES * harness.PAGE // MIB)

    def test_what_is_only_read_becomes_huge(self):
        release = tuple(map(int, os.uname().release.split(".")[:2]))
        with open("/sys/kernel/mm/transparent_hugepage/enabled", encoding="ascii") as file:
            if release < (6, 8) or "[never]" in file.read():
                self.skipTest("this kernel has no huge pages, or cannot move them")
        self.create_image()
        machine = self.start_guest(options=EPOCHS + ",tier-policy=heat", dram_mib=256,
                                   extra=self.monitor_arguments)
        held = HeldMemfill(machine, PAGES)
        held.start(1)
        self.assertEqual(held.finish(), PAGES)

        def huge():
            return machine.qmp.execute("query-pcow")[0]["chunks"]["huge"]
        self.wait_until(lambda: huge() >= 8, "no chunk becomes huge")
        self.assertEqual(held.do("verify"), PAGES)
        print(self.tierctl("status").stdout)

        # What is stored there is found, and they go back when DRAM gets short.
        self.assertEqual(held.do("fill 2"), PAGES)
        self.tierctl("policy", "set", "pm0", "--dram-size", "8M")
        self.wait_until(lambda: self.resident(machine) <= 8 * MIB, "nothing leaves DRAM")
        self.assertLessEqual(huge(), 4)
        self.assertEqual(held.do("verify"), PAGES)
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(2, PAGES * harness.PAGE // MIB)

    def test_what_is_wrong_changes_nothing(self):
        self.create_image()
        machine = self.start(["-S", *self.monitor_arguments, *harness.vm.node_arguments(
            self.image, harness.NODE_MIB, 64, options=EPOCHS + ",tier-policy=age")])
        before = self.settings()
        for arguments, expected in [
                (["heat", "--low", "96%"], "low=96%"),
                (["--dram-size", "2G"], "larger"),
                (["--dram-size", "5000"], "4096"),
                (["--migrate-rate", "100"], "migrate-rate")]:
            done = self.tierctl("policy", "set", "pm0", *arguments, ok=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(expected, done.stderr)
            self.assertEqual(self.settings(), before)
        done = self.tierctl("explain", "pm0", str(harness.pages_of(harness.NODE_MIB)), ok=False)
        self.assertIn("the region has", done.stderr)
        done = self.tierctl("explain", "pm0", "0+16385", ok=False)
        self.assertIn("too many", done.stderr)
        self.assertEqual(machine.quit(), 0, machine.stderr())

    def test_a_volatile_node_has_a_limit_alone(self):
        self.create_image()
        machine = self.start(["-S", *self.monitor_arguments, *harness.vm.node_arguments(
            self.image, harness.NODE_MIB, 64)])
        done = self.tierctl("policy", "set", "pm0", "heat", ok=False)
        self.assertIn("persistence=epoch", done.stderr)
        for option in ("--high", "90%"), ("--low", "50%"), ("--migrate-rate", "1M"):
            done = self.tierctl("policy", "set", "pm0", *option, ok=False)
            self.assertIn("persistence=epoch", done.stderr)
        self.tierctl("policy", "set", "pm0", "--dram-size", "32M")
        self.assertEqual(self.policy()["dram-size"], 32 * MIB)
        self.assertNotIn("moves", self.policy())
        self.assertEqual(machine.quit(), 0, machine.stderr())


if __name__ == "__main__":
    harness.main()
