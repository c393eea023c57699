"""Memory that the guest gives up: balloon and free page reporting return DRAM and file space."""

import time

import harness
from held_memfill import HeldMemfill

MIB = 1 << 20
HELD_MIB = 16  # in use all the time
FREED_MIB = 192
HELD_SEED = 5
MODULES = ["virtio_pci", "virtio_balloon"]
LOG_MIB = 64  # of an image of this size; it keeps its space
EPOCHS = ",persistence=epoch,epoch-min-ms=100,epoch-max-ms=100"
NODE0_MIB = 512
TOTAL_MIB = NODE0_MIB + harness.NODE_MIB


class Discard(harness.QemuTest):
    def start_ballooned(self, options, device):
        """A guest that holds some pages of the node, and has freed many more."""
        self.create_image()
        machine = self.start_guest(options=options, modules=MODULES, extra=["-device", device])
        held = HeldMemfill(machine, harness.pages_of(HELD_MIB))
        held.start(HELD_SEED)
        self.assertEqual(held.finish(), harness.pages_of(HELD_MIB))
        self.fill(machine, 6)
        return machine, held

    def fill(self, machine, seed):
        output = self.guest_ok(machine, f"memfill --node 1 --size {FREED_MIB}M --seed {seed}")
        self.assertIn("RESULT ok", output[-1])

    def state(self, machine):
        return machine.qmp.execute("query-pcow")[0]

    def wait_until(self, reached, what):
        deadline = time.monotonic() + 180
        while not reached():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.2)

    def wait_for_space(self, machine, disk_max):
        """The image follows: with epochs by itself."""
        def reached():
            if "epochs" not in self.state(machine):
                machine.qmp.execute("pcow-commit")
            return self.state(machine)["disk"] <= disk_max

        self.wait_until(reached, f"the image does not shrink to {disk_max} bytes: "
                        f"{self.state(machine)['disk']}")

    def finish(self, machine, held):
        self.assertEqual(held.do("verify"), harness.pages_of(HELD_MIB))
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.assertEqual(machine.stderr(), "")
        self.expect_sound()
        self.expect_pattern(HELD_SEED, HELD_MIB)

    def report_free_pages(self, options):
        machine, held = self.start_ballooned(options,
                                             "virtio-balloon-pci,free-page-reporting=on")
        # Most of what was freed is in blocks that are large enough to be reported.
        limit = (HELD_MIB + FREED_MIB // 2) * MIB
        self.wait_until(lambda: self.state(machine)["dram-resident"] < limit,
                        "DRAM of free pages is not given back")
        disk = self.state(machine)["disk"]
        self.wait_for_space(machine, limit + (LOG_MIB * MIB if options else 0))
        print(f"free pages: {self.state(machine)['dram-resident'] // MIB} MiB in DRAM; image "
              f"{disk // MIB} MiB, then {self.state(machine)['disk'] // MIB} MiB")
        # What was given up is used again.
        self.fill(machine, 7)
        self.finish(machine, held)

    def test_free_page_reporting(self):
        self.report_free_pages("")

    def test_free_page_reporting_with_epochs(self):
        self.report_free_pages(EPOCHS)

    def balloon(self, machine, mib):
        machine.qmp.execute("balloon", value=mib * MIB)
        last = None
        # It stops where the guest has no more to give.
        for _ in range(180):
            actual = machine.qmp.execute("query-balloon")["actual"]
            if actual == mib * MIB or (actual == last and actual < TOTAL_MIB // 2 * MIB):
                return actual
            last = actual
            time.sleep(1)
        return self.fail(f"the balloon does not get to {mib} MiB: {last // MIB}")

    def inflate_and_deflate(self, options):
        machine, held = self.start_ballooned(options, "virtio-balloon-pci")
        machine.qmp.execute("pcow-commit")
        before = self.state(machine)
        self.assertGreater(before["disk"], (HELD_MIB + FREED_MIB) * MIB)
        actual = self.balloon(machine, 400)
        # The guest gives what it likes, of both nodes; what is left to it is less than was freed.
        given_up = FREED_MIB // 4 * MIB
        self.wait_until(
            lambda: self.state(machine)["dram-resident"] < before["dram-resident"] - given_up,
            "DRAM of the balloon is not given back")
        self.wait_for_space(machine, before["disk"] - given_up)
        after = self.state(machine)
        print(f"balloon to {actual // MIB} MiB: {before['dram-resident'] // MIB} to "
              f"{after['dram-resident'] // MIB} MiB in DRAM, image {before['disk'] // MIB} to "
              f"{after['disk'] // MIB} MiB")
        self.assertEqual(held.do("verify"), harness.pages_of(HELD_MIB))
        self.balloon(machine, TOTAL_MIB)
        self.fill(machine, 8)
        self.finish(machine, held)

    def test_balloon(self):
        self.inflate_and_deflate("")

    def test_balloon_with_epochs(self):
        self.inflate_and_deflate(EPOCHS)

    def test_killed_while_pages_are_given_up(self):
        """With epochs what is in use is as it was, whenever that was."""
        machine, held = self.start_ballooned(EPOCHS, "virtio-balloon-pci")
        machine.qmp.execute("pcow-commit")
        machine.qmp.execute("balloon", value=700 * MIB)
        time.sleep(1.5)
        self.assertEqual(held.do("verify"), harness.pages_of(HELD_MIB))
        machine.kill()
        self.expect_pattern(HELD_SEED, HELD_MIB)
        machine = self.start(["-S", *harness.vm.node_arguments(self.image, harness.NODE_MIB)])
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(HELD_SEED, HELD_MIB)


if __name__ == "__main__":
    harness.main()
