"""Measures our index beside others: queries per second at equal recall, one thread, one interleaved run.

Every index is built from the same float32 rows under the squared euclidean distance. For each wanted
recall the least effort that reaches it is looked for; then all indexes are timed in turn, round after
round, so that what else the machine does meets all of them. A library gets all queries in one call and
answers them one after the other on one thread; the best round counts.

Recall counts a found row as right when it is no farther than the true k-th one (brute force).
"""

import argparse
import ctypes
import gc
import io
import json
import os
import sys
import time

# Before numpy and the libraries start their threads.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np

TARGETS = (0.95, 0.99, 0.995)
EFFORT_MAX = 800
M = 16
EF_CONSTRUCTION = 200


def load(path):
    """Returns an npy file, plain or in zstd, as float32 rows."""
    if path.endswith(".zst"):
        import zstandard

        with open(path, "rb") as file:
            content = io.BytesIO(zstandard.ZstdDecompressor().stream_reader(file).read())
        return np.ascontiguousarray(np.load(content), np.float32)
    return np.ascontiguousarray(np.load(path), np.float32)


def windows(folder, source, steps, queries_count):
    """Returns windows of telemetry (VTS1) as rows, and some of them, taken out of these, as queries."""
    import zstandard

    with open(os.path.join(folder, "manifest.json")) as file:
        entities = json.load(file)["entities"]
    rows = []
    for entity in (one for one in entities if one["source"].lower() == source):
        shape = (entity["columns"], entity["rows"])
        with open(os.path.join(folder, entity["file"]), "rb") as file:
            raw = zstandard.ZstdDecompressor().decompress(file.read(), 4 * shape[0] * shape[1])
        # The last column is the label.
        values = np.frombuffer(raw, "<i4").reshape(shape)[:-1].T * entity["scale"]
        view = np.lib.stride_tricks.sliding_window_view(values.astype(np.float32), steps, axis=0)
        rows.append(view.transpose(0, 2, 1).reshape(len(view), -1))
    if not rows:
        sys.exit(f"no entities of {source} in {folder}")
    rows = np.concatenate(rows)
    asked = np.random.default_rng(1).permutation(len(rows)) < queries_count
    return np.ascontiguousarray(rows[~asked]), np.ascontiguousarray(rows[asked])


def distances_to(base, query, rows):
    """Returns exact squared distances of `rows`; rows that are not there are infinitely far."""
    known = rows < len(base)
    difference = base[np.where(known, rows, 0)].astype(np.float64) - query
    return np.where(known, np.einsum("ij,ij->i", difference, difference), np.inf)


def farthest_true(base, queries, k):
    """Returns the exact squared distance of each query's k-th nearest row."""
    norms = np.einsum("ij,ij->i", base, base, dtype=np.float64)
    farthest = []
    for query in queries:
        # Candidates by a matrix product, then exactly: the product alone may be off by rounding.
        near = np.argpartition(norms - 2.0 * (base @ query), k + 50)[: k + 50]
        farthest.append(np.sort(distances_to(base, query, near))[k - 1])
    return np.array(farthest)


class Ours:
    """An index behind the C interface of this folder's library."""

    def __init__(self, library, kind, base, effort=0):
        library.ann_build.restype = ctypes.c_void_p
        library.ann_bytes.restype = ctypes.c_size_t
        self.library, self.effort = library, effort
        self.index = ctypes.c_void_p(
            library.ann_build(
                ctypes.c_uint32(kind),
                base.ctypes.data_as(ctypes.c_void_p),
                *map(ctypes.c_size_t, (*base.shape, effort)),
            )
        )
        if not self.index:
            sys.exit("the rows have a dimension that the index does not take")

    def search(self, queries, k):
        found = np.empty((len(queries), k), np.uint32)
        self.library.ann_search(
            self.index,
            queries.ctypes.data_as(ctypes.c_void_p),
            *map(ctypes.c_size_t, (*queries.shape, k, self.effort)),
            found.ctypes.data_as(ctypes.c_void_p),
        )
        return found

    def set_effort(self, effort):
        self.effort = effort


class Fixed(Ours):
    """One whose effort is chosen when it is built."""

    def set_effort(self, effort):
        pass


class Hnswlib:
    def __init__(self, base):
        import hnswlib

        self.index = hnswlib.Index("l2", base.shape[1])
        self.index.init_index(len(base), ef_construction=EF_CONSTRUCTION, M=M)
        self.index.set_num_threads(1)
        self.index.add_items(base, num_threads=1)

    def search(self, queries, k):
        return self.index.knn_query(queries, k, num_threads=1)[0]

    def set_effort(self, effort):
        self.index.set_ef(effort)


class Usearch:
    def __init__(self, base, dtype):
        from usearch.index import Index

        self.index = Index(
            ndim=base.shape[1],
            metric="l2sq",
            dtype=dtype,
            connectivity=M,
            expansion_add=EF_CONSTRUCTION,
        )
        self.index.add(np.arange(len(base)), base, threads=1)

    def search(self, queries, k):
        return self.index.search(queries, k, threads=1).keys

    def set_effort(self, effort):
        self.index.expansion_search = effort


class Faiss:
    def __init__(self, base):
        import faiss

        faiss.omp_set_num_threads(1)
        self.index = faiss.IndexHNSWFlat(base.shape[1], M)
        self.index.hnsw.efConstruction = EF_CONSTRUCTION
        self.index.add(base)

    def search(self, queries, k):
        return self.index.search(queries, k)[1]

    def set_effort(self, effort):
        self.index.hnsw.efSearch = effort


class Svs:
    """Scalable Vector Search, on codes of eight bits (LVQ8) or also on fewer dimensions (LeanVec)."""

    def __init__(self, base, path, leanvec_dims):
        import svs

        svs.write_vecs(base, path)
        data = svs.VectorDataLoader(path, svs.DataType.float32, dims=base.shape[1])
        if leanvec_dims:
            data = svs.LeanVecLoader(data, leanvec_dims)
        else:
            data = svs.LVQLoader(data, primary=8)
        parameters = svs.VamanaBuildParameters(alpha=1.2, graph_max_degree=32, window_size=128)
        self.index = svs.Vamana.build(parameters, data, svs.DistanceType.L2, num_threads=1)
        self.index.num_threads = 1

    def search(self, queries, k):
        return self.index.search(queries, k)[0]

    def set_effort(self, effort):
        self.index.search_window_size = effort


def resident():
    """Returns the resident bytes of this process, after what was freed went back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def recall_of(index, base, queries, farthest, k):
    found = np.asarray(index.search(queries, k)).astype(np.int64)
    hits = 0
    for query, rows, limit in zip(queries, found, farthest):
        rows = np.unique(rows)
        hits += int((distances_to(base, query, rows) <= limit * (1 + 1e-9)).sum())
    return hits / (k * len(queries))


def least_effort(index, target, k, recall):
    """Returns the least effort that reaches a recall, and the recall there; None when none does."""
    low, high = k, EFFORT_MAX
    if recall(high) < target:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if recall(middle) >= target else (middle + 1, high)
    return low, recall(low)


def unlike(base, queries):
    """Returns the queries, and sets of others that are unlike any row, each with a name."""
    random = np.random.default_rng(5)
    sets, deviation = {"held out": queries}, base.std(0)
    for times in (0.1, 0.5, 2.0):
        noise = random.normal(size=queries.shape) * deviation * times
        sets[f"noise {times} deviations"] = (queries + noise).astype(np.float32)
    off = queries.copy()
    for row in off:
        row[random.integers(base.shape[1], size=3)] += random.choice([-1, 1]) * 5 * base.std()
    sets["three values off"] = off
    sets["mean of two"] = (queries + queries[random.permutation(len(queries))]) / 2
    return sets


def is_intel():
    """Whether this is a processor that LVQ and LeanVec of SVS run on."""
    try:
        with open("/proc/cpuinfo") as cpu:
            return any("GenuineIntel" in line for line in cpu)
    except OSError:
        return False


def builders(arguments, library, base, scratch):
    svs_path = os.path.join(scratch, "rows.fvecs")
    lean = min(160, base.shape[1])
    return {
        "dunlin": lambda: Ours(library, 0, base),
        "hnswlib": lambda: Hnswlib(base),
        "usearch-f32": lambda: Usearch(base, "f32"),
        "usearch-bf16": lambda: Usearch(base, "bf16"),
        "faiss-hnsw": lambda: Faiss(base),
        "svs-lvq8": lambda: Svs(base, svs_path, 0),
        "svs-leanvec": lambda: Svs(base, svs_path, lean),
        "instant-distance": lambda: Fixed(library, 1, base, arguments.instant_effort),
        "hnsw_rs": lambda: Ours(library, 2, base),
    }


def measure(arguments, scratch):
    if arguments.windows:
        base, queries = windows(arguments.windows, arguments.source, arguments.steps, 2_000)
    else:
        base, queries = load(arguments.base), load(arguments.query)
    k = arguments.k
    farthest = farthest_true(base, queries, k)
    library = ctypes.CDLL(os.path.abspath(arguments.library))
    rows, plans = {}, []
    for name, build in builders(arguments, library, base, scratch).items():
        if arguments.only and name not in arguments.only:
            continue
        if name.startswith("svs-") and not is_intel():
            # It ends the whole process there.
            print(f"{name}: left out, it runs on processors of Intel alone", file=sys.stderr)
            continue
        before, started = resident(), time.perf_counter()
        index = build()
        seconds = time.perf_counter() - started
        index.set_effort(64)
        index.search(queries[:100], k)
        rows[name] = {"index": name, "build_s": round(seconds, 1)}
        rows[name]["memory_mb"] = round((resident() - before) / 1e6, 1)
        known = {}

        def recall(effort):
            if effort not in known:
                index.set_effort(effort)
                known[effort] = recall_of(index, base, queries, farthest, k)
            return known[effort]

        for target in TARGETS:
            if plan := least_effort(index, target, k, recall):
                plans.append((target, name, index, *plan))
        reached = [(target, plan[3]) for plan in plans if plan[1] == name for target in plan[:1]]
        print(f"{name}: built in {seconds:.1f} s; recall and effort: {reached}", file=sys.stderr)
    if arguments.unlike:
        for name, asked in unlike(base, queries).items():
            limits = farthest_true(base, asked, k)
            for index_name, index in {plan[1]: plan[2] for plan in plans}.items():
                index.set_effort(arguments.unlike)
                found = recall_of(index, base, asked, limits, k)
                rows[index_name][f"unlike_{name.replace(' ', '_')}"] = round(found, 4)
    best = {}
    for _ in range(arguments.rounds):
        for target, name, index, effort, _ in sorted(plans, key=lambda plan: plan[:2]):
            index.set_effort(effort)
            started = time.perf_counter()
            index.search(queries, k)
            rate = len(queries) / (time.perf_counter() - started)
            best[target, name] = max(rate, best.get((target, name), 0.0))
    for target, name, _, effort, recall_there in plans:
        rows[name][f"qps_{target}"] = round(best[target, name])
        rows[name][f"recall_{target}"] = round(recall_there, 4)
        rows[name][f"effort_{target}"] = effort
        if reference := best.get((target, "hnswlib")):
            rows[name][f"ratio_{target}"] = round(best[target, name] / reference, 2)
    return list(rows.values())


def show(rows):
    print(f"{'index':18}{'build s':>9}{'memory MB':>11}", end="")
    print("".join(f"{f'QPS {target}':>12}{'x hnswlib':>11}" for target in TARGETS))
    for row in rows:
        print(f"{row['index']:18}{row['build_s']:9.1f}{row['memory_mb']:11.1f}", end="")
        for target in TARGETS:
            rate, ratio = row.get(f"qps_{target}", "-"), row.get(f"ratio_{target}", "-")
            print(f"{rate:>12}{ratio:>11}", end="")
        print()
    for row in rows:
        found = {name[7:]: value for name, value in row.items() if name.startswith("unlike_")}
        if found:
            print(f"{row['index']}: recall of queries unlike any row: {found}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base", help="rows: npy, or npy.zst")
    parser.add_argument("--query", help="queries: npy, or npy.zst")
    parser.add_argument("--windows", metavar="DIR", help="a folder of VTS1 telemetry, instead of both")
    parser.add_argument("--source", default="smd", help="the source in it whose windows are the rows")
    parser.add_argument("--steps", type=int, default=8, help="how many observations a window has")
    parser.add_argument("--library", required=True, help="the library that cargo built in this folder")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", help="names of indexes; all when not given")
    parser.add_argument("--instant-effort", type=int, default=60, help="ef_search of instant-distance")
    parser.add_argument(
        "--unlike", type=int, metavar="EFFORT", help="also look for vectors unlike any row, with this effort"
    )
    parser.add_argument("--json", action="store_true", help="print rows as an array of objects")
    arguments = parser.parse_args()
    if not arguments.windows and not (arguments.base and arguments.query):
        parser.error("give --base and --query, or --windows")
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(arguments, scratch)
    print(json.dumps(rows, indent=1)) if arguments.json else show(rows)


if __name__ == "__main__":
    main()
