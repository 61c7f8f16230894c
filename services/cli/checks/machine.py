"""The machine: cores, instructions, memory, disk, GPU, limits of the process, clock."""

from __future__ import annotations

import locale
import os
import platform
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Final

import recsys
from services.cli.checks.finding import Finding, missing, ok, warning
from services.cli.checks.packages import FAISS, installed_version

GROUP: Final = "machine"
GIB: Final = 1 << 30
LEAST_MEMORY: Final = 2 * GIB
LEAST_DISK: Final = 2 * GIB
LEAST_SHARED: Final = 128 << 20
"""Ray keeps its object store in shared memory, of 80 MiB here."""
LEAST_FILES: Final = 1_024

_INSTRUCTIONS: Final = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
_CGROUP: Final = Path("/sys/fs/cgroup")


def check_machine(folder: Path) -> list[Finding]:
    """Everything but the GPU; `folder` is where runs are to lie."""
    return [_processor(), _memory(), _disk(folder), _shared_memory(), _threads(), _files(), _text(), _clock()]


def check_gpu() -> list[Finding]:
    """The GPU as the driver, torch and FAISS see it, and where they disagree."""
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    seen_by_torch, torch_says = _torch_devices()
    seen_by_faiss, faiss_says = _faiss_devices()
    findings = [ok("gpu", "driver", "NVIDIA driver" if driver else "none; everything runs on the processor")]
    if driver and torch_says and not seen_by_torch:
        advice = "install a CUDA build: pip install torch --index-url https://download.pytorch.org/whl/cu126"
        findings.append(warning("gpu", "torch", torch_says, f"{advice}; and look at nvidia-smi"))
    elif torch_says:
        findings.append(ok("gpu", "torch", torch_says))
    if (driver or seen_by_torch) and not seen_by_faiss:
        advice = "pip uninstall -y faiss-cpu && pip install 'recsys[gpu]'; the index runs on the processor until then"
        findings.append(warning("gpu", "faiss", faiss_says, advice))
    elif all(map(installed_version, FAISS)):
        advice = f"one overwrites the other: pip uninstall -y {' '.join(FAISS)}, then pip install the one wanted"
        findings.append(warning("gpu", "faiss", f"both {' and '.join(FAISS)} are installed", advice))
    else:
        findings.append(ok("gpu", "faiss", faiss_says))
    return findings


def _torch_devices() -> tuple[int, str]:
    """How many GPUs torch sees, and in words; no words where torch is not there or does not load."""
    try:
        import torch
    except Exception:  # reported as a package that does not load
        return 0, ""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    return count, f"{torch.__version__}, {build}; sees {names or 'no GPU'}"


def _faiss_devices() -> tuple[int, str]:
    try:
        import faiss
    except Exception:  # reported as a package that does not load
        return 0, "not installed"
    supported = hasattr(faiss, "StandardGpuResources")
    count = int(faiss.get_num_gpus()) if supported else 0
    return count, f"{'a build with' if supported else 'a build without'} GPU support; sees {count or 'no'} GPU"


def _processor() -> Finding:
    total = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    quota = _quota()
    cores = f"{allowed} of {total} cores" + (f", {quota:g} by the container's quota" if quota else "")
    there = [name for name in _INSTRUCTIONS if name in _flags()]
    found = f"{platform.machine()}, {cores}; {' '.join(there) or 'no vector instructions known'}"
    if platform.machine() == "x86_64" and "avx2" not in there:
        return warning(GROUP, "processor", found, "without AVX2, FAISS and onnxruntime take several times as long")
    if quota and quota < allowed:
        advice = f"start no more than {max(1, int(quota))} workers: recsys serve --workers {max(1, int(quota))}"
        return warning(GROUP, "processor", found, advice)
    return ok(GROUP, "processor", found)


def _flags() -> set[str]:
    """Instruction sets of the processor, in Linux's names."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next(
        (set(line.split(":")[1].split()) for line in lines if line.lower().startswith(("flags", "features"))), set()
    )


def _quota() -> float | None:
    """Cores that the container may use in sum; None without a bound."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _memory() -> Finding:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    total, free = pages * size, os.sysconf("SC_AVPHYS_PAGES") * size
    available = _available() or free
    limit = _memory_limit()
    found = f"{available / GIB:.1f} of {total / GIB:.1f} GiB available"
    if limit is not None and limit < total:
        found += f"; the container may take {limit / GIB:.1f} GiB"
    if min(available, limit or available) < LEAST_MEMORY:
        return warning(GROUP, "memory", found, "2 GiB serve a small bundle, make demo takes up to 6")
    return ok(GROUP, "memory", found)


def _available() -> int | None:
    """Bytes that Linux could hand out, what it keeps of files included."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def _memory_limit() -> int | None:
    try:
        text = (_CGROUP / "memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    usage = shutil.disk_usage(existing)
    found = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free at {existing}"
    if not os.access(existing, os.W_OK):
        return missing(GROUP, "disk", f"{found}, which cannot be written to", "give another folder with --folder")
    if usage.free < LEAST_DISK:
        return warning(GROUP, "disk", found, "free some: a run keeps every step and several versions of the bundle")
    return ok(GROUP, "disk", found)


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return ok(GROUP, "shared memory", "not on this system")
    free = shutil.disk_usage(path).free
    found = f"{free / GIB:.1f} GiB free in {path}"
    if free < LEAST_SHARED:
        return warning(GROUP, "shared memory", found, "Ray wants 80 MiB there: docker run --shm-size=256m")
    return ok(GROUP, "shared memory", found)


def _threads() -> Finding:
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    found = ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ) or "no variable set"
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "active":
        advice = "export OMP_WAIT_POLICY=PASSIVE: threads that wait must not take cores from those that work"
        return warning(GROUP, "threads", found, advice)
    return ok(GROUP, "threads", found)


def _files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft:,} open files a process" if soft != resource.RLIM_INFINITY else "no bound on open files"
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        return warning(
            GROUP, "open files", found, f"ulimit -n {LEAST_FILES * 4}: every connection is one, Ray takes hundreds"
        )
    return ok(GROUP, "open files", found)


def _text() -> Finding:
    encodings = {sys.getfilesystemencoding().lower(), locale.getpreferredencoding(False).lower()}
    found = " and ".join(sorted(encodings))
    if encodings - {"utf-8", "utf8"}:
        return warning(GROUP, "text", found, "export LC_ALL=C.UTF-8 or PYTHONUTF8=1: titles are not all ASCII")
    return ok(GROUP, "text", found)


def _clock() -> Finding:
    now = time.time()
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    written = Path(recsys.__file__).stat().st_mtime
    if now < written:
        advice = "set the clock (timedatectl set-ntp true): events bear its time, versions are ordered by it"
        return warning(GROUP, "clock", f"{found}, before this program was installed", advice)
    return ok(GROUP, "clock", found)
