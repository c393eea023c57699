"""What the tests in this directory share. Each is a unittest program that CTest runs."""

import ctypes
import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("PCOW_BUILD_DIR", os.path.join(ROOT, "build"))
sys.path.insert(0, os.path.join(ROOT, "scripts", "lib"))

import vm  # noqa: E402  pylint: disable=wrong-import-position

NODE_MIB = 1024
PAGE = 4096
CLONE_NEWNS = 0x20000


def built(*parts):
    """A file of the build; that it is missing is a failure, not a reason to skip."""
    path = os.path.join(BUILD, *parts)
    if not os.path.exists(path):
        raise AssertionError(f"{path} is missing: run scripts/setup, then cmake --build {BUILD}")
    return path


def pages_of(mib):
    return mib * (1 << 20) // PAGE


def boot(*arguments):
    """A Vm (its arguments) whose guest has booted."""
    machine = vm.Vm(*arguments)
    try:
        machine.wait_for_guest()
    except BaseException:
        machine.__exit__()
        raise
    return machine


class SmallMedium:
    """A tmpfs to run out of, mounted where nothing outside of this program sees it. Needs root."""

    def __init__(self, directory, mib):
        self._directory = directory
        self._filler = os.path.join(directory, "filler")
        os.mkdir(directory)
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
            raise AssertionError("cannot make a mount namespace: "
                                 f"{os.strerror(ctypes.get_errno())} (this test needs root)")
        # In a chroot / need not be a mount point; then nothing is shared with it either.
        subprocess.run(["mount", "--make-rprivate", "/"], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}M", "none", directory],
                       check=True)

    def fill(self):
        with open(self._filler, "wb", buffering=0) as filler:
            try:
                while filler.write(bytes(PAGE)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self):
        os.unlink(self._filler)

    def unmount(self):
        subprocess.run(["umount", "-l", self._directory], check=True)


class QemuTest(unittest.TestCase):
    """Gives every test a directory of its own, an image in it, and the programs."""

    def setUp(self):
        self._temporary = tempfile.TemporaryDirectory(prefix="pcow-test.")
        self.addCleanup(self._temporary.cleanup)
        self.directory = self._temporary.name
        self.qemu = built("bin", "qemu-system-x86_64")
        self.image = self.path("node.pcow")
        self._monitor = self.path("monitor")
        # What start() has to be given for tierctl().
        self.monitor_arguments = ["-qmp", f"unix:{self._monitor},server=on,wait=off"]

    def path(self, name):
        return os.path.join(self.directory, name)

    def tool(self, name, *arguments, ok=True):
        done = subprocess.run([built("bin", name), *arguments], capture_output=True, text=True,
                              check=False, timeout=300)
        if ok and done.returncode != 0:
            self.fail(f"{name} {' '.join(arguments)}: exit status {done.returncode}\n"
                      f"{done.stdout}{done.stderr}")
        return done

    def tierctl(self, *arguments, ok=True):
        return self.tool("tierctl", *arguments, "--qmp", self._monitor, ok=ok)

    def create_image(self, mib=NODE_MIB, path=None):
        self.tool("pcow-img", "create", "-q", path or self.image, f"{mib}M")

    def expect_pattern(self, seed, mib, image=None):
        done = subprocess.run([built("bin", "pattern_check"), "--seed", str(seed), "--pages",
                               str(pages_of(mib)), image or self.image],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def newest_seed(self, seed, last_seed, pages, snapshot=None, image=None):
        """The image, or what a snapshot keeps, is one moment of the fills; the newest of them."""
        done = subprocess.run(
            [built("bin", "pattern_check"), "--seed", str(seed), "--last-seed", str(last_seed),
             "--instant", "--pages", str(pages), *(("--snapshot", snapshot) if snapshot else ()),
             image or self.image], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, f"{snapshot or ''} {done.stdout}{done.stderr}")
        return int(re.search(r"newest_seed=(\d+)", done.stdout)[1])

    def make_disk(self, mib, seed):
        """A disk with memfill's pattern. memfill wants to see its pages on a node, so not on DAX."""
        disk = self.path("disk")
        with tempfile.TemporaryDirectory(prefix="pcow-test.", dir="/tmp") as directory:
            made = os.path.join(directory, "disk")
            subprocess.run([built("guest", "memfill"), "--node", "0", "--size", f"{mib}M", "--seed",
                            str(seed), "--file", made], check=True, stdout=subprocess.DEVNULL)
            shutil.copyfile(made, disk)
        return disk

    def expect_sound(self, image=None):
        self.tool("pcow-img", "check", "-q", image or self.image)

    def start(self, arguments, guest=False, modules=()):
        """A Vm that is cleaned up with the test; with a guest, it has booted."""
        if guest:
            initramfs = self.path("initramfs.gz")
            vm.make_initramfs(initramfs, [built("guest", "memfill")], modules)
            machine = boot(self.qemu, self.directory, arguments, vm.guest_kernel(), initramfs)
        else:
            machine = vm.Vm(self.qemu, self.directory, arguments)
        self.addCleanup(machine.__exit__)
        return machine

    def start_guest(self, options="", extra=(), modules=(), dram_mib=None):
        arguments = vm.node_arguments(self.image, NODE_MIB, dram_mib, options=options)
        return self.start([*arguments, *extra], guest=True, modules=modules)

    def guest_ok(self, machine, command):
        status, output = machine.run(command)
        self.assertEqual(status, 0, f"{command}\n" + "\n".join(output))
        return output

    def refused(self, arguments):
        """Runs QEMU with arguments that it must refuse; returns its message."""
        done = subprocess.run(
            [self.qemu, "-accel", "tcg", "-machine", "q35", "-nodefaults", "-display", "none",
             "-S", *arguments],
            capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 1, f"{arguments} was not refused\n{done.stderr}")
        return done.stderr


def main():
    unittest.main(verbosity=2)
