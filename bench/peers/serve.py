"""What every peer shares: it prepares itself, says so, and then makes one timed call for each line that it reads.

Output is one JSON object a line. First {"peer", "prepare"}: name and version, seconds that preparing took. Then, for each input line
(the number of repetitions), {"seconds", "memory", "cpu"}: of one repetition, the largest resident set and the processor time so far.
"""

import json
import os
import resource
import sys
import time

THREADS = int(os.environ.get("ANEKIT_BENCH_THREADS", "2"))


def say(message):
    print(json.dumps(message), flush=True)


def serve(peer, step, started, **more):
    """Answers until its input ends. `step(repetitions)` makes the calls; what it needs to warm up it has done."""
    say({"peer": peer, "prepare": time.perf_counter() - started, **more})
    for line in sys.stdin:
        repetitions = int(line)
        before = time.perf_counter()
        step(repetitions)
        seconds = (time.perf_counter() - before) / repetitions
        usage = resource.getrusage(resource.RUSAGE_SELF)
        memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        say({"seconds": seconds, "memory": memory, "cpu": usage.ru_utime + usage.ru_stime})


def fastest(works, turns):
    """The name of the work that had the shortest of so many calls, each in its turn."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(turns):
        for name, work in works.items():
            before = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - before)
    return min(best, key=best.get)


def arguments():
    """The configuration that the command line holds as JSON."""
    return json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
