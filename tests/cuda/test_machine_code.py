"""The machine code of the built core: what makes its kernels limited by memory, read without a GPU."""

from __future__ import annotations

import re
import shutil

import kernel_table
import pytest
from machine_code import model, sass, variants
from machine_code.sass import Instruction, Kernel

from fairtat import backends


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    """The built core's, for those of the table's architectures that it was built for."""
    info = backends.native_info()
    if info is None or not info["cuda"]:
        pytest.skip("this build has no CUDA kernels")
    if sass.missing():
        pytest.skip(str(sass.missing()))
    found = [kernel for kernel in kernel_table.core_kernels() if kernel.arch in model.CHIPS]
    if not found:
        pytest.skip("the core holds no code for an architecture of the table")
    return found


def test_no_kernel_spills(kernels: list[Kernel]) -> None:
    to_local = [k for k in kernels if any(re.search(r"\b(?:LDL|STL)\b", line) for line in k.lines)]
    assert [(k.name, k.arch) for k in (*to_local, *(k for k in kernels if k.spilled))] == []


def test_every_variant_moves_whole_vectors_and_reaches_its_goal(kernels: list[Kernel]) -> None:
    judged = kernel_table.judge(kernels, variants.CUDA)
    assert {each.variant.label for each in judged} == {variant.label for variant in variants.CUDA}
    for each in judged:
        about = (each.variant.label, each.kernel.arch, each.prediction)
        if each.kernel.arch in (80, 90):
            assert each.reaches, about
        assert each.prediction.in_flight > each.prediction.needed, about
        assert not each.kernel.divides_in_a_loop, about
        # Each element is read and written once, parameters apart.
        if "Linf" in each.variant.label:
            assert each.prediction.warps >= 48, about  # of 64, or all of an RTX's
        if each.variant.names_loads:
            named = {kind: n for kind, n in each.accesses.items() if kind in each.variant.accesses and kind[2] == "G"}
            moved = sum(n * int(kind.partition(".")[2]) // 8 for kind, n in named.items())
            # A row's last vectors can lie beyond it.
            assert 1 <= moved / (each.variant.moved * each.variant.elements) < 1.03, about


def test_the_page_shows_what_the_core_was_compiled_to(kernels: list[Kernel]) -> None:
    page = kernel_table.written()
    ours = {kernel.compiler for kernel in kernels}
    if ours != {kernel_table.release_of(page)}:
        pytest.skip(
            f"the page has the code of nvcc {kernel_table.release_of(page)}, the core of {', '.join(sorted(ours))}"
        )
    shown = kernel_table.parsed(page)
    rows = kernel_table.rows(kernel_table.judge(kernels, variants.CUDA))
    assert len(rows) == sum(key.startswith("CUDA: ") for key in shown)
    for row in rows:
        of_page = shown[f"CUDA: {row['kernel']}"]
        assert {name: of_page[name] for name in row} == row, "python benchmarks/kernel_table.py --write"
    if any(kernel.arch == kernel_table.FACTS for kernel in kernels):
        assert kernel_table.fault_lines(kernels) == [line for line in page.splitlines() if line.startswith("- ")]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no CUDA compiler on this machine")
def test_the_whole_page(kernels: list[Kernel], monkeypatch: pytest.MonkeyPatch) -> None:
    if {kernel.compiler for kernel in kernels} != {kernel_table.release_of(kernel_table.written())}:
        pytest.skip("the page was made with another nvcc")
    monkeypatch.setattr("sys.argv", ["kernel_table.py", "--check"])
    kernel_table.main()


LISTING = """
/*0000*/ S2R R0, SR_TID.X ;
/*0010*/ @P0 BRA `(.L_x_3) ;
.L_x_0:
/*0020*/ LDG.E.128 R4, desc[UR4][R2.64] ;
/*0030*/ ISETP.NE.AND P1, PT, R8, RZ, PT ;
/*0040*/ @!P1 BRA `(.L_x_1) ;
/*0050*/ CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_s64) ;
/*0060*/ BRA `(.L_x_2) ;
.L_x_1:
/*0070*/ IMAD R8, R8, R9, RZ ;
/*0080*/ IMAD R8, R8, R9, RZ ;
.L_x_2:
/*0090*/ STG.E.128 desc[UR4][R2.64], R4 ;
/*00a0*/ @!P2 BRA `(.L_x_0) ;
.L_x_3:
/*00b0*/ EXIT ;
"""


def kernel_of(listing: str, registers: int = 32, arch: int = 90) -> Kernel:
    lines = tuple(line.strip() for line in listing.splitlines())
    return Kernel("test", arch, "13.0", registers, shared=0, spilled=0, lines=lines)


def test_the_way_of_a_round_is_the_shortest_with_the_accesses() -> None:
    kernel = kernel_of(LISTING)
    way = [i.opcode for i in kernel.path({"LDG.128": 1, "STG.128": 1})]
    assert way == ["LDG.E.128", "ISETP.NE.AND", "BRA", "IMAD", "IMAD", "STG.E.128", "BRA"]
    with pytest.raises(ValueError, match=r"no way through test of sm_90 has the accesses \{'STG.64': 1\}"):
        kernel.path({"STG.64": 1})


def test_a_division_counts_where_it_is_in_a_loop() -> None:
    assert kernel_of(LISTING).divides_in_a_loop
    once = kernel_of(LISTING.replace("@!P2 BRA `(.L_x_0)", "NOP"))
    assert once.divisions == 1
    assert not once.divides_in_a_loop


def test_an_atomic_addition_by_compare_and_swap_is_seen() -> None:
    swap = LISTING.replace("IMAD R8, R8, R9, RZ ;", "ATOMS.CAS.64 R8, [R9], R4, R6 ;", 1)
    assert kernel_of(swap).spins
    assert not kernel_of(swap.replace("ATOMS.CAS.64", "ATOMS.ADD")).spins


def test_a_branch_to_itself_after_the_end_is_no_part_of_the_way() -> None:
    trap = kernel_of(LISTING + ".L_x_4:\n/*00c0*/ BRA `(.L_x_4) ;\n")
    assert trap.path({"STG.128": 1}) == kernel_of(LISTING).path({"STG.128": 1})


@pytest.mark.parametrize(
    ("opcode", "bits"),
    [("LDG.E", 32), ("LDG.E.64", 64), ("LDG.E.128.CONSTANT", 128), ("STG.E.U16", 16), ("LDG.E.U8", 8)],
)
def test_the_width_of_an_access(opcode: str, bits: int) -> None:
    assert Instruction(opcode, None, "").width == bits


# Multiprocessors of 64 warps and 65536 registers, of which a warp takes multiples of 256 (CUDA's occupancy calculator).
@pytest.mark.parametrize(("registers", "warps"), [(32, 64), (33, 48), (40, 48), (64, 32), (255, 8)])
def test_occupancy_by_registers(registers: int, warps: int) -> None:
    assert model.resident_warps(kernel_of(LISTING, registers), threads=256, shared=0) == warps


def test_occupancy_by_threads_and_shared_memory() -> None:
    assert model.resident_warps(kernel_of(LISTING, 32), threads=32, shared=0) == 32  # as many blocks as there may be
    assert model.resident_warps(kernel_of(LISTING, 16), threads=1024, shared=100 * 1024) == 64


def test_what_moves_nothing_but_memory_is_a_copy_and_arithmetic_costs() -> None:
    def share(arithmetic: int, registers: int = 32) -> float:
        kernel = kernel_of(LISTING, registers)
        way = kernel.path({"STG.128": 1}) + [Instruction("IADD3", None, "")] * arithmetic
        return model.predict(kernel, way, elements=4, moved=8, requested=16, total=10**8, threads=256).share

    assert 0.99 < share(0) < 1
    shares = [share(n) for n in (0, 50, 100, 200, 400)]
    assert shares == sorted(shares, reverse=True)
    # 64 integer lanes: 1000 additions of 32 threads take 500 clocks.
    bound = 4 * 8 * 32 / (model.COPY * 3.35e12 / 132 / 1.755e9) / 500
    assert 0.97 * bound < share(1000) < bound
    assert share(0, registers=255) < share(0)
