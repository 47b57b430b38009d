"""A throw-away SLURM cluster on loopback: two nodes with two fake GPUs each, no database, no cgroups.

    python -m tests.slurm.cluster COMMAND ...    # runs a command inside of a cluster, then takes the cluster away

Everything lies in one folder; every process is ended by its process id. It must run as root and uses the default place
of SLURM's configuration, which no other cluster may hold: the executor plugin hides SLURM_CONF from its jobs.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PLACE = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
NODES = ("127.0.0.1", "127.0.0.2")  # names that resolve on any machine
PR_SET_PDEATHSIG = 1
CPUS, MEMORY_MB, GPUS = 16, 256000, 2  # of a node; nothing checks that they are there

CONFIGURATION = """
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=bf_interval=1,sched_min_interval=100000,batch_sched_delay=0,defer_batch
GresTypes=gpu
MinJobAge=600
KillWait=5
OverTimeLimit=0
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/finished.txt
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={memory}"
    " Gres=gpu:a100:{gpus}"
)
PARTITIONS = """
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Return why no cluster can be started here; nothing if one can."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=_search())]
    if absent:
        return f"SLURM is not installed ({', '.join(absent)}): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "a throw-away SLURM cluster needs root"
    if any((PLACE / name).exists() and not _left_behind(PLACE / name) for name in FILES):
        return f"{PLACE} holds a configuration: this machine belongs to a SLURM cluster"
    return ""


class Cluster:
    """A cluster in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, socket.gethostname().partition(".")[0]
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Write the configuration, start the daemons and wait until both nodes are idle."""
        self._configure()
        self._daemon("munged", "--foreground", "--force", *self._munge())
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "-D", "-i")
        for name in NODES:
            self._daemon("slurmd", "-D", "-N", name)
        self._wait(lambda: self.nodes() == ["idle"] * len(NODES), "nodes")

    def stop(self) -> None:
        """End the jobs, then each daemon, and remove the configuration from its default place."""
        with suppress(subprocess.SubprocessError, RuntimeError):  # the daemons must end all the same
            subprocess.run(["scancel", "--user=root"], timeout=20, check=False)
            self._wait(lambda: not self.ask("squeue", "--noheader"), "end of jobs", seconds=20)
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _end_left_jobs()
        for name in FILES:
            if (PLACE / name).is_symlink():
                (PLACE / name).unlink()

    def ask(self, *command: str) -> str:
        """Run a command of SLURM and return what it printed."""
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    def nodes(self) -> list[str]:
        """Return the state of each node."""
        with suppress(subprocess.SubprocessError):
            return self.ask("sinfo", "--noheader", "--Node", "--partition=cpu", "--format=%T").split()
        return []

    def jobs(self, rule: str, state: str = "RUNNING") -> dict[str, str]:
        """Return {job id: node} of the jobs of a rule in a state."""
        lines = self.ask("squeue", "--noheader", f"--states={state}", "--format=%i %N %k").splitlines()
        return {n: node for n, node, comment in map(str.split, lines) if comment.startswith(f"rule_{rule}")}

    def finished(self) -> list[dict[str, str]]:
        """Return the record of each finished job, in order of their end."""
        path = self.folder / "finished.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def _configure(self) -> None:
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        files = {"port": _free_port(), "host": self.host, "folder": self.folder}
        facts = {"host": self.host, "cpus": CPUS, "memory": MEMORY_MB, "gpus": GPUS}
        nodes = "\n".join(NODE.format(name=name, port=_free_port(), **facts) for name in NODES)
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**files) + nodes + PARTITIONS)
        devices = [self.folder / f"gpu{n}" for n in range(GPUS)]
        for device in devices:
            os.mknod(device, 0o20666, os.makedev(1, 3))  # as /dev/null is
        lines = [f"NodeName={name} Name=gpu Type=a100 File={self.folder}/gpu[0-{GPUS - 1}]" for name in NODES]
        (self.folder / "gres.conf").write_text("\n".join(lines) + "\n")
        PLACE.mkdir(exist_ok=True)
        for name in FILES:
            (PLACE / name).unlink(missing_ok=True)  # a link that leads nowhere: `missing` has looked
            (PLACE / name).symlink_to(self.folder / name)

    def _munge(self) -> list[str]:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        names = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
        return [f"--{option}={self.folder}/{name}" for option, name in {**names, "seed-file": "munge.seed"}.items()]

    def _daemon(self, *command: str) -> None:
        out = (self.folder / f"{command[0]}-{len(self.processes)}.out").open("wb")
        environment = {**os.environ, "PATH": _search()}
        path = shutil.which(command[0], path=_search())
        self.processes.append(
            subprocess.Popen(
                [str(path), *command[1:]],
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        )

    def _wait(self, ready: object, what: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not ready():  # type: ignore[operator]
            if time.monotonic() > end or any(p.poll() is not None for p in self.processes):
                raise RuntimeError(f"the throw-away cluster: no {what}; its logs are in {self.folder}")
            time.sleep(0.1)


def _left_behind(link: Path) -> bool:
    """Tell whether a configuration is that of a throw-away cluster whose daemons have ended."""
    try:
        pid = int((link.resolve().parent / "slurmctld.pid").read_text())
    except (OSError, ValueError):
        return link.is_symlink() and (link.resolve().parent / "munge.key").exists()
    return link.is_symlink() and not Path(f"/proc/{pid}").exists()


def _end_with_parent() -> None:
    """Let a daemon end when the process that started it is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Start a cluster, and take it away whatever happens."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _end_left_jobs() -> None:
    """End what the jobs of a lost node left running, which SLURM no longer knows of."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURM_CLUSTER_NAME") == "throwaway":
                process.kill()


def _search() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> None:
    """Run a command inside of a cluster."""
    if why := missing():
        sys.exit(why)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, running(Path(folder)):
        sys.exit(subprocess.run(sys.argv[1:], check=False).returncode)


if __name__ == "__main__":
    main()
