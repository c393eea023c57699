"""What memory-backend-pcow refuses: options and images. No guest runs here."""

import hashlib
import os

import harness


class Options(harness.QemuTest):
    def backend(self, options="", path=None, mib=harness.NODE_MIB):
        return ["-object", "memory-backend-pcow,id=pm0,"
                f"mem-path={path or self.image},size={mib}M{options}"]

    def digest(self, path=None):
        with open(path or self.image, "rb") as file:
            return hashlib.sha256(file.read(1 << 20)).hexdigest()

    def test_option_values(self):
        """Each refusal names the option and its value."""
        self.create_image()
        before = self.digest()
        for option, expected in [
                ("share=on", ["share=on"]),
                ("merge=on", ["merge=on"]),
                ("prealloc=on", ["prealloc=on"]),
                ("prealloc-threads=2", ["prealloc-threads"]),
                ("reserve=on", ["reserve=on"]),
                ("dram-size=0", ["dram-size"]),
                ("epoch-max-ms=5", ["epoch", "persistence=epoch"]),
                ("persistence=epoch,epoch-min-ms=0", ["epoch-min-ms"]),
                ("persistence=epoch,epoch-max-ms=0", ["epoch-max-ms"]),
                ("persistence=epoch,epoch-min-ms=50,epoch-max-ms=20", ["20", "50"]),
                ("persistence=epoch,epoch-overhead=0", ["epoch-overhead"]),
                ("persistence=epoch,epoch-overhead=1001", ["epoch-overhead", "1001"]),
                ("persistence=direct", ["persistence", "direct"]),
                ("persistence=never", ["persistence", "never"]),
                ("tier-policy=static", ["tier-policy", "static"]),
                ("tier-policy=age", ["tier-policy", "age"]),
                ("tier-policy=heat", ["tier-policy", "heat"]),
                ("tier-policy=cmq", ["tier-policy", "cmq"]),
                ("tier-policy=lru", ["tier-policy", "lru"]),
                ("policy=bind", ["host-nodes"]),
                ("nonsense=1", ["nonsense"]),
        ]:
            with self.subTest(option=option):
                message = self.refused(self.backend("," + option))
                for word in expected:
                    self.assertIn(word, message)
        self.assertEqual(self.digest(), before, "a refused option has modified the image")

    def test_mem_path_missing(self):
        message = self.refused(["-object", "memory-backend-pcow,id=pm0,size=64M"])
        self.assertIn("mem-path", message)

    def test_global_options(self):
        self.create_image()
        self.assertIn("-mem-prealloc", self.refused(["-mem-prealloc", *self.backend()]))
        self.assertIn("-incoming", self.refused(["-incoming", "defer", *self.backend()]))
        self.assertIn("only-migratable", self.refused(["-only-migratable", *self.backend()]))
        for value in ("on", "on-fault"):
            self.assertIn("mem-lock",
                          self.refused(["-overcommit", f"mem-lock={value}", *self.backend()]))

    def test_image_missing(self):
        message = self.refused(self.backend())
        self.assertIn(self.image, message)
        self.assertFalse(os.path.exists(self.image))

    def test_wrong_size(self):
        self.create_image()
        message = self.refused(self.backend(mib=harness.NODE_MIB // 2))
        self.assertIn("size", message)
        self.assertIn("node.pcow", message)

    def test_foreign_file(self):
        foreign = self.path("disk.qcow2")
        self.tool("qemu-img", "create", "-q", "-f", "qcow2", foreign, "64M")
        before = self.digest(foreign)
        self.assertIn(foreign, self.refused(self.backend(path=foreign, mib=64)))
        self.assertEqual(self.digest(foreign), before)

    def test_image_in_use(self):
        """The message names the process that holds the image."""
        self.create_image()
        machine = self.start(["-S", *self.backend()])
        message = self.refused(self.backend())
        self.assertIn("node.pcow", message)
        self.assertIn(str(machine.process.pid), message)
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()

    def test_change_at_run_time(self):
        self.create_image()
        machine = self.start(["-S", *self.backend()])
        for name, value in [("merge", True), ("prealloc", True), ("share", True), ("dump", False),
                            ("dram-size", 1 << 20), ("mem-path", "x"), ("tier-policy", "off"),
                            ("persistence", "volatile"), ("mapping-budget", 5)]:
            reply = machine.qmp.request("qom-set", path="/objects/pm0", property=name, value=value)
            self.assertIn("error", reply, name)
            self.assertIn(name, reply["error"]["desc"])
        self.assertEqual(machine.quit(), 0, machine.stderr())

    def test_migration_is_refused(self):
        self.create_image()
        machine = self.start(["-S", *self.backend()])
        reply = machine.qmp.request("migrate", uri="exec:cat >/dev/null")
        self.assertIn("pm0", reply["error"]["desc"])
        self.assertEqual(machine.quit(), 0, machine.stderr())


if __name__ == "__main__":
    harness.main()
