"""What the lab runs: tests, each on one medium, by a host process or an inner guest.

A test's name is SUITE@MEDIUM. The command runs inside the lab; exit status 0 is a pass.
"""

from dataclasses import dataclass

import outer_vm

# Who uses the memory: a process of the lab as it is, or a guest of the lab under KVM.
HOST = "host process"
GUEST = "inner KVM guest"


@dataclass(frozen=True)
class Suite:
    name: str
    accelerator: str
    about: str
    command: tuple
    media: tuple = outer_vm.MEDIA
    limit_seconds: int = 420


@dataclass(frozen=True)
class Test:
    suite: Suite
    medium: str

    @property
    def name(self):
        return f"{self.suite.name}@{self.medium}"


def qemu_suite(name, about, media=outer_vm.MEDIA, folder="qemu"):
    return Suite(name, GUEST, about, ("python3", f"tests/{folder}/test_{name}.py"), media)


SUITES = (
    Suite("fio", HOST, "fio stores and verifies through mmap: the medium itself is sound",
          ("sh", "-c", "fio --name=medium --directory=$TMPDIR --ioengine=mmap --rw=randwrite "
           "--bs=4k --size=8M --verify=crc32c --do_verify=1 --minimal")),
    Suite("image", HOST, "unit tests of the image engine", ("pcow_unit_test", "--gtest_brief=1")),
    Suite("faults", HOST, "failing system calls", ("pcow_fault_test", "--gtest_brief=1")),
    Suite("image-model", HOST, "random image operations against an oracle",
          ("image_model_test", "--gtest_brief=1")),
    Suite("region", HOST, "unit tests of regions and trackers",
          ("tiering_test", "--gtest_brief=1")),
    Suite("region-model", HOST, "random region histories against an oracle",
          ("region_model_test", "--gtest_brief=1")),
    Suite("c-api", HOST, "libtiering as a hypervisor uses it",
          ("tiering_c_api_test", "--gtest_brief=1")),
    Suite("traps", HOST, "kernel traps, each with and without the care it needs",
          ("kernel_traps_test",)),
    qemu_suite("boot", "a guest fills its node; commit, demotion, reopening"),
    qemu_suite("kvm", "dirty scan, demotion, promotion; the nested page table points at the image",
               folder="lab"),
    qemu_suite("crash", "QEMU is killed after and during a commit", outer_vm.DAX_MEDIA),
    qemu_suite("dma", "a disk stores into the node during commits and demotions",
               outer_vm.DAX_MEDIA),
    qemu_suite("exit", "every orderly end of QEMU saves the node", ("tmpfs-node1", "ext4-dax")),
)

ALL = tuple(Test(suite, medium) for suite in SUITES for medium in suite.media)


def select(patterns):
    """Tests whose name, suite or @medium is one of the patterns, in the order of ALL."""
    known = {"all"} | {t.name for t in ALL} | {t.suite.name for t in ALL}
    known |= {"@" + medium for medium in outer_vm.MEDIA} | {"host", "guest"}
    unknown = [pattern for pattern in patterns if pattern not in known]
    if unknown:
        raise ValueError(f"no such test: {', '.join(unknown)}; 'lab list' lists them")
    kinds = {HOST: "host", GUEST: "guest"}
    return [t for t in ALL
            if {"all", t.name, t.suite.name, "@" + t.medium, kinds[t.suite.accelerator]}
            & set(patterns)]
