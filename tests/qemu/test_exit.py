"""However QEMU ends in an orderly way, the memory is saved; if it cannot be, QEMU says so."""

import resource
import signal

import harness

FILL_MIB = 32
SEED = 5
# Enough for the logs of QEMU, not for pages in an image.
LIMIT = 1 << 20


class Exit(harness.QemuTest):
    def filled(self):
        self.create_image()
        machine = self.start_guest()
        self.guest_ok(machine, f"memfill --node 1 --size {FILL_MIB}M --seed {SEED}")
        return machine

    def test_sigterm(self):
        machine = self.filled()
        machine.process.send_signal(signal.SIGTERM)
        self.assertEqual(machine.wait(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(SEED, FILL_MIB)

    def test_quit_while_paused(self):
        machine = self.filled()
        machine.qmp.execute("stop")
        commit = machine.qmp.execute("pcow-commit")[0]
        self.assertGreaterEqual(commit["written-pages"], harness.pages_of(FILL_MIB))
        self.assertFalse(machine.qmp.execute("query-status")["running"])
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(SEED, FILL_MIB)

    def test_full_medium(self):
        """A file size limit stands for a full file system: first a commit fails, then the exit."""
        machine = self.filled()
        resource.prlimit(machine.process.pid, resource.RLIMIT_FSIZE,
                         (LIMIT, resource.RLIM_INFINITY))
        reply = machine.qmp.request("pcow-commit")
        self.assertIn("error", reply)
        self.assertIn("pm0", reply["error"]["desc"])
        self.assertTrue(machine.qmp.execute("query-status")["running"], "the guest has to go on")
        self.guest_ok(machine, "true")
        self.assertNotEqual(machine.quit(), 0)
        self.assertIn("could not be saved", machine.stderr())

    def test_full_medium_is_freed(self):
        """Nothing is lost by a commit that failed."""
        machine = self.filled()
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(machine.process.pid, resource.RLIMIT_FSIZE, (LIMIT, unlimited[1]))
        self.assertIn("error", machine.qmp.request("pcow-commit"))
        resource.prlimit(machine.process.pid, resource.RLIMIT_FSIZE, unlimited)
        machine.qmp.execute("pcow-commit")
        machine.kill()
        self.expect_pattern(SEED, FILL_MIB)

    def test_wrong_option_closes_the_image(self):
        self.create_image()
        self.refused(["-object", "memory-backend-pcow,id=pm0,"
                      f"mem-path={self.image},size={harness.NODE_MIB}M",
                      "-device", "no-such-device"])
        self.expect_sound()
        info = self.tool("pcow-img", "info", self.image).stdout
        self.assertNotIn("needs recovery", info)


if __name__ == "__main__":
    harness.main()
