"""Two hosts on one machine: each is a set of Linux namespaces with its own network, name, processes and mounts.

Each has an sshd, and an eth0 that a cable (a veth pair) joins to a switch (a bridge in a network of its own). They see
this machine's files, so that /tmp is a folder that both share; what is mounted on one of them is seen there alone.
Nothing of it is left on this machine once the three processes that hold them are gone, and these do not outlive the
process that started them.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shared.shell import ROOT

ADDRESSES = {"host-a": "10.77.0.1", "host-b": "10.77.0.2"}
PROGRAMS = ("ip", "nsenter", "unshare", "setpriv", "mount", "ssh", "ssh-keygen", "sshd", "pdsh", "deepspeed")

_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
_SSHD = """
ListenAddress 0.0.0.0
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
LogLevel ERROR
"""
_SSH = """
Host *
  IdentityFile {folder}/key
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  LogLevel ERROR
  ServerAliveInterval 5
  ServerAliveCountMax 3
"""
_BOOT = """
set -e
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind {folder}/hosts /etc/hosts
hostname {name}
ip link set lo up
touch {folder}/{name}.booted
exec {sshd} -D -e -f {folder}/sshd_config
"""


def _search_path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"


def why_impossible() -> str | None:
    """What this machine lacks for two hosts, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    missing = [program for program in PROGRAMS if shutil.which(program, path=_search_path()) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: apt-get install iproute2 openssh-server pdsh)"
    cable = "ip link add br0 type bridge && ip link add eth7 type veth peer name eth8 && mount -t tmpfs tmpfs /mnt"
    command = ["unshare", *_NAMESPACES, "--fork", "--mount-proc", "sh", "-c", cable]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(frozen=True)
class Host:
    """One of the two.

    Attributes:
        folder: of the settings that all hosts share.
        holder: the process that holds the namespaces, as a child of this one.
        init: the first process within; they end with it.
        switch: the process whose network is the switch.
    """

    name: str
    address: str
    folder: Path
    holder: subprocess.Popen[bytes]
    init: int
    switch: int

    def command(self, *words: str | Path) -> list[str]:
        """The command line that runs ``words`` on this host, from this machine."""
        return ["nsenter", "--target", str(self.init), *_NAMESPACES, f"--wd={ROOT}", "--", *map(str, words)]

    def start(self, *words: str | Path, **variables: str) -> subprocess.Popen[str]:
        """Run a command on this host, in the project's root; stdout and stderr come together."""
        return subprocess.Popen(
            self.command(*words),
            cwd=ROOT,
            env=shell_environment(self.folder) | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str | Path, timeout_s: float = 30) -> str:
        """Run a command that must succeed; what it printed."""
        process = self.start(*words)
        printed, _ = process.communicate(timeout=timeout_s)
        assert process.returncode == 0, printed
        return printed

    def kill(self) -> None:
        """End every process of this host at once, as a crash does."""
        os.kill(self.init, signal.SIGKILL)
        self.holder.wait(20)

    def unplug(self) -> None:
        """Pull the cable: connections stay open, and nothing arrives any more."""
        _in_switch(self.switch, "ip", "link", "set", self.name, "down")

    @property
    def is_up(self) -> bool:
        return self.holder.poll() is None

    def processes(self) -> list[str]:
        """Command lines of the host's processes that belong to a run."""
        lines = self.run("ps", "-eo", "stat=,args=").splitlines()
        return [line for line in lines if line[0] != "Z" and ("engine" in line or "deepspeed" in line)]


def shell_environment(folder: Path) -> dict[str, str]:
    """The environment of a user's shell on a host: virtual environment active, ``ssh`` set up."""
    return {
        **{key: value for key, value in os.environ.items() if key in ("HOME", "LANG", "TERM", "USER")},
        "PATH": f"{folder}/bin{os.pathsep}{_search_path()}",
        "PYTHONPATH": str(ROOT),
        "DS_ENV_FILE": f"{folder}/deepspeed_env",
        **dict(line.split("=", 1) for line in (folder / "deepspeed_env").read_text().splitlines()),
    }


@contextmanager
def two_hosts(folder: Path, time_limit_min: int = 5) -> Iterator[tuple[Host, Host]]:
    """host-a and host-b, who reach each other by name over ssh. All their processes are gone afterwards.

    ``time_limit_min`` is DeepSpeed's, for ranks that wait for each other; 1 is its smallest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_settings(folder, time_limit_min)
    hosts: list[Host] = []
    # Should this process be killed, the kernel ends the switch and the hosts.
    switch = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
    try:
        wait_until(lambda: _is_apart(switch.pid), 10)
        _in_switch(switch.pid, "ip", "link", "add", "br0", "type", "bridge")
        _in_switch(switch.pid, "ip", "link", "set", "br0", "up")
        for name, address in ADDRESSES.items():
            hosts.append(_boot(name, address, folder, switch.pid))
            _plug_in(hosts[-1])
        first, second = hosts
        first.run("sh", "-c", "for try in $(seq 50); do ssh host-b true && exit; sleep 0.2; done; exit 1")
        yield first, second
    finally:
        for host in hosts:
            if host.is_up:
                host.kill()
        switch.kill()
        switch.wait()


def _is_apart(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def _in_switch(switch: int, *words: str) -> None:
    subprocess.run(["nsenter", "--target", str(switch), "--net", "--", *words], check=True)


def _plug_in(host: Host) -> None:
    cable = ["ip", "link", "add", "name", host.name, "type", "veth", "peer", "name", "eth0", "netns", str(host.init)]
    _in_switch(host.switch, *cable)
    _in_switch(host.switch, "ip", "link", "set", host.name, "up", "master", "br0")
    host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "up")
    # A connection whose other end vanished is given up after half a minute, not after Linux's quarter of an hour.
    host.run("sh", "-c", "echo 6 > /proc/sys/net/ipv4/tcp_retries2")


def _write_settings(folder: Path, time_limit_min: int) -> None:
    for key in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    (folder / "sshd_config").write_text(_SSHD.format(folder=folder))
    (folder / "ssh_config").write_text(_SSH.format(folder=folder))
    names = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    (folder / "hostfile").write_text("".join(f"{name} slots=1\n" for name in ADDRESSES))
    # In the shell of host-a, and handed on to all hosts by the launcher.
    variables = {"GLOO_SOCKET_IFNAME": "eth0", "DS_ACCELERATOR": "cpu"}
    variables |= {"OMP_NUM_THREADS": "1", "DEEPSPEED_TIMEOUT": str(time_limit_min)}
    (folder / "deepspeed_env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    write_program(folder / "bin" / "ssh", f'exec {shutil.which("ssh")} -F {folder}/ssh_config "$@"')


def write_program(path: Path, shell: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{shell}\n")
    path.chmod(0o755)


def _boot(name: str, address: str, folder: Path, switch: int) -> Host:
    script = _BOOT.format(name=name, folder=folder, sshd=shutil.which("sshd", path=_search_path()))
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
    with (folder / f"{name}.log").open("w") as log:
        holder = subprocess.Popen(
            [*command, "sh", "-c", script], stdout=log, stderr=log, env={**os.environ, "PATH": _search_path()}
        )
    wait_until(lambda: (folder / f"{name}.booted").exists() or holder.poll() is not None, 20)
    assert holder.poll() is None, (folder / f"{name}.log").read_text()
    init = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text())
    return Host(name, address, folder, holder, init, switch)


def wait_until(condition: Callable[[], object], timeout_s: float) -> None:
    """Wait for ``condition()`` to hold.

    Raises:
        TimeoutError: it did not within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s")
        time.sleep(0.05)


def deepspeed_command(folder: Path, *arguments: str | Path, port: int = 29500) -> Sequence[str]:
    """The command of a user on the first host who starts one rank on each host through pdsh and ssh."""
    command = ["deepspeed", "--quiet", "--hostfile", f"{folder}/hostfile", "--master_port", str(port)]
    return [*command, "--no_local_rank", *map(str, arguments)]
