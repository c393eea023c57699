"""A commit is durable: QEMU is killed after it, and while it works."""

import random
import threading
import time

import harness

FILL_MIB = 32


class Crash(harness.QemuTest):
    def test_kill_after_commit(self):
        """What was committed is there, exactly; what came after is not."""
        self.create_image()
        machine = self.start_guest()
        self.guest_ok(machine, f"memfill --node 1 --size {FILL_MIB}M --seed 1")
        machine.qmp.execute("pcow-commit")
        self.guest_ok(machine, "memfill --node 1 --size 2M --seed 2 --hold </dev/ttyS0 >/dev/null &"
                      " sleep 3")
        machine.kill()
        self.expect_pattern(1, FILL_MIB)
        self.expect_pattern(2, 0)
        # The next writable opening recovers it for good.
        machine = self.start(["-S", *harness.vm.node_arguments(self.image, harness.NODE_MIB)])
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(1, FILL_MIB)
        self.expect_pattern(2, 0)

    def test_kill_while_committing(self):
        """Pages of a completed commit survive the death of a later one."""
        self.create_image()
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        randomness = random.Random(seed)
        machine = self.start_guest()
        self.guest_ok(machine, "mkfifo /tmp/never; sleep 1000 >/tmp/never &")
        self.guest_ok(machine, f"memfill --node 1 --size {FILL_MIB}M --seed 1 --hold </tmp/never "
                      ">/tmp/out & sleep 1; while ! grep -q RESULT /tmp/out; do sleep 1; done")
        machine.qmp.execute("pcow-commit")
        self.guest_ok(machine, f"memfill --node 1 --size {4 * FILL_MIB}M --seed 2")
        delay = randomness.uniform(0.0, 0.15)
        killer = threading.Thread(target=lambda: (time.sleep(delay), machine.process.kill()))
        killer.start()
        try:
            reply = machine.qmp.request("pcow-commit")
        except harness.vm.VmError:
            reply = {}
        self.assertNotIn("error", reply)
        killer.join()
        machine.process.wait()
        self.expect_pattern(1, FILL_MIB)
        machine = self.start(["-S", *harness.vm.node_arguments(self.image, harness.NODE_MIB)])
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(1, FILL_MIB)


if __name__ == "__main__":
    harness.main()
