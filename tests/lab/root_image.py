"""Makes the root file system of the lab VM: programs of this machine's Debian packages with the
libraries they load, the guest kernel with its modules, and this build's binaries.

One ext4 image, made without privileges and without mounting anything. It is kept in the cache under
a digest of everything in it, and booted read-only, so that several labs can share it.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile

import harness

vm = harness.vm

# By name; each comes with the shared libraries that it needs.
PROGRAMS = ("bash busybox cpio gzip xz kmod python3 ndctl daxctl numactl mke2fs e2fsck mkfs.xfs "
            "xfs_info fio setpriv").split()
# What a program is called by: name -> program.
LINKS = {"modprobe": "kmod", "insmod": "kmod", "lsmod": "kmod", "mkfs.ext4": "mke2fs"}
# Parts of Python's library that the lab does not import.
PYTHON_WITHOUT = ("dist-packages", "config-*", "idlelib", "ensurepip", "lib2to3", "tkinter",
                  "turtledemo", "test", "pydoc_data", "distutils")
SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Where things are inside the lab.
BUILD = "/pcow/build"
REPO = "/pcow/repo"
CACHE = "/pcow/cache"
SLACK_MIB = 64
KEEP_IMAGES = 2

_held = []


class RootTree:
    """A directory that becomes the root file system."""

    def __init__(self, root):
        self.root = root
        self._done = set()
        for name in ("bin", "sbin", "lib", "lib64"):
            os.makedirs(self.path("usr/" + name))
            os.symlink("usr/" + name, self.path(name))
        for name in ("dev", "proc", "sys", "tmp", "run", "media", "root", "etc", "pcow"):
            os.makedirs(self.path(name))

    def path(self, name):
        return os.path.join(self.root, name.lstrip("/"))

    def add_file(self, source, name, strip=False):
        target = self.path(name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if strip:
            subprocess.run(["strip", "-g", "-o", target, source], check=True)
        else:
            shutil.copy2(source, target)

    def add_libraries(self, program):
        """What the dynamic loader would load for a program or a library."""
        done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
        if "not found" in done.stdout:
            raise vm.VmError(f"{program} lacks a library:\n{done.stdout}")
        for library in re.findall(r"(/\S+) \(0x", done.stdout):
            if library in self._done or library.startswith(os.path.realpath(harness.BUILD)):
                continue
            self._done.add(library)
            self.add_file(os.path.realpath(library), library)

    def add_program(self, name):
        source = shutil.which(name, path=SEARCH)
        if source is None:
            raise vm.VmError(f"this machine has no {name}: run scripts/setup")
        self.add_file(os.path.realpath(source), "/usr/bin/" + name)
        self.add_libraries(source)

    def link(self, name, target):
        if not os.path.lexists(self.path(name)):
            os.symlink(target, self.path(name))


def add_python(tree):
    """The standard library of the Python that Debian packages, whatever runs this script."""
    code = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    done = subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, text=True,
                          check=True)
    library = done.stdout.strip()
    shutil.copytree(library, tree.path(library), symlinks=False, ignore_dangling_symlinks=True,
                    ignore=shutil.ignore_patterns(*PYTHON_WITHOUT))
    extensions = os.path.join(library, "lib-dynload")
    for name in sorted(os.listdir(extensions)):
        tree.add_libraries(os.path.join(extensions, name))


def add_packages(tree):
    for name in PROGRAMS:
        tree.add_program(name)
    for name, target in LINKS.items():
        tree.link("/usr/bin/" + name, target)
    add_python(tree)
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True)
    for name in applets.stdout.split():
        tree.link("/usr/bin/" + name, "busybox")


def add_kernel(tree):
    """Where scripts/lib looks for it, and where modprobe does."""
    kernel = vm.guest_kernel()
    target = f"{CACHE}/pcow/kernel/current"
    tree.add_file(os.path.join(kernel, "vmlinuz"), target + "/vmlinuz")
    shutil.copytree(os.path.join(kernel, "lib/modules"), tree.path(target + "/lib/modules"))
    tree.link("/usr/lib/modules", target + "/lib/modules")


def is_elf(path):
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def add_build(tree):
    """Programs, shared libraries and firmware, at the same places relative to each other."""
    for folder in ("bin", "lib", "lib/data-after-record", "guest"):
        source = harness.built(folder)
        for name in sorted(os.listdir(source)):
            path = os.path.join(source, name)
            if name.endswith(".a"):
                continue
            if os.path.islink(path):
                os.makedirs(tree.path(f"{BUILD}/{folder}"), exist_ok=True)
                tree.link(f"{BUILD}/{folder}/{name}", os.readlink(path))
            elif is_elf(path):
                tree.add_file(path, f"{BUILD}/{folder}/{name}", strip=True)
                tree.add_libraries(path)
    shutil.copytree(harness.built("share", "qemu"), tree.path(BUILD + "/share/qemu"))


def add_repository(tree):
    """The scripts that tests inside the lab are made of."""
    for folder in ("scripts/lib", "tests/qemu", "tests/lab"):
        shutil.copytree(os.path.join(harness.ROOT, folder), tree.path(f"{REPO}/{folder}"),
                        ignore=shutil.ignore_patterns("__pycache__", "*.cc", "*.h"))


def make_tree(root):
    tree = RootTree(root)
    add_packages(tree)
    add_kernel(tree)
    add_build(tree)
    add_repository(tree)
    with open(tree.path("/etc/passwd"), "w", encoding="ascii") as file:
        file.write("root:x:0:0:root:/root:/bin/bash\n")
    return tree


def measure(root):
    """(digest, bytes) of a tree: names, kinds and content."""
    digest = hashlib.sha256()
    total = 0
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files + [f for f in folders if os.path.islink(f"{folder}/{f}")]):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            digest.update(f"{os.path.relpath(path, root)}\0{status.st_mode}\0".encode())
            if stat.S_ISLNK(status.st_mode):
                digest.update(os.readlink(path).encode())
                continue
            total += status.st_size + 4096
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:16], total


def make_image(root, size, output):
    new = os.path.join(os.path.dirname(output), f"new-{os.getpid()}.ext4")
    mib = (size >> 20) * 9 // 8 + SLACK_MIB
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-O", "^has_journal",
               "-E", "root_owner=0:0,lazy_itable_init=1", "-d", root, new, f"{mib}M"]
    environment = dict(os.environ, PATH=SEARCH)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              env=environment)
        if done.returncode != 0:
            raise vm.VmError(f"mke2fs cannot make the root file system of the lab: {done.stderr}")
        os.rename(new, output)
    finally:  # also when interrupted
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)


def drop_old(folder, keep):
    """All but the newest and those in use; what was being made when it was cut off.

    REQUIRES: the folder's lock.
    """
    for name in os.listdir(folder):
        if name.startswith("new-"):
            os.unlink(os.path.join(folder, name))
    images = sorted((os.path.join(folder, name) for name in os.listdir(folder)
                     if name.startswith("root-")), key=os.path.getmtime, reverse=True)
    for path in images[KEEP_IMAGES:]:
        if path == keep:
            continue
        with contextlib.suppress(FileNotFoundError, BlockingIOError), open(path, "rb") as image:
            fcntl.flock(image, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)


def hold(path):
    """Keeps an image from being dropped as long as this process lives."""
    image = open(path, "rb")  # noqa: SIM115  pylint: disable=consider-using-with
    fcntl.flock(image, fcntl.LOCK_SH)
    _held.append(image)


@functools.cache
def root_image():
    """Path of the image for the present build, made if the cache does not have it."""
    folder = os.path.join(vm.cache_dir(), "lab")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with tempfile.TemporaryDirectory(prefix="pcow-lab-root.") as scratch:
            root = os.path.join(scratch, "root")
            make_tree(root)
            key, size = measure(root)
            output = os.path.join(folder, f"root-{key}.ext4")
            if not os.path.exists(output):
                make_image(root, size, output)
            os.utime(output)
            hold(output)
        drop_old(folder, output)
    return output
