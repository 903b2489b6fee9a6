#!/usr/bin/env python3
"""Measures how small telemetry gets in Parquet and SZ3, and prints that beside `dunlin bench compression`.

Both are measured as `dunlin bench compression` measures the codecs that are built into it: bytes of the values as
32-bit floats over bytes stored, summed over the entities of a set; times are not stored; errors in shares of each
channel's range. Parquet holds one entity in one file, a column for each channel. SZ3 gets the channels of an entity in
shares of their ranges, as one stream each and all as one: what is less counts, without the file around it.
"""

import argparse
import io
import json
import os
import subprocess
import sys

import h5py
import hdf5plugin
import numpy as np
import pyarrow
import pyarrow.parquet
import zstandard

BOUNDS = (0.01, 0.05, 0.1)
ZSTD_LEVEL = 19
COLUMNS = ("set", "codec", "bound", "ratio", "nrmse", "r2", "max_error", "segments")


def series(folder):
    """Yields each entity's set and its channels, one a row, from telemetry in the VTS1 format."""
    with open(os.path.join(folder, "manifest.json")) as file:
        entities = json.load(file)["entities"]
    for entity in entities:
        shape = (entity["columns"], entity["rows"])
        with open(os.path.join(folder, entity["file"]), "rb") as file:
            raw = zstandard.ZstdDecompressor().decompress(file.read(), 4 * shape[0] * shape[1])
        # The last column is the label.
        values = np.frombuffer(raw, "<i4").reshape(shape)[:-1] * entity["scale"]
        yield entity["source"].lower(), values.astype(np.float32)


def parquet(channels):
    """Returns the bytes of the channels as a Parquet file, and what is read back."""
    table = pyarrow.table({str(number): channel for number, channel in enumerate(channels)})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, compression="zstd", compression_level=ZSTD_LEVEL)
    columns = pyarrow.parquet.read_table(file).columns
    return file.getbuffer().nbytes, np.stack([column.to_numpy() for column in columns])


def sz3(shares, bound):
    """Returns the bytes of the channels in SZ3, and what is read back; all are in shares of their ranges."""
    results = [sz3_streams(streams, bound) for streams in (shares, shares.reshape(1, -1))]
    return min(results, key=lambda result: result[0])


def sz3_streams(streams, bound):
    with h5py.File.in_memory() as file:
        for number, stream in enumerate(streams):
            codec = hdf5plugin.SZ3(absolute=bound)
            file.create_dataset(str(number), data=stream, chunks=stream.shape, **codec)
        stored = [file[str(number)] for number in range(len(streams))]
        return sum(one.id.get_storage_size() for one in stored), np.concatenate([one[:] for one in stored])


class Tally:
    """What one codec did on the entities of one set."""

    def __init__(self):
        self.raw = self.bytes = 0
        self.results = []

    def add(self, channels, widths, byte_count, back):
        errors = (channels.astype(np.float64) - back) / widths[:, None]
        deviations = (channels - channels.mean(axis=1, dtype=np.float64)[:, None]) / widths[:, None]
        squares = (errors**2).sum()
        r2 = 1.0 - squares / (deviations**2).sum()
        self.raw += channels.nbytes
        self.bytes += byte_count
        self.results.append(((squares / errors.size) ** 0.5, r2, np.abs(errors).max()))

    def row(self, name, codec, bound):
        nrmse, r2, error = zip(*self.results)
        figures = {"ratio": self.raw / self.bytes, "nrmse": np.mean(nrmse), "r2": np.mean(r2), "max_error": max(error)}
        figures = {key: float(value) for key, value in figures.items()}
        return {"set": name, "codec": codec, "bound": bound, **figures, "segments": None}


def measured(folder):
    """Returns the rows of Parquet and SZ3."""
    tallies = {}
    for name, channels in series(folder):
        widths = np.ptp(channels, axis=1).astype(np.float64)
        # A constant channel has no range; one unit stands for it.
        widths[widths == 0] = 1.0
        shares = (channels / widths[:, None]).astype(np.float32)
        for bound in (None, *BOUNDS):
            codec = "sz3" if bound else "parquet-zstd-19"
            byte_count, back = sz3(shares, bound) if bound else parquet(channels)
            back = back.reshape(channels.shape) * (widths[:, None] if bound else 1.0)
            tallies.setdefault((name, codec, bound), Tally()).add(channels, widths, byte_count, back)
        print(f"{name}: {channels.shape[1]} rows of {channels.shape[0]} channels done", file=sys.stderr)
    return [tally.row(*key) for key, tally in tallies.items()]


def text(value):
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, metavar="DIR", help="telemetry in the VTS1 format")
    parser.add_argument("--dunlin", default="dunlin", metavar="PROGRAM", help="a release build (default: %(default)s)")
    parser.add_argument("--only-others", action="store_true", help="do not run `dunlin bench compression`")
    parser.add_argument("--json", action="store_true", help="print the rows as an array of objects")
    arguments = parser.parse_args()
    rows = measured(arguments.data)
    if not arguments.only_others:
        command = [arguments.dunlin, "bench", "compression", "--data", arguments.data, "--json"]
        rows += json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    rows.sort(key=lambda row: row["set"])
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    lines = [COLUMNS] + [tuple(text(row[column]) for column in COLUMNS) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


if __name__ == "__main__":
    main()
