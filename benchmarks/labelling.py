"""Labels bought from a slow server: `python benchmarks/labelling.py`.

A server of its own process answers after a log-normal latency (mean 1 s, sigma 1) drawn from each prompt, so the best that
any client can do is known: the requests in their order, each to the first of the places in flight that is free. Prints how
far the wall time is from that, and the client's CPU time per call, the judgment store on disk included.

With `--distilabel-python` distilabel asks another such server for the same: the same prompts, parameters and number in flight,
one `TextGeneration` step. Its seconds are those between the server's first request and its last reply, so what it takes to
start its processes is not counted; its CPU time has all of it. That Python is one of an environment with
`pip install distilabel==1.5.3 openai requests`.
"""

import argparse
import heapq
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--mean-latency", type=float, default=1.0, metavar="S")
    parser.add_argument("--seed", type=int, default=0, help="of the latencies")
    parser.add_argument("--distilabel-python", metavar="PATH", help="the python of an environment that has distilabel")
    args = parser.parse_args()
    prompts = [f"{n}: {WORDS}" for n in range(args.calls)]
    best = ideal([latency(prompt, args.mean_latency, seed=args.seed) for prompt in prompts], args.in_flight)
    print(f"{args.calls} calls, {args.in_flight} in flight, seed {args.seed}; the ideal is {best:.1f} s")
    print("| client | seconds | / ideal | rows/s | CPU per call |")
    print("|---|---|---|---|---|")
    with server(args.mean_latency, args.seed) as url:
        seconds, cpu = by_engine(url, prompts, args.in_flight)
    print(line("rlaif-dpo", seconds, cpu, best, args.calls), flush=True)
    if args.distilabel_python is None:
        print("distilabel is left out: --distilabel-python names no environment that has it")
        return
    with server(args.mean_latency, args.seed) as url:
        other, cpu = by_distilabel(args.distilabel_python, url, prompts, args.in_flight)
    print(line("distilabel", other, cpu, best, args.calls))
    print(f"{other / seconds:.1f} x the rows per second of distilabel")


def line(client: str, seconds: float, cpu: float, best: float, calls: int) -> str:
    return f"| {client} | {seconds:.1f} | {seconds / best:.3f} | {calls / seconds:.1f} | {1000 * cpu / calls:.2f} ms |"


def by_engine(url: str, prompts: Sequence[str], in_flight: int) -> tuple[float, float]:
    """Seconds by the clock and of CPU, after a first round that opens the connections."""
    requests = [OptionRequest(f"r{n}", (user(prompt),), ("A", "B")) for n, prompt in enumerate(prompts)]
    warm = [OptionRequest(f"w{n}", (user(f"warm {n}"),), ("A", "B")) for n in range(in_flight)]
    with tempfile.TemporaryDirectory() as folder:
        settings = Endpoint(base_url=url, model="m", concurrency=in_flight)
        engine = EndpointEngine(settings, CallStore(Path(folder) / "judgments.sqlite"), lambda sentence: None, "judge")
        list(engine.score_options(warm))
        start, cpu = time.perf_counter(), time.process_time()
        done = sum(scores.outcome == "ok" for scores in engine.score_options(requests))
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        engine.close()
    assert done == len(prompts)
    return wall, cpu


def by_distilabel(python: str, url: str, prompts: Sequence[str], in_flight: int) -> tuple[float, float]:
    """Seconds by the server's clock, and of CPU, of all its processes."""
    work = json.dumps({"url": url, "prompts": prompts, "in_flight": in_flight})
    command = [python, str(Path(__file__).with_name("labelling_distilabel.py"))]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, input=work, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    with urlopen(f"{url.removesuffix('/v1')}/stats") as reply:
        stats = json.load(reply)
    if ended.returncode or int(ended.stdout.split()[-1]) != len(prompts):
        sys.exit(f"distilabel failed: {ended.stderr[-2000:]}")
    assert stats["paid"] == len(prompts) and stats["peak"] <= in_flight
    return stats["seconds"], after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ideal(latencies: Sequence[float], in_flight: int) -> float:
    """Seconds until all are answered, when each starts as soon as a place is free."""
    free = [0.0] * in_flight
    for seconds in latencies:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


@contextmanager
def server(mean_latency: float, seed: int) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    command = [sys.executable, "-m", "tests.fault_server", "--mean-latency", str(mean_latency), "--seed", str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
