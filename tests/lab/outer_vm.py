"""The lab VM: an emulated machine that has what the development machine lacks.

    processor    AMD SVM with nested paging, so that KVM inside is the real one
    node 0       DRAM and both CPUs
    node 1       memory without a CPU, as CXL memory appears
    /dev/pmem0   NVDIMM, fsdax, ext4 with dax=always
    /dev/pmem1   NVDIMM, fsdax, xfs with reflink=1 and dax=always

It boots the guest kernel from the cache; its root file system is root_image.py's, read-only. Commands
run one at a time on its second serial port. What is on the NVDIMMs is in two files of the caller's and
outlives the VM, as on a machine that loses power.
"""

import os
import shlex
import shutil
import time

import harness
import root_image

vm = harness.vm

MEDIA = ("tmpfs", "tmpfs-node1", "ext4-dax", "xfs-dax")
DAX_MEDIA = ("ext4-dax", "xfs-dax")
NODE0_MIB = 3072
NODE1_MIB = 1536
NVDIMM_MIB = 1024


def make_nvdimms(directory):
    """The two backing files, empty and sparse."""
    paths = [os.path.join(directory, f"nvdimm{i}") for i in range(2)]
    for path in paths:
        with open(path, "wb") as file:
            file.truncate(NVDIMM_MIB << 20)
    return paths


def machine_arguments(nvdimms, root):
    arguments = [
        "-machine", "nvdimm=on", "-cpu", "max,+svm,+npt", "-smp", "2",
        "-m", f"{NODE0_MIB + NODE1_MIB}M,slots=4,maxmem=16G",
        "-object", f"memory-backend-ram,id=m0,size={NODE0_MIB}M",
        "-numa", "node,nodeid=0,memdev=m0,cpus=0-1",
        "-object", f"memory-backend-ram,id=m1,size={NODE1_MIB}M",
        "-numa", "node,nodeid=1,memdev=m1",
        "-drive", f"if=none,id=root,format=raw,readonly=on,file={root}",
        "-device", "virtio-blk-pci,drive=root",
    ]
    for index, path in enumerate(nvdimms):
        arguments += ["-object", f"memory-backend-file,id=nv{index},mem-path={path},"
                      f"size={NVDIMM_MIB}M,share=on",
                      "-device", f"nvdimm,id=nvdimm{index},memdev=nv{index}"]
    return arguments


class OuterVm:
    """A running lab; a context manager. directory: for sockets and logs, the caller's."""

    def __init__(self, directory, nvdimms, serials=()):
        self.directory = directory
        initramfs = os.path.join(directory, "outer-initramfs.gz")
        if not os.path.exists(initramfs):
            vm.make_initramfs(initramfs, modules=["virtio_blk"])
        arguments = machine_arguments(nvdimms, root_image.root_image())
        os.environ.pop("PCOW_ACCEL", None)  # it is for guests inside
        self.machine = vm.Vm(harness.built("bin", "qemu-system-x86_64"), directory,
                             arguments, vm.guest_kernel(), initramfs, serials)
        self.boot_seconds = 0.0

    def boot(self, wipe=True):
        """Boots and mounts. wipe: make new file systems on the NVDIMMs."""
        begin = time.monotonic()
        self.machine.wait_for_guest()
        self.boot_seconds = time.monotonic() - begin
        steps = ["mount -o ro /dev/vda /mnt", "mount --rbind /dev /mnt/dev",
                 "mount -t proc proc /mnt/proc", "mount -t sysfs sysfs /mnt/sys",
                 "mount -t tmpfs tmpfs /mnt/tmp", "mount -t tmpfs tmpfs /mnt/run",
                 "mount -t tmpfs tmpfs /mnt/media",
                 f"chroot /mnt {root_image.REPO}/tests/lab/inside/mount-media "
                 f"{'wipe' if wipe else 'keep'}"]
        status, output = self.machine.run("mkdir -p /mnt && " + " && ".join(steps))
        if status != 0:
            raise vm.VmError("the lab cannot mount its media:\n" + "\n".join(output) + "\n"
                             + self.machine.console_tail())

    def run(self, medium, command, seconds, on_line=None):
        """Runs a program of the lab with a medium as its place for files.

        Returns (exit status, output lines).
        """
        line = " ".join(shlex.quote(word) for word in command)
        return self.machine.run(
            f"chroot /mnt {root_image.REPO}/tests/lab/inside/run-on {medium} {line}",
            seconds, on_line)

    def keep_console(self, name):
        """Where the console log of a lab that hangs is found later."""
        if not os.path.exists(self.machine.console_log):
            return "none"
        kept = os.path.join(harness.BUILD, f"lab-console.{name}.log")
        shutil.copyfile(self.machine.console_log, kept)
        return kept

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.machine.__exit__(*exc_info)
