"""Throughput of `llada serve` with many requests at once, as a multiple of one after another.

    python scripts/bench_serving.py MODEL [--requests 128] [--at-once 1 4 16 64] [--new 32] [--set KEY=VALUE]

The server is a process of its own on this machine, the client this one; every round sends the same requests, each with
a prompt and a seed of its own. Latency is from a request to its whole answer.
"""

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import httpx
from rich.console import Console
from rich.table import Table


class Round(NamedTuple):
    seconds: float
    latencies: list[float]
    tokens: int
    batches: float


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--new", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the sampler")
    parser.add_argument("--device")
    options = parser.parse_args()
    command = [str(Path(sys.executable).with_name("llada")), "serve", options.model, "--port", "0", "--name", "model"]
    command += [word for field in options.set for word in ("--set", field)]
    command += ["--limit", f"waiting={2 * options.requests}", "--limit", "seconds=3600"]
    command += ["--device", options.device] if options.device else []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        found = next(filter(None, (re.search(r"running on (http://\S+)", line) for line in server.stderr)), None)
        if found is None:
            raise SystemExit(f"the server did not start: {' '.join(command)}")
        threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop the server
        try:
            asyncio.run(compare(found[1], options))
        finally:
            server.terminate()


async def compare(address: str, options: argparse.Namespace) -> None:
    """All rounds, the first of which is done twice, as what comes first warms up."""
    async with httpx.AsyncClient(base_url=address, timeout=None) as client:
        await one_round(client, options.at_once[0], options)
        rounds = {at_once: await one_round(client, at_once, options) for at_once in options.at_once}
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    title = f"{options.requests} answers of up to {options.new} tokens; threads: {threads}"
    table = Table(
        "at once", "answers/s", "tokens/s", "ratio", "latency, median", "95th %", "answers a batch", title=title
    )
    first = rounds[options.at_once[0]]
    for at_once, one in rounds.items():
        ordered = sorted(one.latencies)
        table.add_row(
            str(at_once),
            f"{options.requests / one.seconds:.1f}",
            f"{one.tokens / one.seconds:.0f}",
            f"{first.seconds / one.seconds:.2f}",
            f"{1000 * statistics.median(ordered):.0f} ms",
            f"{1000 * ordered[int(0.95 * (len(ordered) - 1))]:.0f} ms",
            f"{options.requests / one.batches:.1f}",
        )
    Console(width=110).print(table)


async def one_round(client: httpx.AsyncClient, at_once: int, options: argparse.Namespace) -> Round:
    """All requests, so many at a time."""
    free, latencies, tokens = asyncio.Semaphore(at_once), [], 0

    async def ask(number: int) -> int:
        body = {"model": "model", "prompt": f"{number} Return the ", "seed": number, "max_tokens": options.new}
        async with free:
            begun = time.perf_counter()
            answer = (await client.post("/v1/completions", json=body)).raise_for_status()
            latencies.append(time.perf_counter() - begun)
        return answer.json()["usage"]["completion_tokens"]

    before, begun = await batches(client), time.perf_counter()
    tokens = sum(await asyncio.gather(*map(ask, range(options.requests))))
    return Round(time.perf_counter() - begun, latencies, tokens, await batches(client) - before)


async def batches(client: httpx.AsyncClient) -> float:
    """How many the server has begun."""
    lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.partition(" ")[2]) for line in lines if line.startswith("llada_batches_total "))


if __name__ == "__main__":
    main()
