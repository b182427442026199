"""Two machines on one: network namespaces with a wire between them, and a Ray cluster over them.

Ray listens on every interface of its machine, so nothing here is reachable from outside.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PORT = 6399
HEAD, SECOND = "10.77.0.1", "10.77.0.2"
STORE_PORT = 5999
# of the object store that `store.py` starts on the head
STORE = {
    "AWS_ENDPOINT_URL": f"http://{HEAD}:{STORE_PORT}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
}  # fmt: skip


def why_not() -> str | None:
    """What is missing for namespaces, None for nothing."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        return "needs Linux and its `ip` command (package iproute2)"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    probe = f"ng-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "this system allows no network namespaces"
    subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return None


class Hosts:
    """A head and a second node, of `cpus` each; a context. Every process in them ends with it."""

    def __init__(self, folder: Path, cpus: int = 1) -> None:
        self.folder, self.cpus = folder, cpus
        self.names = {HEAD: f"ng-a-{os.getpid()}", SECOND: f"ng-b-{os.getpid()}"}
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
        threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        # sockets have short names: the temporary folder of a test is too deep
        self.ray_folder = Path(f"/tmp/ng-ray-{os.getpid()}")
        # a machine of a cluster has nothing that a call sets for itself
        inherited = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
        self.environment = {**inherited, **own, **threads, **STORE, "RAY_TMPDIR": str(self.ray_folder)}

    def __enter__(self) -> Hosts:
        for number, (address, name) in enumerate(self.names.items()):
            self._ip("netns", "add", name)
            if number == 0:
                self._ip("link", "add", "ng0", "netns", name, "type", "veth", "peer", "ng1")
            else:
                self._ip("link", "set", "ng1", "netns", name)
            self._ip("-n", name, "addr", "add", f"{address}/24", "dev", f"ng{number}")
            self._ip("-n", name, "link", "set", f"ng{number}", "up")
            self._ip("-n", name, "link", "set", "lo", "up")
        self._ray(HEAD, "--head", f"--port={PORT}", "--include-dashboard=false")
        self.start_second()
        return self

    def __exit__(self, *_exc: object) -> None:
        for name in self.names.values():
            for pid in self._pids(name):
                _kill(pid)
            self._ip("netns", "del", name)
        shutil.rmtree(self.ray_folder, ignore_errors=True)

    def start_second(self) -> None:
        """The second machine joins the cluster, for the first time or again."""
        self._ray(SECOND, f"--address={HEAD}:{PORT}")

    def start(self, *command: object, host: str = HEAD) -> subprocess.Popen[str]:
        """A Python command on a machine, in the background; its output is kept for `communicate`."""
        words = ["ip", "netns", "exec", self.names[host], sys.executable, *map(str, command)]
        return subprocess.Popen(
            words, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )  # fmt: skip

    def run(self, *command: object, host: str = HEAD, timeout: float = 300) -> tuple[int, str, str]:
        """Exit code and what was said."""
        process = self.start(*command, host=host)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return process.returncode, out, err

    def kill_second(self) -> None:
        """The second machine goes, as when its power fails."""
        for pid in self._pids(self.names[SECOND]):
            _kill(pid)

    def workers(self) -> list[int]:
        """Processes of actors on both machines, the journal's too; not Ray's own agents: a machine ends with those."""
        pids = [pid for name in self.names.values() for pid in self._pids(name)]
        return [pid for pid in pids if _command(pid).startswith("ray::") and "Agent" not in _command(pid)]

    def _ray(self, host: str, *options: str) -> None:
        said = ""
        for _attempt in range(3):  # a node that was killed in this moment may still be in the way
            code, out, err = self.run(
                "-m", "ray.scripts.scripts", "start", f"--node-ip-address={host}", f"--num-cpus={self.cpus}",
                "--disable-usage-stats", *options, host=host, timeout=120,
            )  # fmt: skip
            said = out + err
            if code == 0:
                return
            time.sleep(2)
        raise RuntimeError(f"Ray does not start on {host}: {said[-2000:]}")

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    @staticmethod
    def _pids(name: str) -> list[int]:
        said = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout
        return [int(word) for word in said.split()]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended by itself


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
