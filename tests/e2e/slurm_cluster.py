# SPDX-License-Identifier: Apache-2.0
"""A real Slurm on this machine: munged, slurmctld and one slurmd for each of several nodes, all in one folder. A node is a host
name of its own (a UTS name space) and a port. Nothing outside the folder is written or read, /etc/slurm included.
"""
import getpass
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo", "unshare", "setpriv"]
CORES = 2  # of a node, whatever the machine has

CONFIGURATION = """
ClusterName=nightshift
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until the credentials of its last start are void.
AuthInfo=socket={base}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool.%n
TmpFS={base}/tmp.%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
KillWait=5
SlurmdTimeout=20
SlurmctldTimeout=20
TCPTimeout=2
JobRequeue=1
PropagateResourceLimitsExcept=MEMLOCK
SlurmdParameters=config_overrides
PlugStackConfig=/dev/null
"""


def why_not():
    """What is missing for a cluster on this machine; "" if nothing is."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    if missing:
        return f"no {', '.join(missing)} here (Debian packages slurm-wlm and munge)"
    if os.geteuid() != 0 or subprocess.run(["unshare", "--uts", "true"], capture_output=True).returncode != 0:
        return "several nodes on one machine need host names of their own (root, and unshare --uts)"
    return ""


def search_path():
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


def free_ports(count):
    """`count` ports in a row that nothing listens on."""
    for first in range(26800, 32000, 50):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, listener in enumerate(sockets):
                listener.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for listener in sockets:
                listener.close()
    raise AssertionError("no free ports for Slurm")


def wait_for(what, condition, seconds):
    deadline = time.time() + seconds
    while not (value := condition()):
        assert time.time() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.2)
    return value


def environment_of(pid):
    try:
        return pathlib.Path("/proc", str(pid), "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


class SlurmCluster:
    """Nodes n1 .. nN. A context manager: on the way out every process that belongs to it has ended."""

    def __init__(self, base, nodes):
        self.base = pathlib.Path(base)
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "OMPI_COMM", "PMIX"))}
        self.environment |= {"SLURM_CONF": str(self.base / "slurm.conf"), "PATH": search_path(), "SLURM_TIME_FORMAT": "standard"}
        self.daemons = {}

    def __enter__(self):
        try:
            self.write_configuration()
            self.start_munge()
            self.start("slurmctld", ["slurmctld", "-D", "-c", "-i"])
            for node in self.nodes:
                self.start(node, ["unshare", "--uts", "sh", "-c", f"hostname {node} && exec slurmd -D -N {node}"])
            wait_for("all nodes idle", lambda: self.states().count("idle") == len(self.nodes), 30)
        except BaseException:
            self.show_logs()
            self.stop()
            raise
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            self.show_logs()
        self.stop()

    def write_configuration(self):
        self.base.mkdir(parents=True)
        self.base.chmod(0o755)
        (self.base / "state").mkdir()
        host, port = socket.gethostname().split(".")[0], free_ports(len(self.nodes) + 1)
        text = CONFIGURATION.format(host=host, port=port, user=getpass.getuser(), base=self.base)
        for i, node in enumerate(self.nodes):
            (self.base / f"spool.{node}").mkdir()
            (self.base / f"tmp.{node}").mkdir()
            text += (f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + 1 + i} CPUs={CORES} Boards=1 "
                     f"SocketsPerBoard=1 CoresPerSocket={CORES} ThreadsPerCore=1 RealMemory=1000 State=UNKNOWN\n")
        text += "PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO\n"
        (self.base / "slurm.conf").write_text(text)

    def start_munge(self):
        key = self.base / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self.start("munged", ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.base}/munge.socket",
                              f"--pid-file={self.base}/munged.pid", f"--log-file={self.base}/munged.log",
                              f"--seed-file={self.base}/munge.seed"])
        wait_for("munge's socket", (self.base / "munge.socket").exists, 10)

    def start(self, name, command):
        # A test that is killed takes them with it.
        with open(self.base / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], env=self.environment,
                                                  stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def command(self, *words, check=True, environment=None):
        done = subprocess.run([str(word) for word in words], env=self.environment | (environment or {}), capture_output=True,
                              text=True, timeout=60)
        assert not check or done.returncode == 0, f"{' '.join(done.args)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def states(self):
        return self.command("sinfo", "-h", "-N", "-o", "%t", check=False).split()

    def jobs(self):
        """{id: state} of the jobs that are not over; a requeued one is pending."""
        lines = self.command("squeue", "-h", "-o", "%A %T", check=False).split("\n")
        return dict(line.split() for line in lines if line)

    def job(self, job_id):
        """What Slurm knows of a job: {"JobState": ..., "Restarts": ...}"""
        words = self.command("scontrol", "-o", "show", "job", job_id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def lose_node(self, node):
        """As if it lost power: every process of the node at once."""
        for pid in [self.daemons.pop(node).pid, *self.processes(node)]:
            kill(pid)

    def processes(self, node=None):
        """What the daemons have started: jobs' steps and their tasks (of one node)."""
        marks = {f"SLURM_CONF={self.base / 'slurm.conf'}"} | ({f"SLURMD_NODENAME={node}"} if node else set())
        ours = {os.getpid(), *(daemon.pid for daemon in self.daemons.values())}
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) not in ours]
        return [pid for pid in pids if marks <= set(environment_of(pid))] + (self.step_daemons(node) if node else [])

    def step_daemons(self, node):
        """slurmstepd does not say its node in its environment, but in its host name."""
        found = []
        for pid in self.processes():
            try:
                if pathlib.Path("/proc", str(pid), "comm").read_text().startswith("slurmstepd") and self.host_name(pid) == node:
                    found.append(pid)
            except OSError:
                continue
        return found

    @staticmethod
    def host_name(pid):
        done = subprocess.run(["nsenter", "--uts", f"--target={pid}", "hostname"], capture_output=True, text=True)
        return done.stdout.strip()

    def stop(self):
        """Nothing of theirs is worth an orderly end, which takes many seconds."""
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait()
        self.daemons.clear()
        for _ in range(100):
            for pid in (left := self.processes()):
                kill(pid)
            if not left:
                break
            time.sleep(0.05)

    def show_logs(self):
        for log in sorted(self.base.glob("*.log")):
            print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-10:], sep="\n")


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
