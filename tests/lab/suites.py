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
    # Where it runs in continuous integration, which has no time for everything.
    ci_media: tuple = outer_vm.MEDIA

@dataclass(frozen=True)
class Test:
    suite: Suite
    medium: str

    @property
    def name(self):
        return f"{self.suite.name}@{self.medium}"


def gtest_suite(name, about, program, ci_media=outer_vm.MEDIA, media=outer_vm.MEDIA):
    return Suite(name, HOST, about, (program, "--gtest_brief=1"), media, ci_media)


def thinned_suite(name, about, program, variable, value):
    """The lab is slow: an environment variable makes the program do less than elsewhere."""
    return Suite(name, HOST, about, ("env", f"{variable}={value}", program, "--gtest_brief=1"),
                 ci_media=())


def fault_suite(name, about, program, step):
    return thinned_suite(name, f"{about}: one call in {step} fails", program, "PCOW_FAULT_STEP",
                         step)


def model_suite(name, about, program, divisor):
    return thinned_suite(name, f"{about}; one in {divisor} of the steps", program,
                         "PCOW_HISTORY_DIVISOR", divisor)


def qemu_suite(name, about, media=outer_vm.MEDIA, ci_media=(), folder="qemu"):
    return Suite(name, GUEST, about, ("python3", f"tests/{folder}/test_{name}.py"), media, ci_media)


SUITES = (
    Suite("fio", HOST, "fio stores and verifies through mmap: the medium itself is sound",
          ("sh", "-c", "fio --name=medium --directory=$TMPDIR --ioengine=mmap --rw=randwrite "
           "--bs=4k --size=8M --verify=crc32c --do_verify=1 --minimal")),
    Suite("traps", HOST, "kernel traps, each with and without the care it needs",
          ("kernel_traps_test",)),
    gtest_suite("tools", "unit tests of the tools", "tools_unit_test", ("tmpfs",)),
    gtest_suite("c-api", "libtiering as a hypervisor uses it", "tiering_c_api_test"),
    gtest_suite("image", "unit tests of the image engine", "pcow_unit_test", ("xfs-dax",)),
    gtest_suite("repair", "the checker's repairs", "pcow_repair_test", ()),
    gtest_suite("thin", "what an image takes of its file system", "pcow_thin_test", ()),
    fault_suite("faults", "failing system calls", "pcow_fault_test", 40),
    fault_suite("operation-faults", "failing calls and allocations in every operation",
                "pcow_operation_fault_test", 200),
    fault_suite("region-faults", "failing calls and allocations in a region",
                "tiering_fault_test", 20),
    thinned_suite("kill", "a process that logs epochs is killed, 15 times", "kill_test",
                  "PCOW_KILLS", 15),
    model_suite("image-model", "random image operations against an oracle", "image_model_test",
                10),
    Suite("region", HOST, "unit tests of regions and trackers",
          ("tiering_test", "--gtest_brief=1", "--gtest_filter=-BudgetTest.*:*FailureTest.*"),
          ci_media=("ext4-dax",)),
    # What fails there is the image's calls, before they come to the medium.
    Suite("region-failures", HOST, "those of regions whose image fails",
          ("tiering_test", "--gtest_brief=1", "--gtest_filter=*FailureTest.*"),
          ("tmpfs", "ext4-dax"), ()),
    # On xfs each reservation of space unmaps the whole file, in all of its mappings: with the
    # thousands of these tests, for minutes in an emulated machine.
    Suite("budget", HOST, "those of regions that use up the mapping budget",
          ("tiering_test", "--gtest_brief=1", "--gtest_filter=BudgetTest.*"),
          ("tmpfs", "tmpfs-node1", "ext4-dax"), ()),
    gtest_suite("migration", "regions that follow a policy", "tiering_migration_test", ()),
    gtest_suite("policies", "unit tests of policies, which use no medium", "tiering_policy_test",
                (), ("tmpfs",)),
    gtest_suite("simulator", "unit tests of the trace simulator, which uses no medium",
                "tiersim_test", (), ("tmpfs",)),
    model_suite("region-model", "random region histories against an oracle",
                "region_model_test", 4),
    gtest_suite("epoch-model", "random histories of epochs against an oracle",
                "epoch_model_test", ()),
    Suite("torture", HOST, "threads and devices store while epochs are made; processes are killed",
          ("pcow-torture", "--seconds", "30"), ("tmpfs", "tmpfs-node1"), ()),
    # The kernel pins no mapping of DAX for long, so that io_uring registers no buffers there.
    Suite("torture", HOST, "the same without devices",
          ("pcow-torture", "--seconds", "30", "--no-device"), outer_vm.DAX_MEDIA, ()),
    qemu_suite("kvm", "dirty scan, demotion, promotion; the nested page table points at the image",
               ci_media=outer_vm.MEDIA, folder="lab"),
    qemu_suite("boot", "a guest fills its node; commit, demotion, reopening",
               ci_media=("tmpfs-node1",)),
    qemu_suite("crash", "QEMU is killed after and during a commit", outer_vm.DAX_MEDIA),
    qemu_suite("dma", "a disk stores into the node during commits and demotions",
               outer_vm.DAX_MEDIA),
    # On plain tmpfs it would repeat what it does on that of node 1.
    qemu_suite("epoch", "QEMU is killed while epochs are made; a disk stores meanwhile",
               ("tmpfs-node1",) + outer_vm.DAX_MEDIA),
    qemu_suite("snapshot", "snapshots of a running guest's nodes, and what they hold",
               outer_vm.DAX_MEDIA),
    qemu_suite("policy", "a policy demotes and promotes what a guest uses", outer_vm.DAX_MEDIA),
    qemu_suite("torture", "the same in a guest, with policies, snapshots and commits",
               outer_vm.DAX_MEDIA),
    qemu_suite("exit", "every orderly end of QEMU saves the node", ("tmpfs-node1", "ext4-dax")),
)

# Not run like the others (power_cut.py).
POWER_CUT = Suite("power-cut", GUEST, "the lab is killed while a guest commits; the next boot "
                  "checks what had been acknowledged", (), outer_vm.DAX_MEDIA)

ALL = tuple(Test(suite, medium) for suite in SUITES for medium in suite.media)


def names_of(test):
    """All that a test can be called by on the command line."""
    kind = {HOST: "host", GUEST: "guest"}[test.suite.accelerator]
    names = {"all", kind, test.name, test.suite.name, "@" + test.medium}
    if test.medium in test.suite.ci_media:
        names |= {"ci", "ci-" + kind}
    return names


def select(patterns):
    """Tests that one of the patterns is a name of, in the order of ALL."""
    known = set().union(*map(names_of, ALL))
    unknown = [pattern for pattern in patterns if pattern not in known]
    if unknown:
        raise ValueError(f"no such test: {', '.join(unknown)}; 'lab list' lists suites and media, "
                         "'lab run --help' says what else is a name (power-cut takes no medium)")
    return [test for test in ALL if names_of(test) & set(patterns)]
