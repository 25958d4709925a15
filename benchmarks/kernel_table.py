"""The table of docs/kernels.md that says from machine code how near each kernel comes to a copy's bandwidth.

``--write`` puts it between the markers, ``--check`` says whether the table there is that of the sources. Neither needs
a GPU: nvcc compiles the CUDA kernels and Triton its own, each into ``build/machine_code`` under the hash of what it was
made from.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from machine_code import model, sass, variants

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "kernels.md"
CACHE = ROOT / "build" / "machine_code"
BEGIN, END = "<!-- machine code: begin -->", "<!-- machine code: end -->"
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
FACTS = 90  # the architecture whose registers and instructions the table names
HEADER = (
    "kernel", "loads", "stores", "registers", "warps", "KB in flight", "instructions per element",
    *(chip.name for chip in model.CHIPS.values()), "goal", "limits",
)  # fmt: skip

Row = dict[str, str]


@dataclass(frozen=True)
class Judged:
    """A variant in one architecture's code."""

    variant: variants.Variant
    kernel: sass.Kernel
    prediction: model.Prediction
    accesses: Counter[str]

    @property
    def reaches(self) -> bool:
        return self.variant.goal is None or self.prediction.share >= self.variant.goal


def core_kernels() -> list[sass.Kernel]:
    """The kernels of the built core; empty where it has none or the tools are missing."""
    found = sorted((ROOT / "fairtat").glob("_C*.so"))
    return [] if not found or sass.missing() else _read(found[0])


@cache
def _read(binary: Path) -> list[sass.Kernel]:
    return sass.kernels_of(binary, CACHE)


def compiled_kernels(arch: int) -> list[sass.Kernel]:
    """The kernels of csrc/cuda as nvcc compiles them for an architecture; empty without nvcc."""
    if NVCC is None:
        return []
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    headers = [*sorted((ROOT / "csrc").rglob("*.h")), ROOT / "csrc" / "ops.def"]
    version = subprocess.run([NVCC, "--version"], capture_output=True, check=True).stdout
    shared = version + b"".join(header.read_bytes() for header in headers)
    kernels = []
    for source in sources:
        digest = hashlib.sha256(shared + source.read_bytes()).hexdigest()[:32]
        cubin = CACHE / f"{source.stem}.{digest}.sm_{arch}.cubin"
        if not cubin.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            unfinished = cubin.with_suffix(f".{os.getpid()}")
            flags = ["-std=c++17", "-O3", "--fmad=false", f"-I{ROOT / 'csrc'}", f"-arch=sm_{arch}", "-cubin"]
            subprocess.run([NVCC, *flags, "-o", str(unfinished), str(source)], check=True)
            unfinished.replace(cubin)
        kernels += _read(cubin)
    return kernels


def triton_kernels(arch: int) -> list[sass.Kernel]:
    """The Triton kernels of the variants, compiled ahead of time in another process; each under its call's name."""
    script = ROOT / "tests" / "kernels" / "compile_ahead.py"
    sources = [*sorted((ROOT / "kernels").glob("*.py")), ROOT / "fairtat" / "backends" / "triton.py", script]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:32]
    folder = CACHE / f"triton.{digest}.sm_{arch}"
    if not folder.exists():
        unfinished = folder.with_suffix(f".{os.getpid()}")
        unfinished.mkdir(parents=True)
        environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT / "tests" / "shared")}
        calls = ",".join(variant.kernel for variant in variants.TRITON)
        command = [sys.executable, str(script), f"cuda:{arch}", "--exactly", calls, "--cubins", str(unfinished)]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        unfinished.replace(folder)
    kernels = []
    for cubin in sorted(folder.glob("*.cubin")):
        (kernel,) = _read(cubin)
        kernels.append(sass.renamed(kernel, cubin.stem))
    return kernels


def judge(kernels: Iterable[sass.Kernel], wanted: Sequence[variants.Variant]) -> list[Judged]:
    """Each variant in each of these kernels that has it."""
    by_name = {(kernel.name, kernel.arch): kernel for kernel in kernels}
    judged = []
    for variant in wanted:
        for arch in model.CHIPS:
            kernel = by_name.get((variant.kernel, arch))
            if kernel is not None:
                way = kernel.path(variant.accesses)
                accesses = Counter(filter(None, (i.access for i in way)))
                prediction = model.predict(
                    kernel,
                    way,
                    elements=variant.elements,
                    moved=variant.moved,
                    requested=_loaded(variant.accesses if variant.names_loads else accesses),
                    total=variant.total,
                    threads=variant.threads,
                    phases=variant.phases,
                )
                judged.append(Judged(variant, kernel, prediction, accesses))
    return judged


def _loaded(accesses: Mapping[str, int]) -> int:
    """Bytes of the loads from global memory."""
    return sum(n * int(kind[4:]) // 8 for kind, n in accesses.items() if kind.startswith("LDG."))


def rows(judged: Iterable[Judged]) -> list[Row]:
    """A row for each variant, with the columns for which its code is there."""
    found: dict[str, Row] = {}
    for each in judged:
        row = found.setdefault(each.variant.label, {"kernel": each.variant.label})
        prediction = each.prediction
        row[model.CHIPS[each.kernel.arch].name] = f"{100 * prediction.share:.0f}%"
        if each.kernel.arch == FACTS:
            row |= {
                "loads": _widths(each.accesses, "LDG"),
                "stores": _widths(each.accesses, "STG"),
                "registers": str(each.kernel.registers),
                "warps": str(prediction.warps),
                "KB in flight": f"{prediction.in_flight / 1024:.0f} of {prediction.needed / 1024:.0f}",
                "instructions per element": f"{prediction.instructions:.1f}",
                "goal": "-"
                if each.variant.goal is None
                else ("reached" if each.reaches else f"{each.variant.goal:.0%}: missed"),
                "limits": prediction.limit,
            }
    return list(found.values())


def _widths(accesses: Counter[str], stem: str) -> str:
    """3 x 128, 2 x 32: how many accesses of how many bits."""
    widths = {int(kind.partition(".")[2]): n for kind, n in accesses.items() if kind.startswith(f"{stem}.")}
    return ", ".join(f"{widths[bits]} x {bits}" for bits in sorted(widths, reverse=True))


def faults(kernels: Iterable[sass.Kernel]) -> dict[str, set[str]]:
    """What slows kernels down whatever their way: fault -> names of kernels, on any architecture."""
    found: dict[str, set[str]] = {
        "spills": set(),
        "divides 64-bit integers in a loop": set(),
        "adds in a compare-and-swap loop": set(),
    }
    for kernel in kernels:
        judged = (kernel.spilled > 0, kernel.divides_in_a_loop, kernel.spins)
        for fault, has in zip(found, judged, strict=True):
            if has:
                found[fault].add(re.sub(r"<.*", "", kernel.name))
    return found


def render(cuda: Sequence[sass.Kernel], triton: Sequence[sass.Kernel]) -> str:
    """The table and the sentences around it, as markdown."""
    judged = judge(cuda, variants.CUDA)
    (release,) = {each.kernel.compiler for each in judged}
    lines = [
        f"Machine code of nvcc {release}; registers, warps, bytes in flight and instructions on an H100 (sm_{FACTS}).",
        "",
    ]
    for title, each in (("CUDA", judged), ("Triton", judge(triton, variants.TRITON))):
        header = (f"{title} kernel", *HEADER[1:])
        lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(row.get(name, "-") for name in HEADER) + " |" for row in rows(each)]
        lines.append("")
    return "\n".join([*lines, *fault_lines(cuda)])


def fault_lines(kernels: Iterable[sass.Kernel]) -> list[str]:
    """`faults` as markdown."""
    return [
        f"- {fault}: {', '.join(f'`{n}`' for n in sorted(names)) or 'none'}" for fault, names in faults(kernels).items()
    ]


def written(page: Path = PAGE) -> str:
    """The table as the page has it."""
    return page.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def release_of(table: str) -> str:
    """The compiler's release for which a table was made."""
    found = re.search(r"Machine code of nvcc ([\d.]+)", table)
    assert found is not None
    return found[1]


def parsed(table: str) -> dict[str, Row]:
    """The rows of a rendered table, by title and kernel."""
    found: dict[str, Row] = {}
    title = ""
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(HEADER) and cells[0].endswith(" kernel"):
            title = cells[0].removesuffix(" kernel")
        elif len(cells) == len(HEADER) and not line.startswith("|---"):
            found[f"{title}: {cells[0]}"] = dict(zip(HEADER, cells, strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="put the table on the page")
    action.add_argument("--check", action="store_true", help="fail where the page has another table")
    given = parser.parse_args()
    if NVCC is None or sass.missing():
        raise SystemExit(sass.missing() or "nvcc is not on this machine")
    cuda = [kernel for arch in model.CHIPS for kernel in compiled_kernels(arch)]
    triton = [kernel for arch in model.CHIPS for kernel in triton_kernels(arch)]
    table = render(cuda, triton)
    if given.check:
        if table != written():
            raise SystemExit(f"{PAGE.name} has another table: python benchmarks/kernel_table.py --write")
        return
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
