"""Snapshots of the images of a running guest: each is one moment, and the guest goes on."""

import json
import random
import re
import time

import harness
from held_memfill import HeldMemfill

PAGES = 4096
FEW_PAGES = 256
EPOCHS = ",persistence=epoch,epoch-min-ms=100,epoch-max-ms=100"
NODE_MIB = 256


class Snapshot(harness.QemuTest):
    def snapshot(self, *arguments, ok=True):
        return self.tierctl("snapshot", *arguments, ok=ok)

    def names(self):
        """Of the snapshots of each node."""
        listed = json.loads(self.snapshot("list", "--output", "json").stdout)
        return {node["node"]: [one["name"] for one in node["snapshots"]] for node in listed}

    def wait_for_deletion(self, machine, commit):
        """Until all its space is given back; with volatile nodes after commits."""
        deadline = time.monotonic() + 120
        while any(node["deleting"] for node in machine.qmp.execute("query-pcow-snapshots")):
            self.assertLess(time.monotonic(), deadline, "a deletion does not end")
            if commit:
                machine.qmp.execute("pcow-commit")
            time.sleep(0.1)

    def run_fills(self, options, commit):
        """Snapshots in the middle of fills, of which every other one is deleted again."""
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        randomness = random.Random(seed)
        self.create_image()
        machine = self.start_guest(options=options, dram_mib=8, extra=self.monitor_arguments)
        held = HeldMemfill(machine, PAGES)
        held.start(1)
        self.assertEqual(held.finish(), PAGES)
        for fill in range(2, 8):
            held.begin(f"fill {fill}")
            time.sleep(randomness.uniform(0, 0.3))
            self.snapshot("create", f"s{fill}")
            if fill % 2 == 1:
                self.snapshot("delete", f"s{fill - 1}")
            self.assertEqual(held.finish(), PAGES)
            self.wait_for_deletion(machine, commit)
        self.assertEqual(held.do("verify"), PAGES)
        self.assertEqual(self.names(), {"pm0": ["s3", "s5", "s7"]})
        self.assertEqual(machine.qmp.events, [])
        return machine

    def check_snapshots(self):
        for fill in (3, 5, 7):
            found = self.newest_seed(fill - 1, fill, PAGES, f"s{fill}")
            print(f"snapshot s{fill}: newest fill {found}")
        listed = json.loads(self.tool("pcow-img", "snapshot", "-l", "--output", "json",
                                      self.image).stdout)
        self.assertEqual(re.findall(r"'name': '(s\d)'", str(listed)), ["s3", "s5", "s7"])

    def test_moments_of_epochs(self):
        machine = self.run_fills(EPOCHS, False)
        machine.kill()
        self.check_snapshots()
        machine = self.start(["-S", *harness.vm.node_arguments(self.image, harness.NODE_MIB)])
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.check_snapshots()

    def test_moments_of_a_volatile_node(self):
        machine = self.run_fills("", True)
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.check_snapshots()
        # Back to one of them.
        self.tool("pcow-img", "snapshot", "-a", "s5", self.image)
        self.expect_sound()
        self.newest_seed(4, 5, PAGES, "s5")

    def two_nodes(self, options):
        """A guest with two nodes, each on an image, and what fills them in turn."""
        second = self.path("second.pcow")
        self.create_image(NODE_MIB)
        self.create_image(NODE_MIB, second)
        machine = self.start(
            [*harness.vm.node_arguments(self.image, NODE_MIB, node0_mib=512, options=options[0]),
             "-m", f"{512 + 2 * NODE_MIB}M",
             "-object", f"memory-backend-pcow,id=pm1,mem-path={second},size={NODE_MIB}M"
             f"{options[1]}", "-numa", "node,nodeid=2,memdev=pm1", *self.monitor_arguments],
            guest=True)
        nodes = [HeldMemfill(machine, FEW_PAGES, node) for node in (1, 2)]
        for held in nodes:
            held.start(1)
            self.assertEqual(held.finish(), FEW_PAGES)
        steps = "; ".join(f"echo >{held.output}; echo fill $n >{held.commands}; "
                          f"until grep -q RESULT {held.output}; do usleep 1000; done"
                          for held in nodes)
        machine.run(f"(n=2; while [ $n -lt 10000 ]; do {steps}; n=$((n+1)); done) &")
        return machine, second

    def check_cut(self, options):
        machine, second = self.two_nodes(options)
        for number in range(4):
            time.sleep(0.3)
            done = machine.qmp.execute("pcow-commit", snapshot=f"s{number}")
            self.assertEqual(sorted(node["id"] for node in done), ["pm0", "pm1"])
            self.assertEqual(done[0]["pause-ns"], done[1]["pause-ns"], "two pauses")
        machine.qmp.execute("pcow-delete-snapshot", name="s1")
        machine.qmp.execute("pcow-commit", snapshot="one", ids=["pm1"])
        self.assertEqual(self.names(), {"pm0": ["s0", "s2", "s3"],
                                        "pm1": ["s0", "s2", "s3", "one"]})
        self.wait_for_deletion(machine, True)
        self.assertEqual(machine.quit(), 0, machine.stderr())
        for image in (self.image, second):
            self.expect_sound(image)
        for number in (0, 2, 3):
            name = f"s{number}"
            first = self.newest_seed(1, 10000, FEW_PAGES, name)
            other = self.newest_seed(1, 10000, FEW_PAGES, name, second)
            print(f"{name}: fills {first} and {other}")
            self.assertIn(first - other, (0, 1), f"{name} is not of one moment")

    def test_two_nodes_are_of_one_moment(self):
        self.check_cut((EPOCHS, EPOCHS))

    def test_nodes_of_either_kind_are_of_one_moment(self):
        self.check_cut(("", EPOCHS))

    def test_what_is_refused(self):
        self.create_image()
        machine = self.start(["-S", *harness.vm.node_arguments(self.image, harness.NODE_MIB),
                              *self.monitor_arguments])
        self.snapshot("create", "a")
        for arguments, text in ((("create", "a"), "has a snapshot 'a' already"),
                                (("create", "x" * 128), "1 to 127"),
                                (("create", "b", "pm7"), "no pcow node 'pm7'"),
                                (("delete", "b"), "no snapshot 'b'")):
            done = self.snapshot(*arguments, ok=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(text, done.stderr)
        for arguments, text in (({"id": "pm0", "ids": ["pm0"]}, "exclude each other"),
                                ({"ids": ["pm0", "pm0"]}, "named twice"),
                                ({"ids": ["m0"]}, "is not a memory-backend-pcow")):
            with self.assertRaisesRegex(harness.vm.VmError, text):
                machine.qmp.execute("pcow-commit", snapshot="b", **arguments)
        self.assertEqual(self.names(), {"pm0": ["a"]})
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()


if __name__ == "__main__":
    harness.main()
