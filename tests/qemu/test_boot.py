"""The path of the demo: a guest with a node on an image fills it, commits, shuts down."""

import json

import harness

FILL_MIB = 64
SEED = 20260
CHECK_FOUND_LEAKS = 3  # exit status of pcow-img check


class Boot(harness.QemuTest):
    def test_fill_commit_power_off(self):
        self.create_image()
        machine = self.start_guest(extra=self.monitor_arguments)
        online = self.guest_ok(machine, "cat /sys/devices/system/node/online")
        self.assertEqual(online, ["0-1"])

        output = self.guest_ok(machine, f"memfill --node 1 --size {FILL_MIB}M --seed {SEED}")
        self.assertIn("RESULT ok", output[-1])

        before = machine.qmp.execute("query-pcow")[0]
        self.assertGreaterEqual(before["dirty"], FILL_MIB << 20)
        commit = machine.qmp.execute("pcow-commit", id="pm0")[0]
        self.assertGreaterEqual(commit["written-pages"], harness.pages_of(FILL_MIB))
        self.assertGreater(commit["pause-ns"], 0)
        after = machine.qmp.execute("query-pcow")[0]
        self.assertEqual(after["epoch"], commit["epoch"])
        self.assertLess(after["dirty"], before["dirty"])
        self.assertLess(after["allocated"], after["size"] // 4, "the image is not thin")
        self.assertLessEqual(after["mappings"], after["mapping-budget"])
        self.assertEqual(after["last-pause-ns"], commit["pause-ns"])
        self.assertEqual(machine.qmp.events, [], "a commit must not send events")

        status = json.loads(self.tierctl("status", "--output", "json").stdout)
        self.assertIn("pm0", json.dumps(status))

        machine.run("poweroff -f &")
        self.assertEqual(machine.wait(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(SEED, FILL_MIB)

    def test_content_is_used_again(self):
        """A second QEMU on the image starts from what the first one left."""
        self.create_image()
        machine = self.start_guest()
        self.guest_ok(machine, f"memfill --node 1 --size {FILL_MIB}M --seed {SEED}")
        self.assertEqual(machine.quit(), 0, machine.stderr())
        for _ in range(2):
            machine = self.start(["-S", *harness.vm.node_arguments(self.image, harness.NODE_MIB)])
            state = machine.qmp.execute("query-pcow")[0]
            self.assertGreaterEqual(state["allocated"], FILL_MIB << 20)
            self.assertEqual(state["dram-resident"], 0, "nothing was written yet")
            self.assertEqual(machine.quit(), 0, machine.stderr())
            self.expect_sound()
            self.expect_pattern(SEED, FILL_MIB)

    def test_runs_on_a_base(self):
        self.create_image()
        machine = self.start_guest()
        self.guest_ok(machine, f"memfill --node 1 --size {FILL_MIB}M --seed {SEED}")
        self.assertEqual(machine.quit(), 0, machine.stderr())
        clone, flat = self.path("clone.pcow"), self.path("flat.pcow")
        self.tool("pcow-img", "create", "-q", "-b", self.image, clone)
        arguments = harness.vm.node_arguments(clone, harness.NODE_MIB)
        self.assertIn("allow-base=on", self.refused(arguments))

        arguments = harness.vm.node_arguments(clone, harness.NODE_MIB, options=",allow-base=on")
        machine = self.start(["-S", *arguments])
        state = machine.qmp.execute("query-pcow")[0]
        self.assertEqual(state["allocated"], 0, "nothing is copied to run on a base")
        self.assertGreater(state["chunks"]["cached"], 0)
        self.assertEqual(machine.quit(), 0, machine.stderr())
        machine = self.start(arguments, guest=True)
        self.guest_ok(machine, f"memfill --node 1 --size {FILL_MIB}M --seed {SEED + 1}")
        machine.qmp.execute("pcow-commit")
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.tool("pcow-img", "convert", "-q", "--allow-base", clone, flat)
        self.expect_pattern(SEED + 1, FILL_MIB, flat)
        # On tmpfs the base has grown by zeros, wherever the guest read a hole: a leak, no damage.
        done = self.tool("pcow-img", "check", "-q", self.image, ok=False)
        self.assertIn(done.returncode, (0, CHECK_FOUND_LEAKS), done.stdout + done.stderr)
        self.expect_pattern(SEED, FILL_MIB)

    def test_dram_size_is_honoured(self):
        self.create_image()
        limit = 32
        machine = self.start_guest(dram_mib=limit)
        self.guest_ok(machine, "mkfifo /tmp/again; sleep 1000 >/tmp/again &")
        self.guest_ok(machine, f"memfill --node 1 --size {FILL_MIB}M --seed {SEED} --hold "
                      "</tmp/again >/tmp/out & sleep 1; while ! grep -q RESULT /tmp/out; do "
                      "sleep 1; done; cat /tmp/out")
        commit = machine.qmp.execute("pcow-commit")[0]
        self.assertEqual(commit["dma-maps"], 0)
        self.assertGreater(commit["demoted-pages"], 0)
        state = machine.qmp.execute("query-pcow")[0]
        self.assertLess(state["dram-resident"], (limit + 16) << 20)
        # The guest reads its pages back from the image.
        self.guest_ok(machine, "echo >/tmp/again; while [ $(grep -c RESULT /tmp/out) -lt 2 ]; do "
                      "sleep 1; done")
        output = self.guest_ok(machine, "cat /tmp/out")
        self.assertEqual([line.split()[1] for line in output], ["ok", "ok"])
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(SEED, FILL_MIB)


if __name__ == "__main__":
    harness.main()
