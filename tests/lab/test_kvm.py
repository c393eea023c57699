"""Inside the lab VM: what a guest under KVM sees and does, and what the nested page table holds.

One guest goes through a page's whole life on the medium: stores found by the dirty scan, commit,
demotion, access to the image itself, promotion, reopening.
"""

import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "qemu"))

import harness  # noqa: E402  pylint: disable=wrong-import-position
import held_memfill  # noqa: E402  pylint: disable=wrong-import-position

FILL_MIB = 24
DRAM_MIB = 8
PAGES = harness.pages_of(FILL_MIB)
FIRST_SEED, SECOND_SEED = 31, 32
# guest-numa/pattern.h: three words of header, then words that depend on their place.
HEADER = struct.Struct("<QQQ")
MAGIC = 0x31544150574F4350
CHANGED_WORD = 100 * 8


def pattern_pages(file, seed):
    """Offsets of a file's pages that memfill wrote with this seed."""
    size = os.fstat(file).st_size
    at = 0
    while at < size:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(file, at, os.SEEK_HOLE)
        while at < end:
            header = os.pread(file, HEADER.size, at)
            if len(header) == HEADER.size and HEADER.unpack(header)[:2] == (MAGIC, seed):
                yield at
            at += harness.PAGE


def change_image(path, seed):
    """Inverts a word of every such page in the file; a second call changes it back."""
    file = os.open(path, os.O_RDWR)
    try:
        offsets = list(pattern_pages(file, seed))
        for offset in offsets:
            (word,) = struct.unpack("<Q", os.pread(file, 8, offset + CHANGED_WORD))
            os.pwrite(file, struct.pack("<Q", word ^ (2**64 - 1)), offset + CHANGED_WORD)
    finally:
        os.close(file)
    return len(offsets)


class Kvm(harness.QemuTest):
    def dirty_mib(self, machine):
        return machine.qmp.execute("query-pcow")[0]["dirty"] >> 20

    def test_life_of_pages(self):
        self.create_image()
        machine = self.start_guest(dram_mib=DRAM_MIB)
        self.assertTrue(machine.qmp.execute("query-kvm")["enabled"], "the guest is not under KVM")
        state = machine.qmp.execute("query-pcow")[0]
        dax = os.environ["PCOW_MEDIUM"].endswith("-dax")
        self.assertEqual(state["medium"] != "page", dax, "what the image's file is taken for")
        self.assertEqual(state["tracker"], "pagemap-scan")
        memory = held_memfill.HeldMemfill(machine, PAGES)
        memory.start(FIRST_SEED)
        self.assertEqual(memory.finish(), PAGES)

        self.assertGreaterEqual(self.dirty_mib(machine), FILL_MIB)
        commit = machine.qmp.execute("pcow-commit")[0]
        self.assertGreaterEqual(commit["written-pages"], PAGES)
        self.assertGreaterEqual(commit["demoted-pages"], PAGES - harness.pages_of(DRAM_MIB))
        self.assertLess(self.dirty_mib(machine), FILL_MIB // 2)
        self.assertEqual(memory.do("verify"), PAGES, "demotion has changed content")

        self.the_guest_sees_the_image(machine, memory)
        self.stores_are_private(machine, memory)

        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()
        self.expect_pattern(SECOND_SEED, FILL_MIB)

    def the_guest_sees_the_image(self, machine, memory):
        """After a demotion the nested page table points at the image's own pages."""
        machine.qmp.execute("stop")
        changed = change_image(self.image, FIRST_SEED)
        self.assertEqual(changed, PAGES)
        machine.qmp.execute("cont")
        intact = memory.do("verify")
        self.assertLessEqual(intact, harness.pages_of(DRAM_MIB), "only DRAM copies are unaffected")
        machine.qmp.execute("stop")
        self.assertEqual(change_image(self.image, FIRST_SEED), changed)
        machine.qmp.execute("cont")
        self.assertEqual(memory.do("verify"), PAGES)
        print(f"{PAGES - intact} of {PAGES} pages were read from the image itself")

    def stores_are_private(self, machine, memory):
        """A guest's store promotes: its page no longer follows the image, and is dirty again."""
        self.assertEqual(memory.do(f"fill {SECOND_SEED}"), PAGES)
        self.assertGreaterEqual(self.dirty_mib(machine), FILL_MIB)
        machine.qmp.execute("stop")
        self.assertEqual(change_image(self.image, FIRST_SEED), PAGES)
        machine.qmp.execute("cont")
        self.assertEqual(memory.do("verify"), PAGES)
        commit = machine.qmp.execute("pcow-commit")[0]
        self.assertGreaterEqual(commit["written-pages"], PAGES)
        self.assertEqual(memory.do("verify"), PAGES)


if __name__ == "__main__":
    harness.main()
