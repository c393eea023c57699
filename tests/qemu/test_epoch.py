"""persistence=epoch: the image has a state of one moment, whatever happens to QEMU."""

import os
import random
import time

import harness
from held_memfill import HeldMemfill

PAGES = 4096
EPOCHS = ",persistence=epoch,epoch-min-ms=100,epoch-max-ms=100"
# How often QEMU is killed; the limit of DRAM and the policy change.
KILLS = int(os.environ.get("PCOW_KILLS", "3"))
TIERS = ((None, ""), (8, ""), (8, ",tier-policy=heat"))


class Epoch(harness.QemuTest):
    def epochs(self, machine):
        return machine.qmp.execute("query-pcow")[0]["epochs"]

    def wait_for_epochs(self, machine, count):
        """Until so many more epochs were begun and made."""
        last = self.epochs(machine)["epochs"] + count + 1
        deadline = time.monotonic() + 120
        while self.epochs(machine)["epochs"] < last:
            self.assertLess(time.monotonic(), deadline, "no epochs are made")
            time.sleep(0.05)

    def recover(self):
        """The next writable opening recovers the image for good."""
        machine = self.start(["-S", *harness.vm.node_arguments(self.image, harness.NODE_MIB)])
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()

    def test_kill_leaves_one_moment(self):
        """QEMU is killed while the guest fills the same pages again and again, and epochs go on."""
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        randomness = random.Random(seed)
        for kill in range(KILLS):
            self.image = self.path(f"node{kill}.pcow")
            self.create_image()
            dram_mib, policy = TIERS[kill % len(TIERS)]
            machine = self.start_guest(options=EPOCHS + policy, dram_mib=dram_mib)
            held = HeldMemfill(machine, PAGES)
            held.start(1)
            self.assertEqual(held.finish(), PAGES)
            acked = 0
            for fill in range(2, 6):
                # What a flush answered is there.
                commit = machine.qmp.execute("pcow-commit")[0]
                acked = fill - 1
                self.assertGreater(commit["epoch"], 0)
                held.begin(f"fill {fill}")
                if fill < 5:
                    self.assertEqual(held.finish(), PAGES)
            time.sleep(randomness.uniform(0, 0.5))
            before = self.epochs(machine)
            machine.kill()
            newest = self.newest_seed(acked, 5, PAGES)
            print(f"kill {kill + 1}: {before['epochs']} epochs, {before['residue-pages']} pages at "
                  f"rest, pause at most {before['pause-max-ns'] / 1e6:.1f} ms; acknowledged fill "
                  f"{acked}, found {newest}")
            self.recover()
            self.newest_seed(acked, 5, PAGES)
            os.unlink(self.image)
        print(f"kills={KILLS}")

    def test_epochs_come_by_themselves(self):
        self.create_image()
        machine = self.start_guest(options=EPOCHS)
        held = HeldMemfill(machine, PAGES)
        held.start(7)
        self.assertEqual(held.finish(), PAGES)
        self.wait_for_epochs(machine, 1)
        machine.kill()
        self.expect_pattern(7, PAGES * harness.PAGE >> 20)
        self.recover()

    def test_orderly_exit_saves_the_rest(self):
        self.create_image()
        machine = self.start_guest(options=",persistence=epoch,epoch-min-ms=600000,"
                                   "epoch-max-ms=600000")
        held = HeldMemfill(machine, 512)
        held.start(8)
        self.assertEqual(held.finish(), 512)
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(8, 2)

    def test_disk_stores_during_epochs(self):
        """Direct I/O pins pages: they are copied by every epoch, and stay where they are."""
        disk = self.make_disk(16, 77)
        self.create_image()
        machine = self.start_guest(
            options=EPOCHS, dram_mib=4, modules=["virtio_pci", "virtio_blk"],
            extra=["-object", "iothread,id=io0",
                   "-drive", f"if=none,id=d0,format=raw,file={disk},cache=none,aio=native",
                   "-device", "virtio-blk-pci,drive=d0,iothread=io0"])
        output = self.guest_ok(machine, "memfill --node 1 --size 16M --seed 77 --load /dev/vda "
                               "--rounds 6")
        self.assertEqual(sum("RESULT ok" in line for line in output), 6, output)
        epochs = self.epochs(machine)
        print(f"{epochs['epochs']} epochs, {epochs['pinned-pages']} pinned pages copied")
        self.assertGreater(epochs["epochs"], 2)
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(77, 16)

    def test_flush_of_virtio_pmem_is_durable(self):
        self.create_image()
        machine = self.start(
            ["-m", "512M,slots=1,maxmem=8G", "-object",
             f"memory-backend-pcow,id=p0,mem-path={self.image},size={harness.NODE_MIB}M,"
             "persistence=epoch,epoch-min-ms=600000,epoch-max-ms=600000",
             "-device", "virtio-pmem-pci,memdev=p0"],
            guest=True, modules=["virtio_pci", "virtio_pmem", "nd_pmem"])
        self.guest_ok(machine, "memfill --node 0 --size 16M --seed 5 --file /tmp/data")
        self.guest_ok(machine, "dd if=/tmp/data of=/dev/pmem0 bs=1M conv=fsync")
        self.assertEqual(self.epochs(machine)["flushes"] > 0, True)
        machine.kill()
        self.expect_pattern(5, 16)
        self.recover()
        self.expect_pattern(5, 16)

    def wait_for_status(self, machine, status):
        deadline = time.monotonic() + 120
        while machine.qmp.execute("query-status")["status"] != status:
            self.assertLess(time.monotonic(), deadline, f"the guest is not {status}")
            time.sleep(0.1)

    def failures(self, machine):
        return [event for event in machine.qmp.events if event.startswith("PCOW_EPOCH_ERROR")]

    def test_guest_that_is_faster_than_the_log(self):
        """It overwrites eight times what the log takes, again and again: it is held, not stopped."""
        pages = 8 * PAGES
        self.tool("pcow-img", "create", "-q", "--log-size", "16M", self.image,
                  f"{harness.NODE_MIB}M")
        machine = self.start_guest(options=EPOCHS)
        held = HeldMemfill(machine, pages)
        held.start(1)
        self.assertEqual(held.finish(), pages)
        machine.qmp.execute("pcow-commit")
        for fill in range(2, 5):
            self.assertEqual(held.do(f"fill {fill}"), pages)
        machine.qmp.execute("pcow-commit")
        epochs = self.epochs(machine)
        print(f"{epochs['epochs']} epochs, {epochs['early']} early, {epochs['holds']} holds of "
              f"{epochs['held-ns'] / 1e6:.1f} ms, pause at most "
              f"{epochs['pause-max-ns'] / 1e6:.1f} ms")
        self.assertEqual(epochs["failed"], 0)
        self.assertGreater(epochs["early"], 0)
        self.assertEqual(self.failures(machine), [])
        self.assertTrue(machine.qmp.execute("query-status")["running"])
        machine.kill()
        self.newest_seed(4, 4, pages)
        self.recover()

    def test_guest_rests_while_the_medium_is_full(self):
        """It is stopped, told about, and goes on by itself when there is space again."""
        medium = harness.SmallMedium(self.path("medium"), 128)
        self.addCleanup(medium.unmount)
        self.image = self.path("medium/node.pcow")
        self.create_image()
        machine = self.start_guest(options=",persistence=epoch,epoch-min-ms=600000,"
                                   "epoch-max-ms=600000")
        machine.qmp.execute("pcow-commit")
        medium.fill()
        # Pages that the image does not own yet: nothing that it has already can take them.
        held = HeldMemfill(machine, PAGES)
        held.start(1, delay_seconds=1)
        deadline = time.monotonic() + 60
        while machine.qmp.execute("query-status")["status"] != "io-error":
            self.assertLess(time.monotonic(), deadline, "the guest is not stopped")
            machine.qmp.request("pcow-commit")
            time.sleep(0.2)
        self.wait_for_failure(machine, 1)
        reply = machine.qmp.request("pcow-commit")
        self.assertIn("pm0", reply["error"]["desc"], "who asks is told at once")
        time.sleep(1)
        self.assertEqual(machine.qmp.execute("query-status")["status"], "io-error")
        medium.free()
        self.wait_for_status(machine, "running")
        self.assertEqual(held.finish(), PAGES)
        machine.qmp.execute("pcow-commit")
        self.assertEqual(len(self.failures(machine)), 1, "once")
        machine.kill()
        self.newest_seed(1, 1, PAGES)
        self.recover()

    def wait_for_failure(self, machine, count):
        deadline = time.monotonic() + 60
        while len(self.failures(machine)) < count:
            self.assertLess(time.monotonic(), deadline, "nobody is told")
            machine.qmp.execute("query-status")  # takes events as well
            time.sleep(0.1)
        self.assertIn("pm0", self.failures(machine)[-1])


if __name__ == "__main__":
    harness.main()
