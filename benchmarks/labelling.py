"""Labels bought from a slow server: `python benchmarks/labelling.py`.

A server of its own process answers after a log-normal latency (mean 1 s, sigma 1) drawn from each prompt, so the best that
any client can do is known: the requests in their order, each to the first of the places in flight that is free. Prints how
far the wall time is from that, and the client's CPU time per call, the judgment store on disk included.
"""

import argparse
import heapq
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rlaif_dpo.engines.base import OptionRequest  # noqa: E402
from rlaif_dpo.engines.endpoint import EndpointEngine  # noqa: E402
from rlaif_dpo.engines.store import CallStore  # noqa: E402
from rlaif_dpo.messages import user  # noqa: E402
from rlaif_dpo.recipe.schema import Endpoint  # noqa: E402
from tests.fault_server import latency  # noqa: E402

WORDS = "The reply should be kind, true and short; it names no medicine and asks for no number. " * 30
"""About 650 tokens, as a comparison has."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--mean-latency", type=float, default=1.0, metavar="S")
    args = parser.parse_args()
    requests = [OptionRequest(f"r{n}", (user(f"{n}: {WORDS}"),), ("A", "B")) for n in range(args.calls)]
    warm = [OptionRequest(f"w{n}", (user(f"warm {n}"),), ("A", "B")) for n in range(args.in_flight)]
    best = ideal([latency(request.messages[0]["content"], args.mean_latency) for request in requests], args.in_flight)
    with server(args.mean_latency) as url, tempfile.TemporaryDirectory() as folder:
        settings = Endpoint(base_url=url, model="m", concurrency=args.in_flight)
        engine = EndpointEngine(settings, CallStore(Path(folder) / "judgments.sqlite"), lambda sentence: None, "judge")
        list(engine.score_options(warm))
        start, cpu = time.perf_counter(), time.process_time()
        done = sum(scores.outcome == "ok" for scores in engine.score_options(requests))
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert done == args.calls
    print("| calls | in flight | wall | ideal | wall / ideal | rows/s | client CPU per call |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {args.calls} | {args.in_flight} | {wall:.1f} s | {best:.1f} s | {wall / best:.3f} | {args.calls / wall:.1f} "
        f"| {1000 * cpu / args.calls:.2f} ms |"
    )


def ideal(latencies: Sequence[float], in_flight: int) -> float:
    """Seconds until all are answered, when each starts as soon as a place is free."""
    free = [0.0] * in_flight
    for seconds in latencies:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


@contextmanager
def server(mean_latency: float) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    command = [sys.executable, "-m", "tests.fault_server", "--mean-latency", str(mean_latency)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
