"""Reads the machine code of CUDA kernels: instructions, control flow, and what a kernel occupies.

The tools are those that Triton ships (``cuobjdump``, ``nvdisasm``), else those of a CUDA toolkit; nothing is compiled
here: a built ``fairtat._C`` holds the code of every architecture that it was built for. Disassembling takes seconds, so
listings are kept in ``build/machine_code`` under the hash of what they list.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

INSTRUCTION = re.compile(r"/\*[0-9a-f]+\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*)")
TABLE = re.compile(r"BRANCH_TARGETS ([^\"]*)")  # of an indirect branch
LABEL = re.compile(r"^([.$\w]+):$")
TARGET = re.compile(r"`\(([^)]+)\)")
DIVISION = re.compile(r"__cuda_\w*(?:div|rem)_[su]64")  # nvcc's subroutines: 64-bit integers have no instruction


def tool(name: str) -> Path | None:
    """Path of a CUDA binary utility, or None where neither Triton nor a toolkit has it."""
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        shipped = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name
        if shipped.exists():
            return shipped
    found = shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")
    return None if found is None else Path(found)


def missing() -> str | None:
    """Why machine code cannot be read here, or None."""
    for name in ("cuobjdump", "nvdisasm"):
        if tool(name) is None:
            return f"{name} is not on this machine: pip install triton, or a CUDA toolkit"
    return None if shutil.which("c++filt") else "c++filt is not on this machine (binutils)"


@dataclass(frozen=True)
class Instruction:
    """One machine instruction of a warp."""

    opcode: str  # with its modifiers, such as LDG.E.128
    guard: str | None  # the predicate under which it takes effect
    operands: str
    targets: tuple[str, ...] = ()  # labels that it may jump to

    @property
    def stem(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def width(self) -> int:
        """Bits that a load or a store moves for each thread."""
        found = re.search(r"\.(?:U|S)?(8|16|64|128|256)\b", self.opcode.replace(".E.", ".").replace(".64]", ""))
        return int(found[1]) if found else 32

    @property
    def access(self) -> str | None:
        """Such as LDG.128: a load or store of memory that the blocks or the threads of one share, and its width."""
        return f"{self.stem}.{self.width}" if self.stem in ("LDG", "STG", "LDS", "STS") else None


@dataclass(frozen=True)
class Block:
    """Instructions without a branch among them, and the blocks that may come next."""

    instructions: tuple[Instruction, ...]
    following: tuple[int, ...]
    leaves: bool  # may end the thread


@dataclass(frozen=True)
class Kernel:
    """One kernel of one architecture."""

    name: str  # as in the source: pgd_step_linf::linf_kernel<float, 4>
    arch: int  # 90 for sm_90
    compiler: str  # release of ptxas, such as 13.0
    registers: int  # of a thread
    shared: int  # static bytes of a block
    spilled: int  # bytes of local memory
    lines: tuple[str, ...]  # of the listing, without the subroutines behind the kernel

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return _control_flow(self.lines)

    @property
    def divisions(self) -> int:
        """Calls of a subroutine that divides 64-bit integers."""
        return sum(_is_division(i) for i in self.instructions)

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        return tuple(i for block in self.blocks for i in block.instructions)

    @cached_property
    def loops(self) -> list[tuple[int, frozenset[int]]]:
        """(header, body) of each natural loop, smallest first."""
        dominators = self._dominators()
        found: dict[int, set[int]] = {}
        for tail, block in enumerate(self.blocks):
            for header in block.following:
                if header in dominators.get(tail, ()):
                    found.setdefault(header, {header}).update(self._reaching(tail, header))
        return sorted(((h, frozenset(body)) for h, body in found.items()), key=lambda loop: len(loop[1]))

    @property
    def spins(self) -> bool:
        """Whether an atomic addition is a loop around compare-and-swap."""
        swaps = {
            i
            for i, b in enumerate(self.blocks)
            if any(x.opcode.startswith(("ATOMS.CAS", "ATOM.E.CAS", "ATOMG.E.CAS")) for x in b.instructions)
        }
        return any(swaps & body for _, body in self.loops)

    @property
    def divides_in_a_loop(self) -> bool:
        """Whether a loop calls a subroutine that divides 64-bit integers."""
        calls = {i for i, b in enumerate(self.blocks) if any(_is_division(x) for x in b.instructions)}
        return any(calls & body for _, body in self.loops)

    def path(self, accesses: Mapping[str, int]) -> list[Instruction]:
        """The shortest way through the kernel with these accesses to memory: LDG.128 and so on -> how often.

        One round of the innermost loop that has such a way, else the whole kernel. Kinds of access that are not named
        may occur. What the shortest way leaves out runs rarely: a division's slow path, values out of the ordinary.

        Raises:
            ValueError: the kernel has no such way.
        """
        for header, body in self.loops:
            found = self._shortest(header, body, accesses, back_to=header)
            if found is not None:
                return found
        found = self._shortest(0, frozenset(range(len(self.blocks))), accesses, back_to=None)
        if found is None:
            raise ValueError(f"no way through {self.name} of sm_{self.arch} has the accesses {dict(accesses)}")
        return found

    def _shortest(
        self, start: int, body: frozenset[int], accesses: Mapping[str, int], back_to: int | None
    ) -> list[Instruction] | None:
        kinds = tuple(accesses)
        made = [Counter(i.access for i in block.instructions) for block in self.blocks]
        queue: list[tuple[int, int, tuple[int, ...], tuple[int, ...]]] = [(0, start, (0,) * len(kinds), ())]
        seen = set()
        while queue:
            cost, at, before, way = heapq.heappop(queue)
            if (at, before) in seen:
                continue
            seen.add((at, before))
            block = self.blocks[at]
            done = tuple(n + made[at][kind] for n, kind in zip(before, kinds, strict=True))
            if any(n > accesses[kind] for n, kind in zip(done, kinds, strict=True)):
                continue
            cost += len(block.instructions) + sum(SLOW_CALL for i in block.instructions if i.stem == "CALL")
            complete = all(n == accesses[kind] for n, kind in zip(done, kinds, strict=True))
            way = (*way, at)
            if complete and (back_to in block.following if back_to is not None else block.leaves):
                return [i for b in way for i in self.blocks[b].instructions]
            for following in block.following:
                if following in body and following != back_to:
                    heapq.heappush(queue, (cost, following, done, way))
        return None

    def _dominators(self) -> dict[int, set[int]]:
        order, stack, seen = [], [(0, iter(self.blocks[0].following))], {0}
        while stack:  # postorder, without recursion
            at, rest = stack[-1]
            following = next((f for f in rest if f not in seen), None)
            if following is None:
                order.append(at)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(self.blocks[following].following)))
        order.reverse()
        before = self._preceding
        dominators = {0: {0}}
        changed = True
        while changed:
            changed = False
            for at in order[1:]:
                known = [dominators[p] for p in before[at] if p in dominators]
                new = set.intersection(*known) | {at}
                if dominators.get(at) != new:
                    dominators[at], changed = new, True
        return dominators

    @cached_property
    def _preceding(self) -> dict[int, set[int]]:
        before: dict[int, set[int]] = {i: set() for i in range(len(self.blocks))}
        for i, block in enumerate(self.blocks):
            for following in block.following:
                before[following].add(i)
        return before

    def _reaching(self, tail: int, header: int) -> set[int]:
        body, stack = {header, tail}, [tail] if tail != header else []
        while stack:
            for previous in self._preceding[stack.pop()] - body:
                body.add(previous)
                stack.append(previous)
        return body


SLOW_CALL = 200  # instructions of a subroutine, so that the shortest way avoids it


def kernels_of(binary: Path, cache: Path) -> list[Kernel]:
    """Every kernel in a library, an executable or a ``.cubin``, for every architecture in it."""
    with tempfile.TemporaryDirectory() as folder:
        if binary.suffix == ".cubin":
            cubins = [binary.resolve()]
        else:
            _run(["cuobjdump", "-xelf", "all", str(binary.resolve())], cwd=folder)
            cubins = sorted(Path(folder).glob("*.cubin"))
        return [kernel for cubin in cubins for kernel in _kernels_of_cubin(cubin, cache)]


def renamed(kernel: Kernel, name: str) -> Kernel:
    """The same code under another name."""
    return replace(kernel, name=name)


def _kernels_of_cubin(cubin: Path, cache: Path) -> Iterator[Kernel]:
    usage = dict(re.findall(r"Function (\S+):\n\s+(REG:.*)", _run(["cuobjdump", "--dump-resource-usage", str(cubin)])))
    listing = _listing(cubin, cache)
    release = re.search(rb"ptxas\0Cuda compilation tools, release ([\d.]+)", cubin.read_bytes())
    arch = re.search(rb"(?:-arch|\.target) sm_(\d+)", cubin.read_bytes())
    assert arch is not None, cubin
    bodies = _bodies(listing)
    plain = subprocess.run(["c++filt"], input="\n".join(usage), capture_output=True, text=True, check=True).stdout
    for name, demangled in zip(usage, plain.splitlines(), strict=True):
        numbers = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", usage[name])}
        yield Kernel(
            name=_short(name, demangled),
            arch=int(arch[1]),
            compiler=release[1].decode() if release else "unknown",
            registers=numbers["REG"],
            shared=numbers["SHARED"],
            spilled=numbers["STACK"] + numbers["LOCAL"],
            lines=tuple(bodies[name]),
        )


def _short(mangled: str, demangled: str) -> str:
    """pgd_step_linf::linf_kernel<float, 4> for a kernel of pgd_step_linf.cu; what is no C++ name stays."""
    demangled = re.sub(r"\(fairtat::(\w+)\)(\d)", r"\1(\2)", demangled)  # a template's argument that is an enumerator
    found = re.search(r"\(anonymous namespace\)::(.*?)\(fairtat::", demangled)
    source = re.search(r"_\d+_([a-z]\w*?)_cu_", mangled)
    if found is None or source is None:
        return demangled
    plain = re.sub(r"fairtat::(?:device|cuda)::|\(anonymous namespace\)::|^void ", "", found[1])
    return f"{source[1]}::{plain}"


def _listing(cubin: Path, cache: Path) -> str:
    kept = cache / f"{hashlib.sha256(cubin.read_bytes()).hexdigest()[:32]}.sass.gz"
    if not kept.exists():
        text = _run(["nvdisasm", "-c", str(cubin)])
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(gzip.compress(text.encode(), compresslevel=1))
        unfinished.replace(kept)
    return gzip.decompress(kept.read_bytes()).decode()


def _run(command: list[str], cwd: str | None = None) -> str:
    found = tool(command[0])
    assert found is not None, missing()
    return subprocess.run([str(found), *command[1:]], cwd=cwd, capture_output=True, text=True, check=True).stdout


def _bodies(listing: str) -> dict[str, list[str]]:
    """The lines of each kernel, by its mangled name, without the subroutines that nvcc puts behind it."""
    bodies = {}
    for section in listing.split("\n//-----")[1:]:
        _, _, text = section.partition("\n.text.")
        name, _, code = text.partition(":\n")
        lines = [line.strip() for line in code.split("\n$", 1)[0].split("\n")]
        if text:
            bodies[name] = lines
    return bodies


def _is_division(instruction: Instruction) -> bool:
    return instruction.stem == "CALL" and DIVISION.search(instruction.operands) is not None


def _control_flow(lines: tuple[str, ...]) -> tuple[Block, ...]:
    """Blocks and their successors."""
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in lines:
        if label := LABEL.match(line):
            labels[label[1]] = len(code)
        elif found := INSTRUCTION.match(line):
            guard, opcode, operands = found.groups()
            table = TABLE.search(line)
            targets = tuple(table[1].split(",")) if table else tuple(TARGET.findall(operands))
            code.append(Instruction(opcode, guard, operands, targets))
    # A BSYNC goes where the BSSY of the same barrier says.
    joins: dict[int, int] = {}
    barrier_of: dict[str, str] = {}
    for i, instruction in enumerate(code):
        barrier = instruction.operands.partition(",")[0].strip()
        if instruction.stem == "BSSY":
            barrier_of[barrier] = instruction.targets[0]
        elif instruction.stem == "BSYNC" and barrier in barrier_of:
            joins[i] = labels.get(barrier_of[barrier], i + 1)
    jumps = {"BRA", "BRX", "JMP", "BSYNC", "EXIT", "RET"}
    starts = {0, *labels.values(), *(i + 1 for i, x in enumerate(code) if x.stem in jumps)}
    starts = {s for s in starts if s < len(code)}
    order = sorted(starts)
    index = {start: k for k, start in enumerate(order)}
    blocks = []
    for k, start in enumerate(order):
        stop = order[k + 1] if k + 1 < len(order) else len(code)
        last = code[stop - 1]
        always = last.guard is None and (last.stem != "BRA" or last.operands.startswith("`"))
        following: list[int] = []
        if last.stem in ("BRA", "BRX", "JMP"):
            following += [labels[t] for t in last.targets if t in labels]
        elif last.stem == "BSYNC" and joins.get(stop - 1, stop - 1) != stop - 1:
            following.append(joins[stop - 1])
        else:
            always = always and last.stem in ("EXIT", "RET")
        if not always:
            following.append(stop)
        leaves = last.stem in ("EXIT", "RET")
        reached = tuple(dict.fromkeys(index[f] for f in following if f in index))
        blocks.append(Block(tuple(code[start:stop]), reached, leaves))
    return tuple(blocks)
