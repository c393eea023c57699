"""Devices on pcow memory and next to it, plugged before and after. No guest runs here."""

import os
import socket
import struct
import threading

import harness

SLOTS = ["-m", "512M,slots=4,maxmem=8G"]


class VhostUserBackEnd:
    """As much of a vhost-user back end as QEMU needs to create the device."""

    GET_FEATURES = 1
    FEATURES = 1 << 32  # VIRTIO_F_VERSION_1
    REPLY = 0x5  # version 1, this is a reply

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen(8)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                connection = self._socket.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection):
        with connection:
            while True:
                header = connection.recv(12, socket.MSG_WAITALL)
                if len(header) < 12:
                    return
                request, _, size = struct.unpack("<III", header)
                if size:
                    connection.recv(size, socket.MSG_WAITALL)
                if request == self.GET_FEATURES:
                    connection.sendall(struct.pack("<IIIQ", request, self.REPLY, 8, self.FEATURES))

    def close(self):
        # accept() in the other thread only ends by this.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Devices(harness.QemuTest):
    def setUp(self):
        super().setUp()
        self.create_image()
        self.backend = {"qom_type": "memory-backend-pcow", "id": "pm0", "mem_path": self.image,
                        "size": harness.NODE_MIB << 20}
        self.backend_option = ["-object", "memory-backend-pcow,id=pm0,"
                               f"mem-path={self.image},size={harness.NODE_MIB}M"]

    def test_memory_of_other_devices(self):
        for device in ["nvdimm", "virtio-mem-pci", "ivshmem-plain"]:
            with self.subTest(device=device):
                message = self.refused([*SLOTS, "-machine", "nvdimm=on", *self.backend_option,
                                        "-device", f"{device},memdev=pm0"])
                self.assertIn("pm0", message)
                self.assertIn("-numa node,memdev=pm0", message)
        self.expect_sound()

    def test_flushes_need_epochs(self):
        message = self.refused([*SLOTS, *self.backend_option,
                                "-device", "virtio-pmem-pci,memdev=pm0"])
        self.assertIn("persistence=epoch", message)
        self.expect_sound()

    def test_hotplugged_nvdimm(self):
        machine = self.start([*SLOTS, "-machine", "nvdimm=on", *self.backend_option])
        reply = machine.qmp.request("device_add", driver="nvdimm", id="d0", memdev="pm0")
        self.assertIn("pm0", reply["error"]["desc"])
        self.assertEqual(machine.quit(), 0, machine.stderr())

    def test_hotplug_of_everything(self):
        """object-add, a pc-dimm on it, and object-del of an unused one; the image is free again."""
        machine = self.start([*SLOTS])
        for _ in range(2):
            machine.qmp.execute("object-add", **self.backend)
            self.assertEqual(len(machine.qmp.execute("query-pcow")), 1)
            machine.qmp.execute("object-del", id="pm0")
            self.assertEqual(machine.qmp.execute("query-pcow"), [])
            self.expect_sound()
        machine.qmp.execute("object-add", **self.backend, persistence="epoch", epoch_min_ms=10)
        machine.qmp.execute("pcow-commit")
        machine.qmp.execute("object-del", id="pm0")
        self.expect_sound()
        machine.qmp.execute("object-add", **self.backend)
        machine.qmp.execute("device_add", driver="pc-dimm", id="d0", memdev="pm0")
        reply = machine.qmp.request("object-del", id="pm0")
        self.assertIn("in use", reply["error"]["desc"])
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()

    def test_failed_object_add_leaves_nothing(self):
        machine = self.start([*SLOTS])
        wrong = dict(self.backend, size=(harness.NODE_MIB // 2) << 20)
        self.assertIn("error", machine.qmp.request("object-add", **wrong))
        machine.qmp.execute("object-add", **self.backend)
        self.assertEqual(machine.quit(), 0, machine.stderr())

    def vhost_user_device(self):
        """Options for a hot-pluggable port and a back end, and the device to plug."""
        path = self.path("vhost")
        back_end = VhostUserBackEnd(path)
        self.addCleanup(back_end.close)
        return (["-device", "pcie-root-port,id=rp0", "-chardev", f"socket,id=v0,path={path}"],
                {"driver": "vhost-user-rng-pci", "id": "b0", "chardev": "v0", "bus": "rp0"})

    def expect_conflict(self, reply):
        self.assertIn("error", reply)
        self.assertIn("a vhost-user device", reply["error"]["desc"])
        self.assertIn("memory-backend-pcow 'pm0'", reply["error"]["desc"])

    def test_vhost_user_after_the_memory(self):
        options, device = self.vhost_user_device()
        machine = self.start([*SLOTS, *self.backend_option, *options])
        self.expect_conflict(machine.qmp.request("device_add", **device))
        self.assertEqual(machine.quit(), 0, machine.stderr())

    def test_memory_after_vhost_user(self):
        options, device = self.vhost_user_device()
        machine = self.start([*SLOTS, *options])
        machine.qmp.execute("device_add", **device)
        self.expect_conflict(machine.qmp.request("object-add", **self.backend))
        self.assertEqual(machine.quit(), 0, machine.stderr())
        self.expect_sound()

    def test_balloon_goes_with_it_in_both_orders(self):
        machine = self.start([*SLOTS, *self.backend_option, "-device", "virtio-balloon-pci"])
        self.assertEqual(machine.quit(), 0)
        self.assertEqual(machine.stderr(), "")
        machine = self.start([*SLOTS, "-device", "virtio-balloon-pci"])
        machine.qmp.execute("object-add", **self.backend)
        self.assertEqual(machine.quit(), 0)
        self.assertEqual(machine.stderr(), "")

    def test_nothing_without_pcow_memory(self):
        """The same devices start as before when there is no such memory."""
        machine = self.start([*SLOTS, "-machine", "nvdimm=on",
                              "-object", "memory-backend-ram,id=r0,size=64M",
                              "-device", "nvdimm,memdev=r0",
                              "-device", "virtio-balloon-pci"])
        self.assertEqual(machine.qmp.execute("query-pcow"), [])
        self.assertEqual(machine.qmp.execute("pcow-commit"), [])
        self.assertEqual(machine.quit(), 0)
        self.assertEqual(machine.stderr(), "")

    def test_default_machine_finds_its_firmware(self):
        """No -L, no -nodefaults: BIOS, VGA BIOS and the network card's ROM are all there."""
        machine = self.start(["-device", "VGA", "-m", "128M", "-netdev", "user,id=n0",
                              "-device", "virtio-net-pci,netdev=n0"])
        self.assertEqual(machine.quit(), 0)
        self.assertEqual(machine.stderr(), "")
        self.assertTrue(os.path.exists(self.qemu))


if __name__ == "__main__":
    harness.main()
