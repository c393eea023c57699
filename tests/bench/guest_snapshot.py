#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How long a snapshot stops a guest: 'tierctl snapshot create' of a node on pcow against savevm of the
same guest with the node in DRAM. Not a test: figures, and their ratio."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "qemu"))

import harness  # noqa: E402  pylint: disable=wrong-import-position
from held_memfill import HeldMemfill  # noqa: E402  pylint: disable=wrong-import-position

EPOCHS = ",persistence=epoch"
NODE0_MIB = 512
KERNEL_MIB = 256  # of the node, for the guest's kernel
MS = 1e6


def event_time_us(reply):
    return reply["timestamp"]["seconds"] * 10**6 + reply["timestamp"]["microseconds"]


class Guest:
    """One with most of its node filled."""

    def __init__(self, directory, name, arguments, node_mib):
        self.directory = os.path.join(directory, name)
        os.mkdir(self.directory)
        initramfs = os.path.join(directory, "initramfs.gz")
        if not os.path.exists(initramfs):
            harness.vm.make_initramfs(initramfs, [harness.built("guest", "memfill")])
        self.machine = harness.boot(harness.built("bin", "qemu-system-x86_64"), self.directory,
                                    arguments, harness.vm.guest_kernel(), initramfs)
        self.pages = harness.pages_of(node_mib - KERNEL_MIB)
        self.held = HeldMemfill(self.machine, self.pages)
        self.held.start(1)
        assert self.held.finish() == self.pages

    def snapshots_ns(self, count, storing):
        """While it does nothing, or stores to its pages one after the other."""
        pauses = []
        for number in range(count):
            if storing:
                self.held.begin(f"fill {number + 2}")
                time.sleep(1)
            pauses.append(self.snapshot_ns(f"s{number}"))
            if storing:
                assert self.held.finish() == self.pages
        return pauses


class PcowGuest(Guest):
    def __init__(self, directory, node_mib):
        image = os.path.join(directory, "node.pcow")
        subprocess.run([harness.built("bin", "pcow-img"), "create", "-q", image, f"{node_mib}M"],
                       check=True)
        self.monitor = os.path.join(directory, "monitor")
        arguments = harness.vm.node_arguments(image, node_mib, node0_mib=NODE0_MIB, options=EPOCHS)
        super().__init__(directory, "pcow",
                         [*arguments, "-qmp", f"unix:{self.monitor},server=on,wait=off"], node_mib)

    def snapshot_ns(self, name):
        done = subprocess.run(
            [harness.built("bin", "tierctl"), "snapshot", "create", "--qmp", self.monitor,
             "--output", "json", name], check=True, capture_output=True, text=True)
        return json.loads(done.stdout)[0]["pause-ns"]


class DramGuest(Guest):
    def __init__(self, directory, node_mib):
        disk = os.path.join(directory, "disk.qcow2")
        subprocess.run([harness.built("bin", "qemu-img"), "create", "-q", "-f", "qcow2", disk, "1G"],
                       check=True)
        super().__init__(directory, "dram", [
            "-smp", "2", "-m", f"{NODE0_MIB + node_mib}M",
            "-object", f"memory-backend-ram,id=m0,size={NODE0_MIB}M",
            "-numa", "node,nodeid=0,memdev=m0,cpus=0-1",
            "-object", f"memory-backend-ram,id=m1,size={node_mib}M",
            "-numa", "node,nodeid=1,memdev=m1",
            "-drive", f"if=virtio,file={disk},format=qcow2"], node_mib)

    def snapshot_ns(self, name):
        """savevm stops the guest, from the event STOP to RESUME."""
        qmp = self.machine.qmp
        times = {}
        note = qmp._note  # pylint: disable=protected-access
        qmp._note = lambda reply: times.setdefault(reply["event"], event_time_us(reply))
        failure = qmp.execute("human-monitor-command", command_line=f"savevm {name}").strip()
        qmp.drain()
        qmp._note = note
        if failure or not {"STOP", "RESUME"} <= set(times):
            raise harness.vm.VmError(f"savevm: {failure or times}")
        return (times["RESUME"] - times["STOP"]) * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node-mib", type=int, default=2048, help="at least 512")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--storing", action="store_true", help="a guest that stores all the time")
    options = parser.parse_args()
    accelerator = re.match("[a-z]+", os.environ.get("PCOW_ACCEL", "tcg")).group()
    with tempfile.TemporaryDirectory(prefix="pcow-bench.", dir="/dev/shm") as directory:
        pauses = {}
        for guest_type, peer in ((PcowGuest, "tierctl snapshot"), (DramGuest, "savevm")):
            guest = guest_type(directory, options.node_mib)
            try:
                pauses[peer] = guest.snapshots_ns(options.count, options.storing)
            finally:
                guest.machine.__exit__()
    for name, values in pauses.items():
        print(f"{name}: guest stopped for " +
              ", ".join(f"{value / MS:.2f}" for value in values) + " ms")
    ours, theirs = (statistics.median(values) for values in pauses.values())
    print(f"RESULT ok mode={accelerator} node_mib={options.node_mib} storing={options.storing} "
          f"median_ms={ours / MS:.2f} savevm_median_ms={theirs / MS:.2f} "
          f"ratio={ours / theirs:.5f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
