#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The table of CUDA kernels in docs/kernels.md, checked against the sources and against what ptxas says.

    kernel_table.py                      every kernel of kernels/cuda is in the table, and the tests named for it exist
    kernel_table.py --ptxas BUILD        besides: no kernel uses local memory or a stack, and each still fits into a multiprocessor as
                                         often as the table promises; by the compiler that the table names, with the registers
                                         that it gives, within TOLERANCE
    kernel_table.py --ptxas BUILD --update   writes the registers of this build into the table
    --compiler VERSION                   of nvcc: register counts differ between versions

BUILD is a build folder, whose *.ptxas files kernels/cuda/keep_output.sh has written. Exit code 1: something is wrong.
"""
import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "kernels.md"
ARCHITECTURES = ["sm_80", "sm_90a", "sm_100"]
REGISTERS = 65536  # of a multiprocessor, all architectures here
GRANULE = 256  # registers are given to warps in such pieces
TOLERANCE = 4
HEADER = ["kernel", "threads", "blocks", *ARCHITECTURES, "tests"]
ROW = re.compile(r"^\| `(?P<kernel>[^`]+)` \|(?P<cells>.*)\|$")


def read_table():
    """{kernel: {column: text}}, in the order of the file."""
    rows = {}
    for line in TABLE.read_text().splitlines():
        if match := ROW.match(line):
            cells = [cell.strip() for cell in match["cells"].split("|")]
            rows[match["kernel"]] = dict(zip(HEADER[1:], cells))
    return rows


def write_table(rows):
    lines = TABLE.read_text().splitlines()
    at = [i for i, line in enumerate(lines) if ROW.match(line)]
    made = [f"| `{kernel}` | " + " | ".join(row[column] for column in HEADER[1:]) + " |" for kernel, row in rows.items()]
    TABLE.write_text("\n".join(lines[: at[0]] + made + lines[at[-1] + 1 :]) + "\n")


def kernels_in_sources():
    return {name for path in (ROOT / "kernels" / "cuda").glob("*.cu*")
            for name in re.findall(r"^NS_KERNEL(?:_OF\([^)]*\))?\s+(\w+)\s*\(", path.read_text(), re.M)}


def tests_in_sources():
    found = set()
    for path in [*(ROOT / "tests" / "kernels").glob("*_test.cpp"), *(ROOT / "tests" / "model").glob("*_test.cpp")]:
        found |= {f"{suite}.{name}" for suite, name in re.findall(r"\bTEST(?:_[PF])?\(\s*(\w+),\s*(\w+)\s*\)", path.read_text())}
    return found


def check_coverage(rows):
    tests = tests_in_sources()
    listed = {kernel.split("<")[0] for kernel in rows}
    in_sources = kernels_in_sources()
    for kernel in sorted(in_sources - listed):
        yield f"{kernel} is not in {TABLE.name}: add a row with its threads and its tests"
    for kernel in sorted(listed - in_sources):
        yield f"{kernel} is in {TABLE.name}, but not in kernels/cuda"
    for kernel, row in rows.items():
        named = [test.strip() for test in row["tests"].split(",") if test.strip()]
        if not named:
            yield f"{kernel}: no test is named"
        for test in named:
            if test not in tests:
                yield f"{kernel}: there is no test {test}"


def demangled(names):
    out = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout.splitlines()
    plain = [re.sub(r"\(anonymous namespace\)::|nightshift::kernels::cuda::|^void ", "", name) for name in out]
    return [re.sub(r"\(.*\)$", "", re.sub(r"\((int|bool)\)", "", name)) for name in plain]


def read_ptxas(build):
    """[(kernel, architecture, registers, bytes of stack and spills)]"""
    text = "\n".join(path.read_text() for path in sorted(pathlib.Path(build).rglob("*.cu.o.ptxas"))
                     if path.with_suffix("").exists())
    entries = re.findall(r"Compiling entry function '(\w+)' for '(\w+)'(.*?)(?=Compiling entry function|\Z)", text, re.S)
    names = demangled([name for name, _, _ in entries])
    found = []
    for name, (_, architecture, body) in zip(names, entries):
        local = [int(n) for n in re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads|lmem)", body)]
        found.append((name, architecture, int(re.search(r"Used (\d+) registers", body)[1]), sum(local)))
    return found


def resident_blocks(registers, threads):
    per_warp = -(-registers * 32 // GRANULE) * GRANULE
    return REGISTERS // per_warp // (threads // 32)


def check_registers(rows, found, same_compiler):
    for kernel, architecture, registers, local in found:
        row = rows.get(kernel)
        if local > 0:
            yield f"{kernel}, {architecture}: {local} bytes of stack, spills and local memory"
        if row is None:
            yield f"{kernel}, {architecture}: {registers} registers, not in {TABLE.name}: add a row"
            continue
        if not (row["threads"].isdigit() and row["blocks"].isdigit()):
            yield f"{kernel}: the table lacks its threads, or the blocks that are to run at a time"
            continue
        blocks, promised = resident_blocks(registers, int(row["threads"])), int(row["blocks"])
        if blocks < promised:
            yield f"{kernel}, {architecture}: {registers} registers let {blocks} blocks run at a time, the table promises {promised}"
        known = row[architecture]
        if same_compiler and (not known.isdigit() or abs(registers - int(known)) > TOLERANCE):
            yield f"{kernel}, {architecture}: {registers} registers, the table has {known}: --update if that is meant"
    built = {(kernel, architecture) for kernel, architecture, _, _ in found}
    for kernel in rows:
        for architecture in sorted({architecture for _, architecture, _, _ in found}):
            if (kernel, architecture) not in built:
                yield f"{kernel}, {architecture}: in {TABLE.name}, but not in this build"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ptxas", metavar="BUILD")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--compiler", default="")
    options = parser.parse_args()
    rows = read_table()
    found = read_ptxas(options.ptxas) if options.ptxas else []
    if options.ptxas and not found:
        sys.exit(f"no *.cu.o.ptxas under {options.ptxas}: build nightshift_cuda first")
    if options.update:
        for kernel, architecture, registers, _ in found:
            rows.setdefault(kernel, dict.fromkeys(HEADER[1:], ""))[architecture] = str(registers)
        write_table(rows)
    findings = list(check_coverage(rows))
    major_minor = ".".join(options.compiler.split(".")[:2])
    findings += list(check_registers(rows, found, f"nvcc {major_minor}" in TABLE.read_text())) if options.ptxas else []
    print("\n".join(findings) if findings else f"{len(rows)} kernels, {len(found)} compiled: as the table says")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
