"""The steps of scripts/demo. Argument: the build directory."""

import os
import subprocess
import sys
import tempfile

import vm

IMAGE_MIB = 4096
DRAM_MIB = 128
FILL_MIB = 128
SEED = 4711


class Demo:
    def __init__(self, build, directory):
        self._bin = os.path.join(build, "bin")
        self._memfill = os.path.join(build, "guest", "memfill")
        self._directory = directory
        self._image = self.path("node1.pcow")

    def path(self, name):
        return os.path.join(self._directory, name)

    def tool(self, *command, only=("",)):
        """Runs a program of the build, shows the command and what it prints, insists on success.

        only: of the lines, those that begin like this; dots stand for the others.
        """
        shown = " ".join(os.path.basename(word) for word in command)
        print(f"$ {shown}", flush=True)
        done = subprocess.run([os.path.join(self._bin, command[0]), *command[1:]],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False)
        lines = done.stdout.rstrip().splitlines()
        shown = lines if done.returncode != 0 else [
            line for line in lines if line.strip().startswith(tuple(only))]
        for line in shown:
            print("  " + line.replace(self._directory + "/", ""))
        if len(shown) < len(lines):
            print("  ...")
        if done.returncode != 0:
            raise vm.VmError(f"{command[0]} ended with exit status {done.returncode}")

    def guest(self, machine, command):
        print(f"guest# {command}", flush=True)
        status, output = machine.run(command)
        for line in output:
            print("  " + line)
        if status != 0:
            raise vm.VmError(f"the guest's command ended with exit status {status}")

    def run_guest(self):
        kernel = vm.guest_kernel()
        vm.make_initramfs(self.path("initramfs.gz"), [self._memfill])
        monitor = self.path("qmp")
        arguments = vm.node_arguments(self._image, IMAGE_MIB, DRAM_MIB)
        arguments += ["-qmp", f"unix:{monitor},server=on,wait=off"]
        print("$ qemu-system-x86_64 ... " + " ".join(arguments[-6:-2]).replace(
            self._directory + "/", ""), flush=True)
        with vm.Vm(os.path.join(self._bin, "qemu-system-x86_64"), self._directory, arguments,
                   kernel, self.path("initramfs.gz")) as machine:
            print(f"  booted in {machine.wait_for_guest():.0f} s "
                  f"({os.environ.get('PCOW_ACCEL', 'TCG, no KVM')})")
            self.guest(machine, "uname -sr; grep -h MemTotal /sys/devices/system/node/*/meminfo")
            self.guest(machine, f"memfill --node 1 --size {FILL_MIB}M --seed {SEED}")
            self.tool("tierctl", "commit", "--qmp", monitor)
            self.tool("tierctl", "status", "--qmp", monitor, only=(
                "node", "virtual size", "allocated", "DRAM", "dirty", "chunks", "mappings"))
            machine.run("poweroff -f &")
            status = machine.wait()
            if status != 0:
                raise vm.VmError(f"QEMU ended with exit status {status}\n{machine.stderr()}")
            print("guest powered off, QEMU ended with exit status 0")

    def run(self):
        self.tool("pcow-img", "create", self._image, f"{IMAGE_MIB}M")
        self.run_guest()
        self.tool("pcow-img", "info", self._image, only=(
            "image", "virtual size", "disk size", "committed epoch", "allocated"))
        self.tool("pcow-img", "check", self._image)
        self.tool("pattern_check", "--seed", str(SEED), "--pages",
                  str(FILL_MIB * 256), self._image)


def main():
    vm.exit_on_signals()
    with tempfile.TemporaryDirectory(prefix="pcow-demo.") as directory:
        try:
            Demo(sys.argv[1], directory).run()
        except vm.VmError as error:
            print(f"demo: failed: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    print("demo: ok, every page that the guest wrote is in the image")
    return 0


if __name__ == "__main__":
    sys.exit(main())
