"""Where figures come from: what ./dev bench, bench alloc and bench tx write beside them."""
import datetime, os, platform, subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def output(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT).stdout.strip()
    except OSError:
        return ""


def field(path, name):
    try:
        with open(path) as f:
            for line in f:
                if line.startswith(name):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""


def versions(packages):
    out = {}
    for package in packages:
        version = output("dpkg-query", "-W", "-f", "${Version}", package)
        if version:
            out[package] = version
    return out


def machine(disk, packages):
    """disk: a folder on the disk that was measured. packages: the peers'."""
    commit = output("git", "rev-parse", "--short", "HEAD")
    if output("git", "status", "--porcelain", "--untracked-files=no"):
        commit += " and changes"
    kib = field("/proc/meminfo", "MemTotal").split()
    return dict(date=datetime.date.today().isoformat(), commit=commit, cpu=field("/proc/cpuinfo", "model name"), cpus=os.cpu_count(),
                virtual=output("systemd-detect-virt", "--vm") or "unknown", memory_gib=round(int(kib[0]) / 2**20, 1) if kib else 0,
                kernel=platform.release(), filesystem=output("stat", "-f", "-c", "%T", disk), versions=versions(packages))
