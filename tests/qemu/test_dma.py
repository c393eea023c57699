"""A disk stores into the node by DMA while commits and demotions go on."""

import harness

DISK_MIB = 32
ROUNDS = 6
SEED = 77


class Dma(harness.QemuTest):
    def run_with_drive(self, drive):
        self.create_image()
        machine = self.start_guest(
            modules=["virtio_pci", "virtio_blk"], dram_mib=16,
            extra=["-object", "iothread,id=io0",
                   "-drive", f"if=none,id=d0,format=raw,file={self.make_disk(DISK_MIB, SEED)},{drive}",
                   "-device", "virtio-blk-pci,drive=d0,iothread=io0"])
        self.guest_ok(machine, "mkfifo /tmp/never; sleep 1000 >/tmp/never &")
        self.guest_ok(machine, f"memfill --node 1 --size {DISK_MIB}M --seed {SEED} --load /dev/vda "
                      f"--rounds {ROUNDS} --hold </tmp/never >/tmp/out 2>&1 &")
        commits = demoted = 0
        while True:
            commit = machine.qmp.execute("pcow-commit")[0]
            commits += 1
            demoted += commit["demoted-pages"]
            _, output = machine.run("cat /tmp/out")
            results = [line for line in output if "RESULT" in line]
            if len(results) >= ROUNDS or any("failed" in line for line in results):
                break
        self.assertTrue(all("RESULT ok" in line for line in results), results)
        self.assertGreaterEqual(commits, ROUNDS // 2)
        self.assertGreater(demoted, 0)
        print(f"{commits} commits, {demoted} pages demoted")
        # What the disk has stored last is in the image, found by page tracking alone.
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(SEED, DISK_MIB)

    def test_buffered(self):
        self.run_with_drive("cache=writeback,aio=threads")

    def test_direct(self):
        """Direct I/O pins the guest's pages while a request is in flight."""
        self.run_with_drive("cache=none,aio=native")

    def test_mapped_for_long(self):
        """A SATA controller keeps its command lists mapped: no page may leave DRAM meanwhile.

        Here the image holds all of the guest's memory, so the lists are in it for sure.
        """
        self.create_image()
        machine = self.start(
            ["-smp", "2", "-m", f"{harness.NODE_MIB}M", "-machine", "memory-backend=pm0",
             "-object", f"memory-backend-pcow,id=pm0,mem-path={self.image},"
             f"size={harness.NODE_MIB}M,dram-size=16M",
             "-drive", f"if=none,id=d0,format=raw,file={self.make_disk(DISK_MIB, SEED)}",
             "-device", "ide-hd,drive=d0,bus=ide.0"],
            guest=True, modules=["ahci"])
        self.assertGreater(machine.qmp.execute("query-pcow")[0]["dma-maps"], 0)
        commit = machine.qmp.execute("pcow-commit")[0]
        self.assertGreater(commit["dma-maps"], 0)
        self.assertEqual(commit["demoted-pages"], 0)
        self.guest_ok(machine, "rmmod ahci")
        commit = machine.qmp.execute("pcow-commit")[0]
        self.assertEqual(commit["dma-maps"], 0)
        self.assertGreater(commit["demoted-pages"], 0)
        self.guest_ok(machine, "true")
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()


if __name__ == "__main__":
    harness.main()
