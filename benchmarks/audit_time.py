"""How long does it take to verify a run, beside the run itself?

    OMP_NUM_THREADS=1 python -m benchmarks.audit_time [RUN]

Verifies a finished run with payloads, several times: seconds, the share of the run's own wall
time, megabytes of payloads a second, and peak memory of a process that does nothing else. Without
RUN the main job is carried out first (minutes).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pilot_secure.run_folder import RunFolder

VERIFY = """
import json, resource, sys, time
from pathlib import Path
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.verify import verify
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.perf_counter()
report = verify(Bundle.open(Path(sys.argv[1])))
seconds = time.perf_counter() - begun
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, report.exit_code, report.records, report.payload_bytes, base, peak]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="a finished run with payloads")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = options.run or main_job(Path(temporary) / "run")
        own = RunFolder.open(run).read_summary().wall_seconds
        found = [verified(run) for _ in range(options.repeats)]
    _, code, records, payload_bytes, base, peak = found[0]
    seconds = statistics.median(times[0] for times in found)
    print(f"{records} messages, {payload_bytes / 1e6:.1f} MB of payloads, exit code {code}")
    print(f"run {own:.1f} s; verify {seconds:.2f} s, {seconds / own:.1%} of it")
    print(f"{payload_bytes / 1e6 / seconds:.1f} MB/s with payloads")
    print(f"peak memory {peak / 1024:.0f} MiB, {(peak - base) / 1024:.0f} above what is imported")


def main_job(out: Path) -> Path:
    """Carry out the main job in a process of its own."""
    command = [sys.executable, "-m", "pilot_secure.simulate", "--secure-agg", "--out", str(out)]
    subprocess.run(command, check=True)
    return out


def verified(run: Path) -> list[float]:
    """Seconds, exit code, messages, bytes, and KiB of memory before and at the peak."""
    command = [sys.executable, "-c", VERIFY, str(run)]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    return list(json.loads(told.stdout))


if __name__ == "__main__":
    main()
